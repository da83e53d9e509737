"""Multiply-adds by hand and by brute force, and the chunk that follows from them."""

from __future__ import annotations

from itertools import combinations, pairwise, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.rewrite import cost
from export.rewrite.fold import fold_linear
from tests.export.test_cleanup import graph_of
from tests.export.test_fold import chain
from tests.export.test_optimise import classic, decoder


def model_of(
    nodes: list[tuple[Any, ...]], row: tuple[int, ...], **weights: tuple[int, ...]
) -> onnx.ModelProto:
    constants = {name: np.ones(shape, np.float32) for name, shape in weights.items()}
    shape = ["D"] * (len(row) if nodes[-1][0] != "Flatten" else 1)
    return graph_of(nodes, constants, row, tuple(shape)).model()


def counted(
    image: tuple[int, int], weight: tuple[int, ...], strides: int, pads: int, group: int
) -> int:
    """A convolution's multiply-adds, one loop turn for each output and each of its channels."""
    filters, channels, tall, wide = weight
    down = range(0, image[0] + 2 * pads - tall + 1, strides)
    across = range(0, image[1] + 2 * pads - wide + 1, strides)
    total = 0
    for _ in product(down, across, range(filters)):
        total += channels * tall * wide
    assert filters % group == 0
    return total


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("pads", [0, 1])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (5, 3)])
def test_a_convolution(strides: int, pads: int, group: int, kernel: tuple[int, int]) -> None:
    weight = (6, 4 // group, *kernel)
    attributes = {"strides": [strides] * 2, "pads": [pads] * 4, "group": group}
    model = model_of([("Conv", ["x", "w"], "y", attributes)], (4, 7, 5), w=weight)
    (layer,) = cost.layers(model)
    assert layer.macs == counted((7, 5), weight, strides, pads, group) == cost.macs(model)
    assert prod(layer.gemm) == layer.macs
    assert layer.inputs == 4 * 7 * 5


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (5, 3)])
def test_a_transposed_convolution(group: int, strides: int, kernel: tuple[int, int]) -> None:
    """Each number that comes in meets each tap of its filters, whatever the stride."""
    attributes = {"strides": [strides] * 2, "group": group}
    model = model_of(
        [("ConvTranspose", ["x", "w"], "y", attributes)], (4, 3, 5), w=(4, 6 // group, *kernel)
    )
    (layer,) = cost.layers(model)
    assert layer.macs == (4 * 3 * 5) * (6 // group) * prod(kernel)
    tall, wide = (strides * (n - 1) + k for n, k in zip((3, 5), kernel, strict=True))
    assert layer.outputs == 6 * tall * wide


def test_only_layers_that_multiply_matrices_count() -> None:
    model = model_of([
        ("Mul", ["x", "s"], "a"), ("Relu", ["a"], "b"), ("Sigmoid", ["b"], "c"),
        ("MatMul", ["c", "w"], "y"),
    ], (5,), s=(1,), w=(5, 7))  # fmt: skip
    assert [(layer.op, layer.macs) for layer in cost.layers(model)] == [("MatMul", 35)]
    empty = model_of([("Relu", ["x"], "y")], (5,))
    assert cost.macs(empty) == cost.folded_macs(empty) == 0


def test_the_batch_does_not_count_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = decoder().model()
    before = model.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(before)
    assert cost.macs(model) == cost.macs(tmp_path / "model.onnx") > 0
    assert model.SerializeToString() == before


@pytest.mark.parametrize("between", ["Relu", "Sigmoid", "Tanh", "Mul"])
def test_what_is_not_linear_or_scales_ends_a_chain(between: str) -> None:
    act = (between, ["m", "s"] if between == "Mul" else ["m"], "a")
    nodes = [("MatMul", ["x", "u"], "m"), act, ("MatMul", ["a", "v"], "y")]
    model = model_of(nodes, (2,), u=(2, 9), v=(9, 2), s=(9,))
    assert [layer.follows for layer in cost.layers(model)] == [False, False]
    assert cost.folded_macs(model) == 36


@pytest.mark.parametrize("between", ["Add", "Identity", "Flatten"])
def test_what_only_moves_or_adds_does_not(between: str) -> None:
    act = (between, ["m", "s"] if between == "Add" else ["m"], "a")
    nodes = [("MatMul", ["x", "u"], "m"), act, ("MatMul", ["a", "v"], "y")]
    model = model_of(nodes, (2,), u=(2, 9), v=(9, 2), s=(9,))
    assert [layer.follows for layer in cost.layers(model)] == [False, True]
    assert cost.folded_macs(model) == 4


@given(st.lists(st.integers(1, 9), min_size=2, max_size=7))
def test_the_cheapest_folding_of_a_chain_is_the_cheapest_of_all(widths: list[int]) -> None:
    names = ["x", *[f"t{k}" for k in range(len(widths) - 2)], "y"]
    nodes = [("MatMul", [names[k], f"w{k}"], names[k + 1]) for k in range(len(widths) - 1)]
    weights = {f"w{k}": (widths[k], widths[k + 1]) for k in range(len(widths) - 1)}
    inner = range(1, len(widths) - 1)
    ways = [
        [0, *kept, len(widths) - 1]
        for number in range(len(widths) - 1)
        for kept in combinations(inner, number)
    ]
    least = min(sum(widths[a] * widths[b] for a, b in pairwise(way)) for way in ways)
    assert cost.folded_macs(model_of(nodes, (widths[0],), **weights)) == least


@pytest.mark.parametrize("size", [1, 3, 4, 5, 6, 20])
def test_folding_reaches_what_the_count_promises(size: int) -> None:
    """The pass and the bound were written independently: on a chain of two they must agree."""
    graph = chain("ConvTranspose", (3, 1, 1), (2, 2, 2), (3, 2, 2, 2), size=size, strides=[2, 2])
    promised = cost.folded_macs(graph.model())
    fold_linear(graph)
    assert cost.macs(graph.model()) == promised


def test_the_articles_decoder_by_hand() -> None:
    model = classic().model()
    expected = [16 * 3136, 49 * 64 * 64 * 9, 196 * 64 * 32 * 9, 784 * 32 * 9]
    assert [layer.macs for layer in cost.layers(model)] == expected
    assert [layer.follows for layer in cost.layers(model)] == [False, True, False, False]
    assert cost.folded_macs(model) == 16 * 12544 + sum(expected[2:]) == 4_039_168


def test_a_residual_branch_ends_a_linear_chain() -> None:
    nodes: list[Any] = [
        ("MatMul", ["x", "a"], "m"),
        ("Add", ["m", "x"], "s"),
        ("MatMul", ["s", "b"], "n"),
        ("Add", ["n", "c"], "t"),
        ("MatMul", ["t", "d"], "y"),
    ]
    model = model_of(nodes, (4,), a=(4, 4), b=(4, 4), c=(4,), d=(4, 4))
    assert [layer.follows for layer in cost.layers(model)] == [False, False, True]


def of_cost(macs: int) -> onnx.ModelProto:
    """A model of exactly so many multiply-adds: one number spread over a row."""
    return model_of([("MatMul", ["x", "w"], "y")], (1,), w=(1, macs))


WIDE = 1 << 20  # elements of a layer beyond any core's cache


def of_size(macs: int, elements: int, weights: int = 1) -> cost.Layer:
    """A layer that reads and writes so many elements for one image, and has so many weights."""
    return cost.Layer("Conv", macs, elements - elements // 2, elements // 2, (1, weights, 1), False)


@pytest.mark.parametrize(
    ("macs", "chunk"),
    [
        (1, 64),
        (1_009_792, 64),  # the classic network's encoder
        (1_414_213, 64),  # 64e6 / 2^5.5 is 1,414,213.6
        (1_414_214, 32),
        (1_350_000, 64),
        (2_000_000, 32),
        (4_152_064, 16),  # its decoder
        (5_161_856, 16),  # both
        (8_000_000, 8),
        (16_000_000, 4),
        (40_000_000, 2),
        (64_000_000, 1),
        (100_000_000, 1),
        (10**12, 1),
    ],
)
def test_chunks_by_cost(monkeypatch: pytest.MonkeyPatch, macs: int, chunk: int) -> None:
    monkeypatch.setattr(cost, "layers", lambda _: [of_size(macs, WIDE)])
    assert cost.chunk_of(of_cost(1)) == chunk


@pytest.mark.parametrize(
    ("weights", "macs", "chunk"),
    [
        (262_144, 30_000_000, 2),  # a MiB of float32: they stay in the cache
        (262_145, 30_000_000, 32),
        (262_145, 31_250_000, 32),  # 10^9 in a chunk
        (262_145, 31_250_001, 16),
        (262_145, 62_500_001, 8),
        (262_145, 125_000_001, 4),
        (262_145, 10**12, 4),
        (262_145, 1, 64),  # a cheap one has larger chunks already
        (10**9, 30_000_000, 32),
    ],
)
def test_weights_beyond_the_cache_are_read_by_larger_chunks(
    monkeypatch: pytest.MonkeyPatch, weights: int, macs: int, chunk: int
) -> None:
    monkeypatch.setattr(cost, "layers", lambda _: [of_size(macs, WIDE, weights)])
    assert cost.chunk_of(of_cost(1)) == chunk


@pytest.mark.parametrize("group", [1, 2])
def test_weights_are_counted_in_bytes(group: int) -> None:
    cases = {
        "Conv": (6, 4 // group, 3, 5),
        "ConvTranspose": (4, 6 // group, 3, 5),
    }
    for op, weight in cases.items():
        model = model_of([(op, ["x", "w"], "y", {"group": group})], (4, 7, 5), w=weight)
        (layer,) = cost.layers(model)
        assert layer.weights == 4 * prod(weight)


def test_a_model_that_costs_nothing_has_a_chunk() -> None:
    assert cost.chunk_of(model_of([("Relu", ["x"], "y")], (5,))) == 64


def test_the_chunk_reads_models_and_files(tmp_path: Path) -> None:
    model = of_cost(200_000)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert cost.chunk_of(model) == cost.chunk_of(tmp_path / "model.onnx") == 64


def test_dearer_models_get_no_larger_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = []
    for macs in np.geomspace(1, 1e10, 200).astype(int):
        monkeypatch.setattr(cost, "layers", lambda _, macs=int(macs): [of_size(macs, WIDE)])
        chunks.append(cost.chunk_of(of_cost(1)))
    assert chunks == sorted(chunks, reverse=True)
    assert set(chunks) == {1, 2, 4, 8, 16, 32, 64}
    assert all(type(chunk) is int for chunk in chunks)  # JSON does not take numpy's
