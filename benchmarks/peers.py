"""The runtimes that are compared, each as its own manual says to use it, on the same cores.

A peer opens one model once and gets a function (rows, batch, out) → answer, which cuts `rows` into
batches, computes them all and returns one array: `out`, unless the runtime makes its own. Fresh
memory costs the same whoever asks for it, and on a virtual machine it can cost as much as a tenth
of the work (LOG.md), so nobody has to. To add a runtime, add a line to `PEERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.material import Material
from common.arrays import Array
from service.bundle import PrecisionName
from service.engine import Engine
from service.runtime.pool import usable_cores

Run = Callable[[Array, int, Array], Array]
OURS = "Engine (ours)"
OURS_INT8 = "Engine int8 (ours)"


@dataclass(frozen=True)
class Peer:
    """One way to run a model.

    Attributes:
        name: for the tables.
        package: what must be importable; where it is not, the peer is "not installed".
        open: (material, model) → (rows float32 (N, …), batch, out) → float32 (N, …).
        tolerance: largest difference from Keras, absolute for images, for latents relative to
            the largest.
        batches: batch sizes it is asked for; None for every one of the sweep.
        precision: of our bundle, that it needs.
    """

    name: str
    package: str
    open: Callable[[Material, str], Run]
    tolerance: float = 1e-4
    batches: tuple[int, ...] | None = None
    precision: PrecisionName = "float32"

    @property
    def installed(self) -> bool:
        return find_spec(self.package) is not None

    def absence(self, material: Material) -> str:
        """Why it cannot be measured here; "" where it can."""
        if not self.installed:
            return "not installed"
        manifest = material.engine.manifest
        if self.precision not in manifest.available:
            return (
                f"no {self.precision} in the bundle: {manifest.precisions[self.precision].reason}"
            )
        return ""

    def runs(self, material: Material) -> bool:
        """Whether it can be measured here: installed, and the bundle has its precision."""
        return not self.absence(material)


def _engine(material: Material, model: str) -> Run:
    """Calls of `batch` images from one thread; the engine cuts each as it sees fit."""
    return _called(material.engine, model)


def _engine_int8(material: Material, model: str) -> Run:
    return _called(Engine.load(material.bundle, precision="int8"), model)


def _called(engine: Engine, model: str) -> Run:
    call: dict[str, Any] = {
        "encoder": engine.encode,
        "decoder": engine.decode,
        "autoencoder": engine.denoise,
    }

    def run(rows: Array, batch: int, out: Array) -> Array:
        for start in range(0, len(rows), batch):
            chunk = slice(start, start + batch)
            call[model](rows[chunk], out=out[chunk])
        return out

    return run


def _keras(material: Material, model: str) -> Run:
    network = material.keras[model]

    def run(rows: Array, batch: int, out: Array) -> Array:
        answer: Array = network.predict(rows, batch_size=batch, verbose=0)
        return answer

    return run


def _xla(material: Material, model: str) -> Run:
    tf = import_module("tensorflow")
    network = material.keras[model]
    # Compiled once for each batch size, and once for the rest that a division leaves.
    compiled = tf.function(lambda rows: network([rows], training=False), jit_compile=True)
    return _in_turn(lambda part: compiled(part).numpy())


def _onnxruntime(material: Material, model: str) -> Run:
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # no notes about the graph's own leftovers
    if usable_cores() != (os.cpu_count() or 1):
        options.intra_op_num_threads = usable_cores()  # its default ignores container limits
    session = ort.InferenceSession(
        str(material.plain_path(model)), sess_options=options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return _in_turn(lambda part: session.run(None, {name: part})[0])


def _openvino(hint: str, precision: str) -> Callable[[Material, str], Run]:
    """OpenVINO with a performance hint, THROUGHPUT or LATENCY, and a precision, f32 or bf16.

    Each batch size gets a model of that fixed shape; batches go through its asynchronous queue
    with as many requests as it finds best.
    """

    def open_model(material: Material, model: str) -> Run:
        ov = import_module("openvino")
        core = ov.Core()
        settings = {
            "PERFORMANCE_HINT": hint,
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": usable_cores(),
        }
        network = core.read_model(str(material.plain_path(model)))
        queues: dict[int, Any] = {}

        def queue_for(batch: int, row: tuple[int, ...]) -> Any:
            if batch not in queues:
                network.reshape([batch, *row])
                queues[batch] = ov.AsyncInferQueue(core.compile_model(network, "CPU", settings))
            return queues[batch]

        def run(rows: Array, batch: int, out: Array) -> Array:
            def keep(request: Any, piece: slice) -> None:
                out[piece] = request.get_output_tensor(0).data

            whole = len(rows) - len(rows) % batch
            for begin, end, size in ((0, whole, batch), (whole, len(rows), len(rows) - whole)):
                if begin == end:
                    continue
                queue = queue_for(size, rows.shape[1:])
                queue.set_callback(keep)
                for at in range(begin, end, size):
                    piece = slice(at, at + size)
                    queue.start_async({0: rows[piece]}, piece, share_inputs=True)
                queue.wait_all()
            return out

        return run

    return open_model


def _in_turn(call: Callable[[Array], Array]) -> Run:
    """One batch after another, gathered in `out`; a single one is the answer as it comes."""

    def run(rows: Array, batch: int, out: Array) -> Array:
        if len(rows) <= batch:
            return call(rows)
        for at in range(0, len(rows), batch):
            out[at : at + batch] = call(rows[at : at + batch])
        return out

    return run


PEERS = (
    Peer(OURS, "onnxruntime", _engine),
    Peer(OURS_INT8, "onnxruntime", _engine_int8, tolerance=0.3, precision="int8"),
    Peer("Keras predict", "keras", _keras, batches=(1, 4, 32, 256, 1024)),
    Peer("TensorFlow XLA", "tensorflow", _xla),
    Peer("ONNX Runtime", "onnxruntime", _onnxruntime),
    Peer("OpenVINO f32 throughput", "openvino", _openvino("THROUGHPUT", "f32")),
    Peer("OpenVINO f32 latency", "openvino", _openvino("LATENCY", "f32")),
    Peer("OpenVINO bf16 throughput", "openvino", _openvino("THROUGHPUT", "bf16"), tolerance=3e-2),
    Peer("OpenVINO bf16 latency", "openvino", _openvino("LATENCY", "bf16"), tolerance=3e-2),
)
