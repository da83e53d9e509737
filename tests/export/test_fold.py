"""Folding linear layers: the same function in two runtimes, where it is cheaper, rounded once."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from export.rewrite.fold import activate_before_reshape, bias_as_row, fold_linear
from export.rewrite.graph import Graph
from tests.export.test_cleanup import graph_of, ops


def in_runtime(graph: Graph, rows: np.ndarray) -> np.ndarray:
    """What ONNX Runtime makes of a graph from x to y."""
    model = graph.model().SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(["y"], {"x": rows})[0]
    return result


def outputs_of(graph: Graph, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime and the reference implementation make of a graph; the file is standard."""
    model = graph.model()
    onnx.checker.check_model(model, full_check=True)
    return in_runtime(graph, rows), ReferenceEvaluator(model).run(["y"], {"x": rows})[0]


def assert_same(graph: Graph, rows: np.ndarray, expected: np.ndarray) -> None:
    """Both runtimes give `expected`, to float32's last digits."""
    scale = max(1.0, float(np.abs(expected).max()))
    for result in outputs_of(graph, rows):
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=0, atol=3e-6 * scale)


def by_hand(
    rows: np.ndarray, weights: np.ndarray, strides: tuple[int, int], pads: list[int]
) -> np.ndarray:
    """A transposed convolution in float64, tap by tap: (N, C, H, W) → (N, C', H', W')."""
    _, _, height, width = rows.shape
    (down, right), kernel = strides, weights.shape[2:]
    spread = [(n - 1) * s + k for n, s, k in zip((height, width), strides, kernel, strict=True)]
    full = np.zeros((len(rows), weights.shape[1], *spread))
    for i, j in product(*map(range, kernel)):
        part = np.einsum("nchw,co->nohw", rows.astype(np.float64), weights[:, :, i, j])
        full[:, :, i : i + down * height : down, j : j + right * width : right] += part
    top, left, bottom, end = pads
    return full[:, :, top : spread[0] - bottom, left : spread[1] - end]


def chain(
    op: str,
    before: tuple[int, int, int],
    after: tuple[int, ...],
    weight: tuple[int, ...],
    *,
    size: int = 2,
    biases: tuple[bool, bool] = (True, True),
    seed: int = 0,
    gemm: dict[str, Any] | None = None,
    then: list[tuple[Any, ...]] | None = None,
    **attributes: Any,
) -> Graph:
    """x (N, size) → Gemm → Reshape (N, *before) → `op` → (N, *after)."""
    rng = np.random.default_rng(seed)
    outputs = after[0]
    constants: dict[str, Any] = {
        "m": rng.normal(0, 1, (size, prod(before))).astype(np.float32),
        "n": rng.normal(0, 1, prod(before)).astype(np.float32),
        "shape": np.array([-1, *before]),
        "w": rng.normal(0, 1, weight).astype(np.float32),
        "b": rng.normal(0, 1, outputs).astype(np.float32),
    }
    last = "c" if then else "y"
    return graph_of([
        ("Gemm", ["x", "m", "n"][:3 if biases[0] else 2], "g", gemm or {}),
        ("Reshape", ["g", "shape"], "r"),
        (op, ["r", "w", "b"][:3 if biases[1] else 2], last, attributes),
        *(then or []),
    ], constants, (size,), after)  # fmt: skip


