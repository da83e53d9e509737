"""The handle on an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.rewrite.graph import Graph, attribute


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    """x (N, 4) → outputs of any shape."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "test",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


W = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def graph() -> Graph:
    return Graph(model([
        node("Constant", [], "w", value=numpy_helper.from_array(W)),
        node("MatMul", ["x", "w"], "m"),
        node("Relu", ["m"], "r"),
        node("Neg", ["r"], "y"),
        node("Abs", ["r"], "dead"),
    ], {"unused": W}))  # fmt: skip


def test_constants_come_from_nodes_and_initializers(graph: Graph) -> None:
    assert set(graph.constants) == {"w", "unused"}
    np.testing.assert_array_equal(graph.constants["w"], W)
    assert [n.op_type for n in graph.nodes] == ["MatMul", "Relu", "Neg", "Abs"]


def test_producers_and_readers(graph: Graph) -> None:
    matmul, relu, neg, dead = graph.nodes
    assert graph.producer("r") is relu
    assert graph.producer("x") is None
    assert graph.producer("w") is None
    assert graph.readers("r") == [neg, dead]
    assert graph.only_reader(matmul) is relu
    assert graph.only_reader(relu) is None  # two read it
    assert graph.only_reader(neg) is None  # the output reads it


def test_chains_end_where_anything_else_reads(graph: Graph) -> None:
    matmul, relu = graph.nodes[:2]
    assert graph.chain(matmul, "MatMul", "Relu") == [matmul, relu]
    assert graph.chain(matmul, "MatMul", "Relu", "Neg") is None
    assert graph.chain(matmul, "Relu") is None
    assert graph.chain(None, "Relu") is None


def test_a_tensor_that_is_an_output_has_no_only_reader() -> None:
    graph = Graph(model([node("Relu", ["x"], "r"), node("Neg", ["r"], "y")], {},
                        outputs=("y", "r")))  # fmt: skip
    assert graph.only_reader(graph.nodes[0]) is None


def test_prune_keeps_what_outputs_need(graph: Graph) -> None:
    graph.prune()
    assert [n.op_type for n in graph.nodes] == ["MatMul", "Relu", "Neg"]
    assert set(graph.constants) == {"w"}


def test_new_constants_never_overwrite(graph: Graph) -> None:
    name = graph.add_constant("w", W + 1)
    assert name != "w"
    np.testing.assert_array_equal(graph.constants["w"], W)
    np.testing.assert_array_equal(graph.constants[name], W + 1)


def test_constant_input(graph: Graph) -> None:
    matmul, relu = graph.nodes[:2]
    assert graph.constant_input(matmul) == "w"
    assert graph.constant_input(relu) is None


def test_shapes_leave_the_batch_open(graph: Graph) -> None:
    shapes = graph.shapes()
    assert shapes["x"] == (None, 4)
    assert shapes["m"] == (None, 3)


def test_replace_keeps_the_place(graph: Graph) -> None:
    relu = graph.nodes[1]
    graph.replace([relu], [node("Sigmoid", ["m"], "r")])
    assert [n.op_type for n in graph.nodes] == ["MatMul", "Sigmoid", "Neg", "Abs"]


def test_the_model_is_sorted_again(graph: Graph) -> None:
    graph.nodes.reverse()
    model = graph.model()
    seen = {"x", *(t.name for t in model.graph.initializer)}
    for each in model.graph.node:
        assert seen.issuperset(each.input)
        seen.update(each.output)
    assert (model.ir_version, model.opset_import[0].version) == (8, 18)


def test_a_tensor_that_nothing_computes_is_told(graph: Graph) -> None:
    graph.nodes[1].input[0] = "nowhere"
    with pytest.raises(ValueError, match="nowhere"):
        graph.model()


def test_attributes() -> None:
    transpose = node("Transpose", ["x"], "y", perm=[1, 0])
    assert list(attribute(transpose, "perm")) == [1, 0]
    assert attribute(transpose, "axis") is None
    assert attribute(transpose, "axis", 3) == 3
