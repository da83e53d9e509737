"""Running ONNX models: sessions, threads, cores, input checks."""
