"""Merge consecutive linear layers into one matrix where that is cheaper.

Between a decoder's Dense layer and its first transposed convolution there is no activation. In the
preset `classic` the two cost 50 k + 1.8 M multiply-adds per image, one matrix 200 k; its columns
can be in any order, so that its output needs no transposition.
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

SHORT_SUM = 32  # products; the matrix of `classic` has 16 per sum, one for each latent


def fold_linear(graph: Graph) -> None:
    """Gemm, Reshape, Conv or ConvTranspose becomes one Gemm, while that saves multiply-adds."""
    pattern = ("Gemm", "Reshape", ("Conv", "ConvTranspose"))
    while any(_fold(graph, chain) for chain in graph.chains(*pattern)):
        pass


def activate_before_reshape(graph: Graph) -> None:
    """Gemm, Reshape, Relu becomes Gemm, Relu, Reshape: runtimes fuse the first two."""
    for gemm, reshape, relu in graph.chains("Gemm", "Reshape", "Relu"):
        active = f"{gemm.output[0]}_active"
        graph.replace(
            [reshape, relu],
            [
                helper.make_node("Relu", [gemm.output[0]], [active]),
                helper.make_node("Reshape", [active, reshape.input[1]], [relu.output[0]]),
            ],
        )


def bias_as_row(graph: Graph) -> None:
    """Make the bias of a wide matrix its last row, for an input of 1.

    Gemm writes its bias into the output, reads it again for the products and again for the
    activation. That matters where sums are short and the output of 16 images exceeds a core's
    cache; other layers are not changed.
    """
    for (gemm,) in graph.chains("Gemm"):
        if len(gemm.input) < 3 or gemm.attribute:
            continue
        matrix, bias = (graph.constants.get(name) for name in gemm.input[1:3])
        if matrix is None or bias is None or bias.shape != matrix.shape[1:]:
            continue
        inputs, outputs = matrix.shape
        if inputs > SHORT_SUM or 16 * 4 * outputs <= CACHE:
            continue
        output = gemm.output[0]
        rows = graph.add_constant(f"{gemm.input[1]}_and_bias", np.concatenate([matrix, [bias]]))
        pads = graph.add_constant(f"{output}_pads", np.array([0, 0, 0, 1], np.int64))
        one = graph.add_constant(f"{output}_one", np.array(1, np.float32))
        longer = f"{output}_with_one"
        graph.replace(
            [gemm],
            [
                helper.make_node("Pad", [gemm.input[0], pads, one], [longer]),
                helper.make_node("MatMul", [longer, rows], [output]),
            ],
        )
    graph.prune()


def _fold(graph: Graph, chain: list[onnx.NodeProto]) -> bool:
    """Fold the chain into one Gemm if that is cheaper; whether it was done."""
    gemm, _, convolution = chain
    transposed = convolution.op_type == "ConvTranspose"
    if any(name not in graph.constants for node in chain for name in node.input[1:]):
        return False
    # onnx.reference, which `_as_matrix` uses, computes these two wrongly.
    if transposed and (
        attribute(convolution, "group", 1) != 1 or attribute(convolution, "output_shape")
    ):
        return False
    shapes = graph.shapes()
    before, after = (
        [side or 0 for side in shapes[tensor][1:]]
        for tensor in (convolution.input[0], convolution.output[0])
    )
    if 0 in before or 0 in after or attribute(gemm, "transB", 0):
        return False
    size = len(graph.constants[gemm.input[1]])
    positions = math.prod((before if transposed else after)[1:])
    macs = size * math.prod(before) + graph.constants[convolution.input[1]].size * positions
    if size * math.prod(after) > macs:
        return False

    matrix, bias = _as_matrix(graph, chain, size)
    output = convolution.output[0]
    weight_name = graph.add_constant(f"{output}_folded", matrix)
    bias_name = graph.add_constant(f"{output}_folded_bias", bias)
    shape = graph.add_constant(f"{output}_shape", np.array([-1, *after], np.int64))
    flat = f"{output}_flat"
    graph.replace(
        chain,
        [
            helper.make_node("Gemm", [gemm.input[0], weight_name, bias_name], [flat]),
            helper.make_node("Reshape", [flat, shape], [output]),
        ],
    )
    graph.prune()
    return True


def _as_matrix(graph: Graph, chain: list[onnx.NodeProto], size: int) -> tuple[Array, Array]:
    """The affine map of a chain as (size, outputs) and (outputs,): its values on a basis.

    Computed in float64, so that folding rounds once.
    """
    constants = {name: graph.constants[name] for node in chain for name in node.input[1:]}
    double, source, output = onnx.TensorProto.DOUBLE, chain[0].input[0], chain[-1].output[0]
    body = helper.make_graph(
        chain,
        "chain",
        [helper.make_tensor_value_info(source, double, ["N", size])],
        [helper.make_tensor_value_info(output, double, None)],
        [
            onnx.numpy_helper.from_array(
                value.astype(np.float64) if value.dtype == np.float32 else value, name
            )
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", graph.opset)])
    basis = np.concatenate([np.zeros((1, size)), np.eye(size)])
    values = ReferenceEvaluator(model).run(None, {source: basis})[0].reshape(size + 1, -1)
    return (values[1:] - values[0]).astype(np.float32), values[0].astype(np.float32)