def rows_for(size: int, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(99).normal(0, 1, (batch, size)).astype(np.float32)


sides = st.tuples(st.integers(1, 5), st.integers(1, 5))
kernels = st.tuples(st.integers(1, 7), st.integers(1, 7))


@settings(max_examples=50)
@given(
    size=st.integers(1, 6),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    image=sides,
    kernel=kernels,
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    cut=st.tuples(*[st.integers(0, 3)] * 4),
    biases=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
@example(2, (2, 3), (3, 4), (3, 3), (2, 2), (0, 0, 1, 1), (True, True), 0)  # folds, as Keras pads
@example(6, (1, 4), (5, 5), (1, 1), (3, 3), (0, 0, 0, 0), (True, True), 0)  # does not
def test_a_transposed_convolution_goes_into_the_matrix_where_that_is_cheaper(
    size: int,
    channels: tuple[int, int],
    image: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    cut: tuple[int, int, int, int],
    biases: tuple[bool, bool],
    seed: int,
) -> None:
    spread = [(n - 1) * s + k for n, s, k in zip(image, strides, kernel, strict=True)]
    pads = [min(cut[i], kernel[i % 2] - 1, (spread[i % 2] - 1) // 2) for i in range(4)]
    after = (channels[1], *(spread[i] - pads[i] - pads[2 + i] for i in range(2)))
    before = (channels[0], *image)
    graph = chain("ConvTranspose", before, after, (*channels, *kernel), size=size, biases=biases,
                  seed=seed, strides=list(strides), pads=pads)  # fmt: skip
    rows = rows_for(size)
    expected = in_runtime(graph, rows)
    fold_linear(graph)
    separate = size * prod(before) + prod(channels) * prod(kernel) * prod(image)
    if size * prod(after) != separate:
        assert ("ConvTranspose" not in ops(graph)) == (size * prod(after) < separate)
    assert_same(graph, rows, expected)


@pytest.mark.parametrize(("size", "folds"), [(3, True), (4, True), (5, False), (6, False)])
def test_the_boundary_counts_positions_in_for_a_transposed_convolution(
    size: int, folds: bool
) -> None:
    """3 → 2 channels of 2×2: one matrix costs 8·size, two layers 3·size + 24."""
    graph = chain("ConvTranspose", (3, 1, 1), (2, 2, 2), (3, 2, 2, 2), size=size, strides=[2, 2])
    expected = in_runtime(graph, rows_for(size))
    fold_linear(graph)
    assert ops(graph) == (["Gemm", "Reshape"] if folds else ["Gemm", "Reshape", "ConvTranspose"])
    assert_same(graph, rows_for(size), expected)


def test_two_convolutions_in_a_row_both_go_into_the_matrix() -> None:
    more = ("ConvTranspose", ["c", "w"], "y", {"strides": [2, 2]})
    graph = chain("ConvTranspose", (2, 3, 2), (2, 12, 8), (2, 2, 2, 2), size=1, strides=[2, 2],
                  then=[more])  # fmt: skip
    expected = in_runtime(graph, rows_for(1))
    fold_linear(graph)
    assert ops(graph) == ["Gemm", "Reshape"]
    assert_same(graph, rows_for(1), expected)


@pytest.mark.parametrize(
    ("weight", "after", "attributes"),
    [
        ((4, 5, 3, 3), (5, 8, 8), {"output_padding": [1, 1]}),
        ((4, 5, 3, 3), (5, 9, 9), {"dilations": [2, 2]}),
        ((4, 5, 3, 3), (5, 6, 6), {"auto_pad": "SAME_UPPER"}),
        ((4, 5, 3, 3), (5, 6, 6), {"auto_pad": "SAME_LOWER"}),
        ((4, 5, 3, 3), (5, 6, 6), {"output_shape": [6, 6]}),
        ((4, 2, 3, 3), (4, 7, 7), {"group": 2}),
        ((4, 1, 3, 3), (4, 7, 7), {"group": 4}),
    ],
)
def test_unusual_convolutions_fold_right_or_not_at_all(
    weight: tuple[int, ...], after: tuple[int, int, int], attributes: dict[str, Any]
) -> None:
    """Size 1: one matrix is the cheaper in each case, so that what computes it matters."""
    graph = chain("ConvTranspose", (4, 3, 3), after, weight, size=1, strides=[2, 2], **attributes)
    rows = rows_for(1)
    expected = in_runtime(graph, rows)
    fold_linear(graph)
    result = in_runtime(graph, rows)  # not in the reference: it errs on groups
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    if not {"group", "output_shape", "auto_pad"} & attributes.keys():
        assert ops(graph) == ["Gemm", "Reshape"]


@pytest.mark.parametrize("target", [[-1, 3, 4, 2], [0, 3, 4, 2], [0, 3, -1, 2]])
def test_other_ways_to_write_the_target(target: list[int]) -> None:
    graph = chain("ConvTranspose", (3, 4, 2), (2, 8, 4), (3, 2, 2, 2), strides=[2, 2])
    graph.constants["shape"] = np.array(target)
    expected = in_runtime(graph, rows_for(2))
    fold_linear(graph)
    assert ops(graph) == ["Gemm", "Reshape"]
    assert_same(graph, rows_for(2), expected)


@pytest.mark.parametrize("seed", range(3))
def test_folding_rounds_once(seed: int) -> None:
    """Each number of the matrix is the float32 nearest to the exact one."""
    graph = chain("ConvTranspose", (24, 3, 4), (5, 6, 8), (24, 5, 3, 3), size=4, seed=seed,
                  strides=[2, 2], pads=[0, 0, 1, 1])  # fmt: skip
    constants = dict(graph.constants)
    fold_linear(graph)
    gemm, _ = graph.nodes
    matrix, bias = (graph.constants[name] for name in gemm.input[1:])
    weights = constants["w"].astype(np.float64)
    rows = constants["m"].reshape(4, 24, 3, 4)
    exact = by_hand(rows, weights, (2, 2), [0, 0, 1, 1]).reshape(4, -1)
    offset = by_hand(constants["n"].reshape(1, 24, 3, 4), weights, (2, 2), [0, 0, 1, 1])
    offset = (offset + constants["b"].astype(np.float64)[:, None, None]).reshape(-1)
    for result, expected in ((matrix, exact), (bias, offset)):
        assert result.dtype == np.float32
        half = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64) / 2
        assert np.all(np.abs(result - expected) <= half + 1e-13)


def test_folding_leaves_nothing_behind() -> None:
    graph = chain("ConvTranspose", (3, 4, 2), (2, 8, 4), (3, 2, 2, 2), strides=[2, 2])
    fold_linear(graph)
    used = {name for node in graph.nodes for name in node.input}
    assert set(graph.constants) < used
    assert {v.dtype for v in graph.constants.values()} == {np.dtype("f4"), np.dtype("i8")}


def test_names_that_are_taken_are_not_taken_again() -> None:
    graph = chain("ConvTranspose", (3, 4, 2), (2, 8, 4), (3, 2, 2, 2), strides=[2, 2],
                  then=[("Mul", ["c", "c_folded"], "y")])  # fmt: skip
    graph.constants["c_folded"] = np.array(3, np.float32)
    expected = in_runtime(graph, rows_for(2))
    fold_linear(graph)
    assert ops(graph) == ["Gemm", "Reshape", "Mul"]
    assert_same(graph, rows_for(2), expected)


LINEAR: dict[str, Any] = {
    "m": np.ones((2, 24), np.float32),
    "n": np.ones(24, np.float32),
    "shape": np.array([-1, 3, 4, 2]),
    "w": np.ones((3, 2, 2, 2), np.float32),
    "b": np.ones(2, np.float32),
}
GEMM = ("Gemm", ["x", "m", "n"], "g")
RESHAPE = ("Reshape", ["g", "shape"], "r")
UP = ("ConvTranspose", ["r", "w", "b"], "y", {"strides": [2, 2]})
ALONE: dict[str, tuple[list[tuple[Any, ...]], dict[str, Any]]] = {
    "an activation between": (
        [GEMM, ("Relu", ["g"], "a"), ("Reshape", ["a", "shape"], "r"), UP],
        {},
    ),
    "an activation after the reshape": (
        [GEMM, RESHAPE, ("Relu", ["r"], "a"), ("ConvTranspose", ["a", *UP[1][1:]], "y", UP[3])],
        {},
    ),
    "a residual Add between": (
        [GEMM, RESHAPE, ("Add", ["r", "e"], "a"),
         ("ConvTranspose", ["a", *UP[1][1:]], "y", UP[3])],
        {"e": np.ones((3, 4, 2), np.float32)},
    ),
    "two readers of the matrix": ([GEMM, RESHAPE, UP, ("Neg", ["g"], "z")], {}),
    "two readers of the reshape": ([GEMM, RESHAPE, UP, ("Neg", ["r"], "z")], {}),
    "a transposed matrix": (
        [(*GEMM, {"transB": 1}), RESHAPE, UP],
        {"m": np.ones((24, 2), np.float32)},
    ),
    "computed weights": ([("Neg", ["w"], "v"), GEMM, RESHAPE,
                          ("ConvTranspose", ["r", "v", "b"], "y", UP[3])], {}),
    "a computed bias": ([("Neg", ["b"], "d"), GEMM, RESHAPE,
                         ("ConvTranspose", ["r", "w", "d"], "y", UP[3])], {}),
    "a computed matrix": ([("Neg", ["m"], "k"), ("Gemm", ["x", "k"], "g"), RESHAPE, UP], {}),
    "a computed bias of the matrix": (
        [("Neg", ["n"], "k"), ("Gemm", ["x", "m", "k"], "g"), RESHAPE, UP], {}
    ),
    "a computed target": (
        [("Shape", ["x"], "s"), ("Slice", ["s", "zero", "one"], "batch"),
         ("Concat", ["batch", "rest"], "t", {"axis": 0}), GEMM,
         ("Reshape", ["g", "t"], "r"), UP],
        {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([3, 4, 2])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_what_is_no_chain_of_constants_is_left_alone(name: str) -> None:
    nodes, more = ALONE[name]
    outputs = ("y", "z") if nodes[-1][2] == "z" else ("y",)
    graph = graph_of(nodes, {**LINEAR, **more}, (2,), (2, 8, 4), outputs)
    before = graph.model().SerializeToString()
    expected = in_runtime(graph, rows_for(2))  # which also proves that the graph is valid
    fold_linear(graph)
    assert graph.model().SerializeToString() == before
    np.testing.assert_array_equal(in_runtime(graph, rows_for(2)), expected)


def test_a_transposed_matrix_is_left_alone_even_where_folding_would_pay() -> None:
    graph = chain(
        "ConvTranspose", (3, 4, 2), (2, 8, 4), (3, 2, 2, 2), strides=[2, 2], gemm={"transB": 1}
    )
    graph.constants["m"] = np.ascontiguousarray(graph.constants["m"].T)
    before = graph.model().SerializeToString()
    assert in_runtime(graph, rows_for(2)).shape == (3, 2, 8, 4)
    fold_linear(graph)
    assert graph.model().SerializeToString() == before


@pytest.mark.parametrize("inner", ["g", "r"])
def test_a_tensor_that_is_an_output_is_kept(inner: str) -> None:
    graph = graph_of([GEMM, RESHAPE, UP], LINEAR, (2,), (2, 8, 4), ("y", inner))
    before = graph.model().SerializeToString()
    fold_linear(graph)
    assert graph.model().SerializeToString() == before


def test_without_the_obstacle_the_same_graph_folds() -> None:
    graph = graph_of([GEMM, RESHAPE, UP], LINEAR, (2,), (2, 8, 4))
    expected = in_runtime(graph, rows_for(2))
    fold_linear(graph)
    assert ops(graph) == ["Gemm", "Reshape"]
    assert_same(graph, rows_for(2), expected)


# --- activate_before_reshape


@pytest.mark.parametrize("shape", [(3, 4, 2), (24, 1, 1), (1, 5, 7)])
@pytest.mark.parametrize("last", [False, True])
def test_relu_moves_before_the_reshape(shape: tuple[int, int, int], last: bool) -> None:
    rng = np.random.default_rng(5)
    matrix = rng.normal(0, 1, (2, prod(shape))).astype(np.float32)
    end: tuple[Any, ...] = ("y",) if last else ("a",)
    graph = graph_of([
        ("Gemm", ["x", "m"], "g"),
        ("Reshape", ["g", "shape"], "r"),
        ("Relu", ["r"], *end),
        *([] if last else [("Neg", ["a"], "y")]),
    ], {"m": matrix, "shape": np.array([-1, *shape])}, (2,), shape)  # fmt: skip
    expected = in_runtime(graph, rows_for(2))
    activate_before_reshape(graph)
    assert ops(graph)[:3] == ["Gemm", "Relu", "Reshape"]
    for result in outputs_of(graph, rows_for(2)):
        np.testing.assert_array_equal(result, expected)
    assert expected.any() and not expected.all()


@pytest.mark.parametrize(
    ("act", "outputs"), [("LeakyRelu", ("y",)), ("Relu", ("y", "r")), ("Relu", ("y", "g"))]
)
def test_other_activations_and_tensors_that_are_read_elsewhere_stay(
    act: str, outputs: tuple[str, ...]
) -> None:
    graph = graph_of([GEMM, RESHAPE, (act, ["r"], "y")], LINEAR, (2,), (3, 4, 2), outputs)
    before = graph.model().SerializeToString()
    activate_before_reshape(graph)
    assert graph.model().SerializeToString() == before


# --- the bias of a wide matrix

WIDE = 16_385  # outputs of 16 images exceed a MiB


def dense(inputs: int, outputs: int, *, bias: bool = True, **attributes: Any) -> Graph:
    """x (N, inputs) → Gemm → Relu → y (N, outputs)."""
    rng = np.random.default_rng(0)
    shape = (outputs, inputs) if attributes.get("transB") else (inputs, outputs)
    constants = {
        "w": rng.normal(0, 1, shape).astype(np.float32),
        "b": rng.normal(0, 1, outputs).astype(np.float32),
    }
    nodes: list[tuple[Any, ...]] = [
        ("Gemm", ["x", "w", "b"][: 2 + bias], "g", attributes),
        ("Relu", ["g"], "y"),
    ]
    return graph_of(nodes, constants, (inputs,), (outputs,))


@pytest.mark.parametrize("inputs", [1, 16, 32])
def test_the_bias_of_a_wide_matrix_becomes_its_last_row(inputs: int) -> None:
    graph = dense(inputs, WIDE)
    rows = np.random.default_rng(1).normal(0, 1, (3, inputs)).astype(np.float32)
    expected = in_runtime(graph, rows)
    bias_as_row(graph)
    assert ops(graph) == ["Pad", "MatMul", "Relu"]
    assert graph.constants[graph.nodes[1].input[1]].shape == (inputs + 1, WIDE)
    assert_same(graph, rows, expected)


@pytest.mark.parametrize(
    ("inputs", "outputs", "how"),
    [
        (16, WIDE - 1, {}),  # stays in the cache
        (33, WIDE, {}),  # long sums
        (16, WIDE, {"bias": False}),
        (16, WIDE, {"transB": 1}),
    ],
)
def test_other_matrices_keep_their_bias(inputs: int, outputs: int, how: dict[str, Any]) -> None:
    graph = dense(inputs, outputs, **how)
    before = graph.model().SerializeToString()
    bias_as_row(graph)
    assert graph.model().SerializeToString() == before
