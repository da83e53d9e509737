"""Merge consecutive linear layers into one matrix where that is cheaper.

Between a decoder's Dense layer and its first transposed convolution there is no activation. In the
preset `classic` the two cost 50 k + 1.8 M multiply-adds per image, one matrix 200 k; its columns
can be in any order, so that its output needs no transposition.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import onnx
from onnx import helper

from common.arrays import Array
from export.rewrite.cost import CACHE
from export.rewrite.graph import Graph, attribute

SHORT_SUM = 32  # products; the matrix of `classic` has 16 per sum, one for each latent


def fold_linear(graph: Graph) -> None:
    """Gemm, Reshape, ConvTranspose becomes Gemm, Reshape, while that saves multiply-adds."""
    while any(_fold(graph, chain) for chain in graph.chains("Gemm", "Reshape", "ConvTranspose")):
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
    gemm, _, up = chain
    if any(name not in graph.constants for node in chain for name in node.input[1:]):
        return False
    if gemm.attribute or attribute(up, "group", 1) != 1 or attribute(up, "output_shape"):
        return False
    shapes = graph.shapes()
    before, after = (
        [side or 0 for side in shapes[tensor][1:]] for tensor in (up.input[0], up.output[0])
    )
    if 0 in before or 0 in after or attribute(up, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    size = len(graph.constants[gemm.input[1]])
    kernel = graph.constants[up.input[1]]
    if size * math.prod(after) > size * math.prod(before) + kernel.size * math.prod(before[1:]):
        return False

    matrix, bias = _as_matrix(graph, gemm, up, before, after)
    output = up.output[0]
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


def _as_matrix(
    graph: Graph, gemm: onnx.NodeProto, up: onnx.NodeProto, before: list[int], after: list[int]
) -> tuple[Array, Array]:
    """The affine map of both layers as (size, outputs) and (outputs,): its values on a basis.

    Each value is computed in float64, so that folding rounds once.
    """
    matrix, *bias = (graph.constants[name].astype(np.float64) for name in gemm.input[1:])
    kernel, *up_bias = (graph.constants[name].astype(np.float64) for name in up.input[1:])
    outputs, *taps = kernel.shape[1:]
    strides, dilations = (attribute(up, name, [1, 1]) for name in ("strides", "dilations"))
    begin = attribute(up, "pads", [0] * 4)[:2]
    reaches = [(side - 1) * stride + 1 for side, stride in zip(before[1:], strides, strict=True)]
    sides = [  # of the image before it is cropped
        max(reach + (count - 1) * dilation, first + side)
        for reach, count, dilation, first, side in zip(
            reaches, taps, dilations, begin, after[1:], strict=True
        )
    ]

    def upsampled(row: Array) -> Array:
        columns = kernel.reshape(len(kernel), -1).T @ row.reshape(len(kernel), -1)
        parts = columns.reshape(outputs, *taps, *before[1:])
        image = np.zeros((outputs, *sides))
        for tap in product(*map(range, taps)):
            place = (
                slice(index * dilation, index * dilation + reach, stride)
                for index, dilation, reach, stride in zip(
                    tap, dilations, reaches, strides, strict=True
                )
            )
            image[:, *place] += parts[:, *tap]
        image = image[:, begin[0] : begin[0] + after[1], begin[1] : begin[1] + after[2]]
        if up_bias:
            image = image + up_bias[0][:, None, None]
        return image.reshape(-1)

    offset = np.broadcast_to(bias[0], matrix.shape[1:]) if bias else np.zeros(matrix.shape[1])
    constant = upsampled(offset)
    rows = [(upsampled(row + offset) - constant).astype(np.float32) for row in matrix]
    return np.stack(rows), constant.astype(np.float32)
