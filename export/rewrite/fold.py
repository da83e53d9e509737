"""Fold what is linear: a chain of linear layers is one matrix, where that is cheaper.

Between a decoder's Dense layer and its first transposed convolution there is no activation. In the
classic's network the two cost 50 k + 1.8 M multiply-adds an image and the one matrix 200 k; and
since its columns may stand in any order, what it writes needs no transposition.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from common.arrays import Array
from export.rewrite.cost import CACHE
from export.rewrite.graph import Graph, attribute

SHORT_SUM = 32  # products in one; the classic network's matrix has 16, one for each latent
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def fold_linear(graph: Graph) -> None:
    """Gemm, Reshape, Conv or ConvTranspose: one Gemm, as often as it saves multiply-adds."""
    while any(_fold(graph, node) for node in list(graph.nodes)):
        pass


def activate_before_reshape(graph: Graph) -> None:
    """Gemm, Reshape, Relu becomes Gemm, Relu, Reshape: runtimes fuse the first two."""
    for node in list(graph.nodes):
        found = graph.chain(node, "Gemm", "Reshape", "Relu")
        if not found:
            continue
        gemm, reshape, relu = found
        active = f"{gemm.output[0]}_active"
        graph.replace(
            [reshape, relu],
            [
                helper.make_node("Relu", [gemm.output[0]], [active]),
                helper.make_node("Reshape", [active, reshape.input[1]], [relu.output[0]]),
            ],
        )


def bias_as_row(graph: Graph) -> None:
    """The bias of a wide matrix becomes its last row, for an input of 1.

    Gemm writes its bias into the answer, reads it again for the products and once more for the
    activation. That is nothing beside long sums, or while the answer stays in the cache: so only
    short sums, whose answers for 16 images exceed a core's cache.
    """
    for gemm in list(graph.nodes):
        if gemm.op_type != "Gemm" or len(gemm.input) < 3 or gemm.attribute:
            continue
        matrix, bias = (graph.constants.get(name) for name in gemm.input[1:3])
        if matrix is None or bias is None or bias.shape != matrix.shape[1:]:
            continue
        inputs, outputs = matrix.shape
        if inputs > SHORT_SUM or 16 * 4 * outputs <= CACHE:
            continue
        answer = gemm.output[0]
        rows = graph.add_constant(f"{gemm.input[1]}_and_bias", np.concatenate([matrix, [bias]]))
        pads = graph.add_constant(f"{answer}_pads", np.array([0, 0, 0, 1], np.int64))
        one = graph.add_constant(f"{answer}_one", np.array(1, np.float32))
        longer = f"{answer}_with_one"
        graph.replace(
            [gemm],
            [
                helper.make_node("Pad", [gemm.input[0], pads, one], [longer]),
                helper.make_node("MatMul", [longer, rows], [answer]),
            ],
        )
    graph.prune()


def _fold(graph: Graph, gemm: onnx.NodeProto) -> bool:
    """Fold what follows one Gemm into it; whether that was done."""
    found = next(
        (c for op in _CONVOLUTIONS if (c := graph.chain(gemm, "Gemm", "Reshape", op))), None
    )
    if found is None:
        return False
    convolution = found[-1]
    if any(name not in graph.constants for node in found for name in node.input[1:]):
        return False
    # onnx.reference, which `_as_matrix` evaluates with, gets these two wrong.
    if convolution.op_type == "ConvTranspose" and (
        attribute(convolution, "group", 1) != 1 or attribute(convolution, "output_shape")
    ):
        return False
    shapes = graph.shapes()
    made = [side or 0 for side in shapes[convolution.output[0]][1:]]
    taken = [side or 0 for side in shapes[convolution.input[0]][1:]]
    weights = graph.constants[convolution.input[1]]
    if 0 in made or 0 in taken or attribute(gemm, "transB", 0):
        return False
    size = len(graph.constants[gemm.input[1]])
    positions = taken if convolution.op_type == "ConvTranspose" else made
    separate = size * math.prod(taken) + weights.size * math.prod(positions[1:])
    if size * math.prod(made) > separate:
        return False

    matrix, bias = _as_matrix(graph, found, size)
    answer = convolution.output[0]
    weight_name = graph.add_constant(f"{answer}_folded", matrix)
    bias_name = graph.add_constant(f"{answer}_folded_bias", bias)
    shape = graph.add_constant(f"{answer}_shape", np.array([-1, *made], np.int64))
    flat = f"{answer}_flat"
    graph.replace(
        found,
        [
            helper.make_node("Gemm", [gemm.input[0], weight_name, bias_name], [flat]),
            helper.make_node("Reshape", [flat, shape], [answer]),
        ],
    )
    graph.prune()
    return True


def _as_matrix(graph: Graph, chain: list[onnx.NodeProto], size: int) -> tuple[Array, Array]:
    """The affine map of a chain as (size, outputs) and (outputs,): its values on a basis.

    Computed in float64, so that folding rounds once.
    """
    constants = {
        name: graph.constants[name].astype(np.float64)
        if graph.constants[name].dtype == np.float32
        else graph.constants[name]
        for node in chain
        for name in node.input
        if name in graph.constants
    }
    source, answer = chain[0].input[0], chain[-1].output[0]
    body = helper.make_graph(
        chain,
        "chain",
        [helper.make_tensor_value_info(source, onnx.TensorProto.DOUBLE, ["N", size])],
        [helper.make_tensor_value_info(answer, onnx.TensorProto.DOUBLE, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", graph.opset)])
    basis = np.concatenate([np.zeros((1, size)), np.eye(size)])
    values = ReferenceEvaluator(model).run(None, {source: basis})[0].reshape(size + 1, -1)
    matrix = values[1:] - values[0]
    return matrix.astype(np.float32), values[0].astype(np.float32)
