"""Passes that remove everything but the network from a graph.

tf2onnx writes Keras's channels-last layers for a channels-first runtime, and its dynamic batch as
arithmetic on shapes. Each pass is exact: it changes no floating-point operation, but renames,
permutes weights, or drops nodes that compute a constant.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import helper

from common.arrays import Array
from export.rewrite.graph import Graph, attribute, node_like

NHWC_TO_NCHW = [0, 3, 1, 2]
NCHW_TO_NHWC = [0, 2, 3, 1]
ELEMENTWISE = ("Relu", "LeakyRelu", "Elu", "Tanh", "Sigmoid")


def clean(graph: Graph) -> None:
    """Run all passes; each relies on those before it."""
    fix_reshapes(graph)
    graph.prune()
    fuse_scale(graph)
    absorb_transpose_before_dense(graph)
    absorb_transpose_after_dense(graph)
    fuse_bias(graph)
    name_dense(graph)
    graph.prune()
    rename(graph)


def fix_reshapes(graph: Graph) -> None:
    """Give each Reshape a constant target: -1 for the batch, numbers for the rest.

    The nodes that computed the target (Shape, Gather, Slice, Concat, Cast) are then unused.
    """
    shapes = graph.shapes()
    for node in graph.nodes:
        if node.op_type != "Reshape" or node.input[1] in graph.constants:
            continue
        rest = shapes.get(node.output[0], (None, None))[1:]
        if all(size is not None for size in rest):
            target = np.array([-1, *rest], np.int64)
            node.input[1] = graph.add_constant(f"{node.output[0]}_shape", target)


def absorb_transpose_before_dense(graph: Graph) -> None:
    """Transpose to NHWC, flatten, MatMul: permute the matrix's rows instead."""
    for transpose, reshape, dense in graph.chains("Transpose", "Reshape", "MatMul"):
        if list(attribute(transpose, "perm")) != NCHW_TO_NHWC:
            continue
        sides = [side or 0 for side in graph.shapes()[transpose.output[0]][1:]]  # (H, W, C)
        weights = graph.constants.get(dense.input[1])
        if weights is None or len(weights) != math.prod(sides):
            continue
        rows = weights.reshape(*sides, -1).transpose(2, 0, 1, 3)
        dense.input[1] = graph.add_constant(f"{dense.input[1]}_nchw", rows.reshape(weights.shape))
        reshape.input[0] = transpose.input[0]
        graph.nodes.remove(transpose)


def absorb_transpose_after_dense(graph: Graph) -> None:
    """MatMul (+ bias, Relu), reshape to NHWC, Transpose to NCHW: permute the columns instead."""
    between: tuple[tuple[str, ...], ...] = ((), ("Add",), ("Relu",), ("Add", "Relu"))
    for chain in (
        chain for ops in between for chain in graph.chains("MatMul", *ops, "Reshape", "Transpose")
    ):
        dense, *rest, reshape, transpose = chain
        target = graph.constants.get(reshape.input[1])
        layers = [dense, *(node for node in rest if node.op_type == "Add")]
        names = [graph.constant_input(layer) for layer in layers]
        if list(attribute(transpose, "perm")) != NHWC_TO_NCHW or None in names:
            continue
        if dense.input[1] not in graph.constants or target is None or len(target) != 4:
            continue
        height, width, channels = target[1:]
        for layer, name in zip(layers, names, strict=True):
            assert name is not None
            values = graph.constants[name]
            columns = values.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
            permuted = graph.add_constant(f"{name}_nchw", columns.reshape(values.shape))
            layer.input[:] = [permuted if tensor == name else tensor for tensor in layer.input]
        shape = np.array([-1, channels, height, width], np.int64)
        reshape.input[1] = graph.add_constant(f"{reshape.input[1]}_nchw", shape)
        reshape.output[0] = transpose.output[0]
        graph.nodes.remove(transpose)


