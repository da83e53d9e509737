"""From a finished run to a bundle: Keras → ONNX, a clean graph, and parity that is enforced."""
