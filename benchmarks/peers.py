"""The runtimes that are compared, each used as its own manual recommends, on the same cores.

A peer opens one model and returns a function (rows, batch, out) → output, which runs all `rows` in
batches and returns one array: `out`, unless the runtime allocates its own. Fresh memory can cost a
tenth of the work on a virtual machine (LOG.md), so all peers get memory that was used before. To
add a runtime, add a line to `PEERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.models import Models
from common.arrays import Array
from common.cores import usable_cores
from service.bundle import PrecisionName
from service.engine import Engine

Run = Callable[[Array, int, Array], Array]
OURS = "Engine (ours)"
OURS_INT8 = "Engine int8 (ours)"


@dataclass(frozen=True)
class Peer:
    """One way to run a model.

    Attributes:
        name: for the tables.
        package: must be importable, or the peer is "not installed".
        open: (models, model) → (rows float32 (N, …), batch, out) → float32 (N, …).
        tolerance: largest difference from Keras, absolute for images, for latents relative to
            the largest.
        batches: batch sizes to try; None for all of the sweep.
        precision: of our bundle, that it needs.
    """

    name: str
    package: str
    open: Callable[[Models, str], Run]
    tolerance: float = 1e-4
    batches: tuple[int, ...] | None = None
    precision: PrecisionName = "float32"

    def absence(self, models: Models) -> str:
        """Why it cannot be measured here; "" where it can."""
        if find_spec(self.package) is None:
            return "not installed"
        manifest = models.engine.manifest
        if self.precision in manifest.available:
            return ""
        return f"no {self.precision} in the bundle: {manifest.precisions[self.precision].reason}"


def _engine(models: Models, model: str, precision: PrecisionName = "float32") -> Run:
    """Our engine: calls of `batch` images from one thread, each split into chunks by the engine."""
    engine = Engine.load(models.bundle, precision=precision)
    names = {"encoder": "encode", "decoder": "decode", "autoencoder": "denoise"}
    call = getattr(engine, names[model])

    def run(rows: Array, batch: int, out: Array) -> Array:
        for start in range(0, len(rows), batch):
            chunk = slice(start, start + batch)
            call(rows[chunk], out=out[chunk])
        return out

    return run


def _keras(models: Models, model: str) -> Run:
    network = models.keras[model]
    return lambda rows, batch, out: network.predict(rows, batch_size=batch, verbose=0)


def _xla(models: Models, model: str) -> Run:
    tf = import_module("tensorflow")
    network = models.keras[model]
    # Compiled once per batch size, also for the size of the remainder.
    compiled = tf.function(lambda rows: network([rows], training=False), jit_compile=True)
    return _in_batches(lambda chunk: compiled(chunk).numpy())


def _onnxruntime(models: Models, model: str) -> Run:
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # no warnings about unused constants
    if usable_cores() != (os.cpu_count() or 1):
        options.intra_op_num_threads = usable_cores()  # its default ignores container limits
    session = ort.InferenceSession(
        str(models.plain_path(model)), sess_options=options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return _in_batches(lambda chunk: session.run(None, {name: chunk})[0])


def _openvino(models: Models, model: str, *, hint: str, precision: str) -> Run:
    """OpenVINO with a performance hint, THROUGHPUT or LATENCY, and a precision, f32 or bf16.

    Each batch size gets a model of that fixed shape; batches go through its asynchronous queue
    with the number of requests that OpenVINO chooses.
    """
    ov = import_module("openvino")
    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": usable_cores(),
    }
    network = core.read_model(str(models.plain_path(model)))

    @cache
    def queue_for(*shape: int) -> Any:
        network.reshape([*shape])
        return ov.AsyncInferQueue(core.compile_model(network, "CPU", settings))

    def run(rows: Array, batch: int, out: Array) -> Array:
        def keep(request: Any, chunk: slice) -> None:
            out[chunk] = request.get_output_tensor(0).data

        whole = len(rows) - len(rows) % batch
        for start, end, size in ((0, whole, batch), (whole, len(rows), len(rows) - whole)):
            if start == end:
                continue
            queue = queue_for(size, *rows.shape[1:])
            queue.set_callback(keep)
            for first in range(start, end, size):
                chunk = slice(first, first + size)
                queue.start_async({0: rows[chunk]}, chunk, share_inputs=True)
            queue.wait_all()
        return out

    return run


def _in_batches(call: Callable[[Array], Array]) -> Run:
    """One batch after another, copied to `out`; a single one is returned as it is."""

    def run(rows: Array, batch: int, out: Array) -> Array:
        if len(rows) <= batch:
            return call(rows)
        for start in range(0, len(rows), batch):
            out[start : start + batch] = call(rows[start : start + batch])
        return out

    return run


PEERS = (
    Peer(OURS, "onnxruntime", _engine),
    Peer(
        OURS_INT8,
        "onnxruntime",
        partial(_engine, precision="int8"),
        tolerance=0.3,
        precision="int8",
    ),
    Peer("Keras predict", "keras", _keras, batches=(1, 4, 32, 256, 1024)),
    Peer("TensorFlow XLA", "tensorflow", _xla),
    Peer("ONNX Runtime", "onnxruntime", _onnxruntime),
    *(
        Peer(
            f"OpenVINO {precision} {hint}",
            "openvino",
            partial(_openvino, hint=hint.upper(), precision=precision),
            tolerance,
        )
        for precision, tolerance in (("f32", 1e-4), ("bf16", 3e-2))
        for hint in ("throughput", "latency")
    ),
)
