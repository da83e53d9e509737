"""One ONNX model as a function on arrays. The only import of onnxruntime in `service/`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from common.arrays import Array
from common.errors import BundleDamagedError

# A model that takes one core so long for one image shares a single image among all cores. Waking
# a second thread for each layer costs about 100 µs an image: on two cores an image of 136 µs then
# takes 139, one of 350 gains nothing, one of 760 takes 530 (benchmarks/LOG.md).
MULTITHREAD_MIN_SECONDS = 500e-6  # seconds
MAX_THREADS = 4  # threads; a layer of one image has not much to share
TRIES = 5


class Session:
    """One model on a session of one thread and, where an image is work enough, on one of many.

    Attributes:
        row_shape: shape of one row of its output.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Load the model; measure a row where there are `threads` to share it."""
        self._session = _session(path, threads=1)
        self._multithreaded: Any = None
        sources = self._session.get_inputs()
        self._inputs = [entry.name for entry in sources]
        output = self._session.get_outputs()[0]
        self._outputs = [output.name]
        self.row_shape: tuple[int, ...] = tuple(output.shape[1:])
        if threads > 1 and self._seconds(sources) >= MULTITHREAD_MIN_SECONDS:
            self._multithreaded = _session(path, threads=min(threads, MAX_THREADS))

    @property
    def multithreaded(self) -> bool:
        """Whether there is a second session, on several threads."""
        return self._multithreaded is not None

    def __call__(
        self, *batch: Array, multithreaded: bool = False, out: Array | None = None
    ) -> Array:
        """Run the model.

        Args:
            batch: float32 (n, …), one array for each input, in the model's order.
            multithreaded: use several threads, which is faster for few rows while no other call
                runs.
            out: where to write the output: float32 (n, *row_shape), contiguous, sharing no memory
                with the inputs, which a model may read again after it has written.

        Returns:
            float32 (n, *row_shape).
        """
        session = self._session
        if multithreaded and self._multithreaded is not None:
            session = self._multithreaded
        if out is None:
            outputs: Any = session.run(self._outputs, dict(zip(self._inputs, batch, strict=True)))
            return np.asarray(outputs[0])
        binding = session.io_binding()
        for name, rows in zip(self._inputs, batch, strict=True):
            binding.bind_input(name, "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
        binding.bind_output(self._outputs[0], "cpu", 0, np.float32, out.shape, out.ctypes.data)
        session.run_with_iobinding(binding)
        return out

    def _seconds(self, sources: Any) -> float:
        """Seconds per row on one thread, best of TRIES after a warm-up; 0.0 if it cannot run.

        The golden outputs tell why it cannot.
        """
        times = []
        try:
            rows = [np.zeros((1, *source.shape[1:]), np.float32) for source in sources]
            for _ in range(1 + TRIES):
                begin = time.perf_counter()
                self(*rows)
                times.append(time.perf_counter() - begin)
        except Exception:  # onnxruntime's own exception types are not public
            return 0.0
        return min(times[1:])


def _session(path: Path, *, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # warnings would reach the server's log at every start
    # Threads wait busily for the next layer, but not for the next image.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return ort.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # onnxruntime's own exception types are not public
        raise BundleDamagedError(
            f"{path} does not load in ONNX Runtime {ort.__version__} ({exc})",
            expected="a model that this runtime reads",
            hint="Export the run again, or install the onnxruntime that the manifest names.",
        ) from exc