def fuse_scale(graph: Graph) -> None:
    """Multiply a constant factor per output into the weights: batch normalisation, at inference.

    tf2onnx does this for Conv, and leaves Mul and Add after MatMul and ConvTranspose. The product
    is computed in float64, so that it rounds once.
    """
    for node, scale in graph.chains(("MatMul", "ConvTranspose"), "Mul"):
        weights = graph.constants.get(node.input[1])
        name = graph.constant_input(scale)
        if weights is None or name is None or len(node.input) > 2:
            continue
        factor, outputs, dense = graph.constants[name], weights.shape[1], node.op_type == "MatMul"
        if not _per_output(factor, outputs, dense=dense) or attribute(node, "group", 1) != 1:
            continue
        broadcast = factor.reshape(1, outputs, *[1] * (weights.ndim - 2)).astype(np.float64)
        scaled = (weights * broadcast).astype(np.float32)
        inputs = [node.input[0], graph.add_constant(f"{node.input[1]}_scaled", scaled)]
        graph.replace([node, scale], [node_like(node, inputs, scale.output[0])])


def fuse_bias(graph: Graph) -> None:
    """MatMul + Add becomes Gemm, Conv + Add becomes Conv with a bias: the same sums."""
    for node, add in graph.chains(("MatMul", "Conv", "ConvTranspose"), "Add"):
        weights = graph.constants.get(node.input[1])
        name = graph.constant_input(add)
        if weights is None or name is None or len(node.input) > 2:
            continue
        bias, dense = graph.constants[name], node.op_type == "MatMul"
        outputs = weights.shape[0 if node.op_type == "Conv" else 1]
        if not _per_output(bias, outputs, dense=dense):
            continue
        inputs = [*node.input, graph.add_constant(f"{name}_bias", bias.reshape(outputs))]
        fused = node_like(node, inputs, add.output[0], op="Gemm" if dense else node.op_type)
        graph.replace([node, add], [fused])


def _per_output(values: Array, outputs: int, *, dense: bool) -> bool:
    """Whether a constant has one value per output of a layer."""
    return bool(values.size == outputs and (dense or values.shape[-2:] == (1, 1)))


def name_dense(graph: Graph) -> None:
    """A MatMul by a constant matrix is a Gemm without a bias: tf2onnx leaves out biases of zero."""
    for (node,) in graph.chains("MatMul"):
        weights = graph.constants.get(node.input[1])
        if weights is not None and weights.ndim == 2:
            graph.replace([node], [helper.make_node("Gemm", list(node.input), list(node.output))])


def cancel_transposes(graph: Graph) -> None:
    """Channels first, an activation, channels last: drop both transpositions."""
    for first, activation, last in graph.chains("Transpose", ELEMENTWISE, "Transpose"):
        if [list(attribute(node, "perm")) for node in (first, last)] == [
            NHWC_TO_NCHW,
            NCHW_TO_NHWC,
        ]:
            alone = node_like(activation, [first.input[0]], last.output[0])
            graph.replace([first, activation, last], [alone])


def rename(graph: Graph) -> None:
    """Names by position and role, so that the same network always gives the same bytes."""
    kept = {value.name for value in [*graph.inputs, *graph.outputs]}
    names: dict[str, str] = {}
    roles = {"Reshape": ("data", "shape"), "Pad": ("data", "pads", "value")}
    for index, node in enumerate(graph.nodes):
        node.name = f"{node.op_type.lower()}_{index}"
        for position, name in enumerate(node.input):
            if name in graph.constants and name not in names:
                known = roles.get(node.op_type, ("input", "weight", "bias"))
                role = known[position] if position < len(known) else f"input{position}"
                names[name] = f"{node.name}.{role}"
        for name in node.output:
            if name not in kept:
                names[name] = node.name
    for node in graph.nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    graph.constants = {names.get(name, name): value for name, value in graph.constants.items()}
