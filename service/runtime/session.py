"""One ONNX model as a function on arrays. The only import of onnxruntime in `service/`."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from common.arrays import Array
from common.errors import BundleDamagedError
from service.runtime import fork

# Seconds per image on one thread from which a single image is shared by several threads. Waking a
# second thread for each layer costs about 100 µs per image: on two cores an image of 136 µs then
# takes 139, one of 350 gains nothing, one of 760 takes 530 (benchmarks/LOG.md).
MULTITHREAD_MIN_SECONDS = 500e-6
MAX_THREADS = 4  # a layer of one image has little work to share
TRIES = 5


class Session:
    """One model on a session of one thread and, where an image is slow enough, one of several.

    Attributes:
        row_shape: shape of one row of the output.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Load the model; if there are several `threads`, time one image on a single one."""
        self._session = _load(path, threads=1)
        self._multithreaded: Any = None
        inputs = self._session.get_inputs()
        self._inputs = [entry.name for entry in inputs]
        output = self._session.get_outputs()[0]
        self._outputs = [output.name]
        self.row_shape: tuple[int, ...] = tuple(output.shape[1:])
        if threads > 1 and self._seconds_per_row(inputs) >= MULTITHREAD_MIN_SECONDS:
            self._multithreaded = _load(path, threads=min(threads, MAX_THREADS))
            fork.renewed_in_child.add(self)

    def renew(self) -> None:
        """In a forked child: the session of one thread alone (`fork.Renewable.renew`).

        The other one's threads are the parent's. It is never freed, also not at exit: its
        destructor would wait for them forever.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._multithreaded))
        self._multithreaded = None

    @property
    def multithreaded(self) -> bool:
        """Whether there is a second session, on several threads."""
        return self._multithreaded is not None

    def __call__(
        self, *inputs: Array, multithreaded: bool = False, out: Array | None = None
    ) -> Array:
        """Run the model on one chunk.

        Args:
            inputs: float32 (n, …) for each of the model's inputs, in its order, contiguous.
            multithreaded: use several threads, where the model has such a session: faster for a
                few rows while no other call runs.
            out: where the model writes its output: float32 (n, *row_shape), contiguous, not
                overlapping an input, which a model may still read after it began to write.

        Returns:
            float32 (n, *row_shape); `out` where it is passed.
        """
        session = self._session
        if multithreaded and self._multithreaded is not None:
            session = self._multithreaded
        if out is None:
            results = session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True)))
            return np.asarray(results[0])
        binding = session.io_binding()
        for name, rows in zip(self._inputs, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
        binding.bind_output(self._outputs[0], "cpu", 0, np.float32, out.shape, out.ctypes.data)
        session.run_with_iobinding(binding)
        return out

    def _seconds_per_row(self, inputs: Any) -> float:
        """Seconds per row on one thread: best of TRIES after a warm-up; 0.0 if it cannot run.

        Replaying the golden answers reports why a model cannot run.
        """
        seconds = []
        try:
            rows = [np.zeros((1, *entry.shape[1:]), np.float32) for entry in inputs]
            for _ in range(1 + TRIES):
                start = time.perf_counter()
                self(*rows)
                seconds.append(time.perf_counter() - start)
        except Exception:  # onnxruntime's own exception types are not public
            return 0.0
        return min(seconds[1:])


def _load(path: Path, *, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # warnings would reach the server's log at every start
    # Threads spin while they wait for the next layer, but not between images.
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
