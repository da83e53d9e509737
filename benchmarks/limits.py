"""The limit of the machine: the fastest matrix product, measured on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.harness import Spread, interleave
from common.arrays import Floats
from common.cores import usable_cores
from export.rewrite.cost import Layer

Shape = tuple[int, int, int]  # rows, k, n of (rows, k) · (k, n)
CHUNKS = (4, 16, 64)  # images whose positions make up the rows of one product


@dataclass(frozen=True)
class Gemm:
    """One float32 matrix product, ready to run on all cores at once.

    Attributes:
        library: "MLAS" (ONNX Runtime, a one-thread session on each core) or "OpenBLAS" (numpy's
            own threads).
        shape: rows, k, n.
        run: computes it `count` times on every core.
    """

    library: str
    shape: Shape
    run: Callable[[int], None]

    @property
    def name(self) -> str:
        """Library and shape, for the tables."""
        return f"{self.library} {'×'.join(map(str, self.shape))}"

    def flops(self, count: int) -> float:
        """FLOPs of `run(count)` over all cores."""
        return 2.0 * float(np.prod(self.shape)) * count * usable_cores()

    def count_for(self, flops: float) -> int:
        """The number of repetitions for about so many FLOPs."""
        return max(1, round(flops / self.flops(1)))


def shapes(layers: Iterable[Layer]) -> list[Shape]:
    """The matrix products that compute the layers, for each chunk size, without duplicates."""
    gemms = [(layer.gemm, chunk) for layer in layers for chunk in CHUNKS]
    return list(dict.fromkeys((rows * chunk, k, n) for (rows, k, n), chunk in gemms))


def gemm_peak(
    layers: Iterable[Layer], *, rounds: int, flops: float, settle: float
) -> tuple[Gemm, Spread]:
    """The fastest product of this network's own shapes, and its rate in FLOP/s.

    Args:
        layers: of every graph that is measured.
        rounds: timed rounds, all products in turn.
        flops: in one timing of one product.
        settle: seconds of quiet before each timing.
    """
    gemms = [make(shape) for shape in shapes(layers) for make in (_mlas, _openblas)]
    counts = {gemm.name: gemm.count_for(flops) for gemm in gemms}
    calls = {gemm.name: partial(gemm.run, counts[gemm.name]) for gemm in gemms}
    timings = interleave(calls, rounds=rounds, settle=settle)
    rates = {gemm.name: timings[gemm.name].rate(gemm.flops(counts[gemm.name])) for gemm in gemms}
    best = max(gemms, key=lambda gemm: rates[gemm.name].median)
    return best, rates[best.name]


def _mlas(shape: Shape) -> Gemm:
    rows, k, n = shape
    rng = np.random.default_rng(0)
    left = rng.random((rows, k), dtype=np.float32)
    model = _product(rng.random((k, n), dtype=np.float32), rows)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(usable_cores())
    ]

    def work(session: Any, count: int) -> None:
        binding = session.io_binding()
        binding.bind_cpu_input("left", left)
        output = ort.OrtValue.ortvalue_from_numpy(np.empty((rows, n), np.float32))
        binding.bind_ortvalue_output("output", output)
        for _ in range(count):
            session.run_with_iobinding(binding)

    def run(count: int) -> None:
        with ThreadPoolExecutor(len(sessions)) as pool:
            list(pool.map(work, sessions, [count] * len(sessions)))

    return Gemm("MLAS", shape, run)


def _openblas(shape: Shape) -> Gemm:
    rows, k, n = shape
    rng = np.random.default_rng(0)
    # One product over the rows of all cores: OpenBLAS distributes it itself.
    left = rng.random((rows * usable_cores(), k), dtype=np.float32)
    right = rng.random((k, n), dtype=np.float32)
    output = np.empty((len(left), n), np.float32)

    def run(count: int) -> None:
        for _ in range(count):
            np.matmul(left, right, out=output)

    return Gemm("OpenBLAS", shape, run)


def _product(right: Floats, rows: int) -> bytes:
    """A model of one MatMul whose right side is constant, as weights are."""
    k, n = right.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "right"], ["output"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, [rows, k])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [rows, n])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())
