"""Each cleanup pass on a graph of its own: the same function before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.rewrite import cleanup
from export.rewrite.graph import Graph

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1, shape).astype(np.float32)


def graph_of(
    nodes: list[tuple[Any, ...]],
    constants: dict[str, Any],
    input_row: tuple[int, ...],
    output_row: tuple[Any, ...],
    outputs: tuple[str, ...] = ("y",),
) -> Graph:
    """Nodes (op, inputs, output, attributes) from x (N, *input_row) to y (N, *output_row)."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, i, [o], **(a[0] if a else {})) for op, i, o, *a in nodes],
        "test",
        [value("x", TensorProto.FLOAT, ["N", *input_row])],
        [value(name, TensorProto.FLOAT, ["N", *output_row]) for name in outputs[:1]]
        + [value(name, TensorProto.FLOAT, None) for name in outputs[1:]],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return Graph(helper.make_model(graph, opset_imports=opset, ir_version=8))


def run(graph: Graph, rows: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(
        graph.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    output: np.ndarray = session.run(["y"], {"x": rows})[0]
    return output


def ops(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.nodes]


def same_after(graph: Graph, rows: np.ndarray, *passes: Callable[[Graph], None]) -> None:
    before = run(graph, rows)
    for each in passes:
        each(graph)
    after = run(graph, rows)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)
    assert after.shape == before.shape


def test_a_computed_reshape_becomes_a_constant() -> None:
    graph = graph_of([
        ("Shape", ["x"], "s"),
        ("Slice", ["s", "zero", "one"], "n"),
        ("Concat", ["n", "rest"], "target", {"axis": 0}),
        ("Reshape", ["x", "target"], "y"),
    ], {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([3, 4])},
        (12,), (3, 4))  # fmt: skip
    same_after(graph, floats(5, 12), cleanup.fix_reshapes, Graph.prune)
    assert ops(graph) == ["Reshape"]
    assert [list(v) for v in graph.constants.values()] == [[-1, 3, 4]]


def test_a_reshape_of_unknown_size_is_left_alone() -> None:
    graph = graph_of([
        ("Shape", ["x"], "s"),
        ("Reshape", ["x", "s"], "y"),
    ], {}, (12,), ("M",))  # fmt: skip
    graph.inputs[0].type.tensor_type.shape.dim[1].dim_param = "M"
    cleanup.fix_reshapes(graph)
    assert ops(graph) == ["Shape", "Reshape"]


@pytest.mark.parametrize(("c", "h", "w"), [(2, 3, 5), (1, 4, 3), (3, 1, 1), (4, 2, 2)])
def test_a_transpose_before_a_dense_layer_goes_into_its_rows(c: int, h: int, w: int) -> None:
    graph = graph_of([
        ("Transpose", ["x"], "t", {"perm": [0, 2, 3, 1]}),
        ("Reshape", ["t", "flat"], "f"),
        ("MatMul", ["f", "w"], "y"),
    ], {"flat": np.array([-1, c * h * w]), "w": floats(c * h * w, 6)}, (c, h, w), (6,))  # fmt: skip
    same_after(graph, floats(4, c, h, w), cleanup.absorb_transpose_before_dense)
    assert ops(graph) == ["Reshape", "MatMul"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("c", "h", "w"), [(2, 3, 5), (1, 4, 3), (3, 1, 1), (4, 2, 2)])
def test_a_transpose_after_a_dense_layer_goes_into_its_columns(
    bias: bool, c: int, h: int, w: int
) -> None:
    size = c * h * w
    graph = graph_of([
        ("MatMul", ["x", "w"], "m"),
        *([("Add", ["b", "m"], "a")] if bias else []),
        ("Reshape", ["a" if bias else "m", "shape"], "r"),
        ("Transpose", ["r"], "t", {"perm": [0, 3, 1, 2]}),
        ("Relu", ["t"], "y"),
    ], {"w": floats(6, size), "shape": np.array([-1, h, w, c]),
        **({"b": floats(size)} if bias else {})}, (6,), (c, h, w))  # fmt: skip
    same_after(graph, floats(4, 6), cleanup.absorb_transpose_after_dense)
    assert "Transpose" not in ops(graph)
    assert len(ops(graph)) == 4 if bias else 3


def test_a_transpose_that_is_the_output_keeps_the_outputs_name() -> None:
    graph = graph_of([
        ("MatMul", ["x", "w"], "m"),
        ("Reshape", ["m", "shape"], "r"),
        ("Transpose", ["r"], "y", {"perm": [0, 3, 1, 2]}),
    ], {"w": floats(6, 30), "shape": np.array([-1, 3, 5, 2])}, (6,), (2, 3, 5))  # fmt: skip
    same_after(graph, floats(4, 6), cleanup.absorb_transpose_after_dense)
    assert ops(graph) == ["MatMul", "Reshape"]


def test_a_transpose_after_an_active_dense_layer_goes_into_its_columns() -> None:
    graph = graph_of([
        ("MatMul", ["x", "w"], "m"),
        ("Add", ["m", "b"], "a"),
        ("Relu", ["a"], "r"),
        ("Reshape", ["r", "shape"], "i"),
        ("Transpose", ["i"], "y", {"perm": [0, 3, 1, 2]}),
    ], {"w": floats(5, 24), "b": floats(24), "shape": np.array([-1, 2, 3, 4])},
        (5,), (4, 2, 3))  # fmt: skip
    same_after(graph, floats(3, 5), cleanup.absorb_transpose_after_dense)
    assert ops(graph) == ["MatMul", "Add", "Relu", "Reshape"]


@pytest.mark.parametrize("shape", [(6,), (1, 6)])
def test_a_factor_goes_into_the_matrix_before_it(shape: tuple[int, ...]) -> None:
    graph = graph_of([
        ("MatMul", ["x", "w"], "m"),
        ("Mul", ["m", "f"], "s"),
        ("Add", ["s", "b"], "y"),
    ], {"w": floats(5, 6), "f": floats(*shape), "b": floats(6)}, (5,), (6,))  # fmt: skip
    same_after(graph, floats(3, 5), cleanup.fuse_scale)
    assert ops(graph) == ["MatMul", "Add"]


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
def test_a_factor_goes_into_the_transposed_convolution_before_it(shape: tuple[int, ...]) -> None:
    attributes = {"strides": [2, 2], "pads": [0, 0, 1, 1]}
    graph = graph_of([
        ("ConvTranspose", ["x", "w"], "c", attributes),
        ("Mul", ["f", "c"], "y"),
    ], {"w": floats(3, 4, 3, 3), "f": floats(*shape)}, (3, 5, 7), (4, 10, 14))  # fmt: skip
    same_after(graph, floats(2, 3, 5, 7), cleanup.fuse_scale)
    assert ops(graph) == ["ConvTranspose"]


@pytest.mark.parametrize("factor", [floats(1), floats(1, 1, 5, 7), floats(1, 1, 1, 7)])
def test_a_factor_that_is_not_for_each_output_is_left_alone(factor: np.ndarray) -> None:
    graph = graph_of([
        ("ConvTranspose", ["x", "w"], "c", {"pads": [1, 1, 1, 1]}),
        ("Mul", ["c", "f"], "y"),
    ], {"w": floats(3, 7, 3, 3), "f": factor}, (3, 5, 7), (7, 5, 7))  # fmt: skip
    same_after(graph, floats(2, 3, 5, 7), cleanup.fuse_scale)
    assert ops(graph) == ["ConvTranspose", "Mul"]


@pytest.mark.parametrize("perm", [[0, 1, 3, 2], [0, 3, 1, 2]])
def test_other_transposes_stay(perm: list[int]) -> None:
    shape = [2, 3, 4]
    moved = [shape[axis - 1] for axis in perm[1:]]
    graph = graph_of([
        ("Transpose", ["x"], "t", {"perm": perm}),
        ("Reshape", ["t", "flat"], "f"),
        ("MatMul", ["f", "w"], "y"),
    ], {"flat": np.array([-1, 24]), "w": floats(24, 6)}, (2, 3, 4), (6,))  # fmt: skip
    assert sorted(moved) == sorted(shape)
    same_after(graph, floats(4, 2, 3, 4), cleanup.clean)
    assert "Transpose" in ops(graph)


def test_a_transpose_that_something_else_reads_stays() -> None:
    graph = graph_of([
        ("Transpose", ["x"], "t", {"perm": [0, 2, 3, 1]}),
        ("Reshape", ["t", "flat"], "f"),
        ("MatMul", ["f", "w"], "y"),
        ("Relu", ["t"], "z"),
    ], {"flat": np.array([-1, 30]), "w": floats(30, 6)}, (2, 3, 5), (6,), ("y", "z"))  # fmt: skip
    same_after(graph, floats(4, 2, 3, 5), cleanup.absorb_transpose_before_dense)
    assert "Transpose" in ops(graph)


@pytest.mark.parametrize("order", [["m", "b"], ["b", "m"]])
@pytest.mark.parametrize("shape", [(6,), (1, 6)])
def test_a_matrix_and_its_bias_become_gemm(order: list[str], shape: tuple[int, ...]) -> None:
    graph = graph_of(
        [("MatMul", ["x", "w"], "m"), ("Add", order, "y")],
        {"w": floats(4, 6), "b": floats(*shape)}, (4,), (6,),
    )  # fmt: skip
    same_after(graph, floats(3, 4), cleanup.fuse_bias)
    assert ops(graph) == ["Gemm"]


@pytest.mark.parametrize("filters", [1, 3])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_convolution_takes_its_bias_and_keeps_its_attributes(op: str, filters: int) -> None:
    weight = floats(filters, 2, 3, 3) if op == "Conv" else floats(2, filters, 3, 3)
    sides = (3, 4) if op == "Conv" else (11, 15)
    graph = graph_of(
        [(op, ["x", "w"], "c", {"strides": [2, 2]}), ("Add", ["c", "b"], "y")],
        {"w": weight, "b": floats(1, filters, 1, 1)}, (2, 7, 9) if op == "Conv" else (2, 5, 7),
        (filters, *sides),
    )  # fmt: skip
    rows = floats(3, 2, 7, 9) if op == "Conv" else floats(3, 2, 5, 7)
    same_after(graph, rows, cleanup.fuse_bias)
    assert ops(graph) == [op]
    assert len(graph.nodes[0].input) == 3


@pytest.mark.parametrize("shape", [(3,), (1, 1, 1, 3), (3, 4), (1, 1, 3, 4)])
def test_an_addition_that_is_no_bias_is_left_alone(shape: tuple[int, ...]) -> None:
    """Broadcast over width, or a whole picture added: three of them, as many as filters."""
    graph = graph_of(
        [("Conv", ["x", "w"], "c"), ("Add", ["c", "b"], "y")],
        {"w": floats(3, 2, 1, 1), "b": floats(*shape[:-1], 4 if shape[-1] == 4 else 3)},
        (2, 3, 4 if shape[-1] == 4 else 3), (3, 3, 4 if shape[-1] == 4 else 3),
    )  # fmt: skip
    same_after(graph, floats(2, 2, 3, 4 if shape[-1] == 4 else 3), cleanup.fuse_bias)
    assert ops(graph) == ["Conv", "Add"]


def test_names_depend_on_places_alone() -> None:
    def built(prefix: str) -> Graph:
        return graph_of([
            ("MatMul", ["x", f"{prefix}w"], f"{prefix}m"),
            ("Relu", [f"{prefix}m"], f"{prefix}r"),
            ("Reshape", [f"{prefix}r", f"{prefix}s"], "y"),
        ], {f"{prefix}w": np.ones((4, 6), np.float32), f"{prefix}s": np.array([-1, 2, 3])},
            (4,), (2, 3))  # fmt: skip

    first, second = built("a/"), built("StatefulPartitionedCall/")
    for graph in (first, second):
        same_after(graph, floats(3, 4), cleanup.rename)
    assert first.model().SerializeToString() == second.model().SerializeToString()
    assert set(first.constants) == {"matmul_0.weight", "reshape_2.shape"}
    assert [node.output[0] for node in first.nodes] == ["matmul_0", "relu_1", "y"]


@pytest.mark.parametrize("act", cleanup.ELEMENTWISE)
def test_there_and_back_around_an_activation_cancel(act: str) -> None:
    graph = graph_of([
        ("Transpose", ["x"], "t", {"perm": [0, 3, 1, 2]}),
        (act, ["t"], "a", {"alpha": 0.3} if act in ("LeakyRelu", "Elu") else {}),
        ("Transpose", ["a"], "y", {"perm": [0, 2, 3, 1]}),
    ], {}, (3, 4, 2), (3, 4, 2))  # fmt: skip
    same_after(graph, floats(2, 3, 4, 2), cleanup.cancel_transposes)
    assert ops(graph) == [act]


@pytest.mark.parametrize(
    ("first", "act", "last"),
    [
        ([0, 3, 1, 2], "Softmax", [0, 2, 3, 1]),  # looks along an axis
        ([0, 2, 3, 1], "Relu", [0, 3, 1, 2]),  # the other way round
        ([0, 3, 1, 2], "Relu", [0, 3, 1, 2]),
    ],
)
def test_other_transposes_around_an_activation_stay(
    first: list[int], act: str, last: list[int]
) -> None:
    graph = graph_of([
        ("Transpose", ["x"], "t", {"perm": first}), (act, ["t"], "a"),
        ("Transpose", ["a"], "y", {"perm": last}),
    ], {}, (3, 3, 3), (3, 3, 3))  # fmt: skip
    same_after(graph, floats(2, 3, 3, 3), cleanup.cancel_transposes)
    assert ops(graph) == ["Transpose", act, "Transpose"]


def test_every_constant_of_a_node_gets_a_name_of_its_own() -> None:
    constants = {
        "from": np.array([0, 1]), "to": np.array([2, 3]), "along": np.array([1, 2]),
        "by": np.array([1, 2]),
    }  # fmt: skip
    graph = graph_of(
        [("Slice", ["x", "from", "to", "along", "by"], "y")], constants, (3, 4), (2, 1)
    )
    same_after(graph, floats(2, 3, 4), cleanup.rename)
    assert len(graph.constants) == 4


def test_a_graph_leaves_its_model_as_it_was() -> None:
    model = graph_of([("Relu", ["x"], "r"), ("Neg", ["r"], "y")], {}, (3,), (3,)).model()
    before = model.SerializeToString()
    graph = Graph(model)
    cleanup.rename(graph)
    graph.nodes[0].op_type = graph.outputs[0].name = "Abs"
    assert model.SerializeToString() == before
