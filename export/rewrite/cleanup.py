"""Passes that leave a graph with nothing in it but the network.

tf2onnx writes Keras's channels-last layers for a channels-first runtime, and Keras's dynamic
batch as arithmetic on shapes. Each pass here is exact: it moves no floating-point operation, it
only renames, permutes weights, or drops what computes a constant.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper

from export.rewrite.graph import Graph, attribute

NHWC_TO_NCHW = [0, 3, 1, 2]
NCHW_TO_NHWC = [0, 2, 3, 1]
ELEMENTWISE = ("Relu", "LeakyRelu", "Elu", "Tanh", "Sigmoid")


def clean(graph: Graph) -> None:
    """All passes, in the order in which they need each other."""
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

    What computed the target (Shape, Gather, Slice, Concat, Cast) is then dead.
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
    for node in list(graph.nodes):
        found = graph.chain(node, "Transpose", "Reshape", "MatMul")
        if not found or list(attribute(node, "perm")) != NCHW_TO_NHWC:
            continue
        transpose, reshape, dense = found
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
    between: tuple[list[str], ...] = ([], ["Add"], ["Relu"], ["Add", "Relu"])
    for node in list(graph.nodes):
        chains = (graph.chain(node, "MatMul", *ops, "Reshape", "Transpose") for ops in between)
        found = next(filter(None, chains), None)
        if not found or list(attribute(found[-1], "perm")) != NHWC_TO_NCHW:
            continue
        dense, *rest, reshape, transpose = found
        add = [other for other in rest if other.op_type == "Add"]
        target = graph.constants.get(reshape.input[1])
        if dense.input[1] not in graph.constants or target is None or len(target) != 4:
            continue
        height, width, channels = target[1:]
        for holder in (dense, *add):
            name = graph.constant_input(holder)
            if name is None:
                break
            values = graph.constants[name]
            columns = values.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
            at = list(holder.input).index(name)
            holder.input[at] = graph.add_constant(f"{name}_nchw", columns.reshape(values.shape))
        else:
            shape = np.array([-1, channels, height, width], np.int64)
            reshape.input[1] = graph.add_constant(f"{reshape.input[1]}_nchw", shape)
            _skip(graph, transpose)


def fuse_scale(graph: Graph) -> None:
    """A constant factor for each output goes into the weights: batch normalisation, at inference.

    The exporter does this for Conv, and leaves Mul and Add behind MatMul and ConvTranspose. The
    product is computed in float64, so that it rounds once.
    """
    for node in list(graph.nodes):
        for op in ("MatMul", "ConvTranspose"):
            found = graph.chain(node, op, "Mul")
            if not found or len(node.input) > 2:
                continue
            weights = graph.constants.get(node.input[1])
            factor_name = graph.constant_input(found[1])
            if weights is None or factor_name is None:
                continue
            factor = graph.constants[factor_name]
            outputs = weights.shape[1]
            if factor.size != outputs or (op != "MatMul" and factor.shape[-2:] != (1, 1)):
                continue
            if op == "ConvTranspose" and attribute(node, "group", 1) != 1:
                continue
            along = factor.reshape(1, outputs, *[1] * (weights.ndim - 2)).astype(np.float64)
            scaled = (weights * along).astype(np.float32)
            fused = helper.make_node(
                op,
                [node.input[0], graph.add_constant(f"{node.input[1]}_scaled", scaled)],
                [found[1].output[0]],
            )
            fused.attribute.extend(node.attribute)
            graph.replace(found, [fused])


def fuse_bias(graph: Graph) -> None:
    """MatMul + Add becomes Gemm, Conv + Add becomes Conv with a bias: the same sums, named so."""
    for node in list(graph.nodes):
        for op in ("MatMul", "Conv", "ConvTranspose"):
            found = graph.chain(node, op, "Add")
            if not found or len(node.input) > 2:
                continue
            add = found[1]
            name = graph.constant_input(add)
            weights = graph.constants.get(node.input[1])
            if name is None or weights is None:
                continue
            size = weights.shape[{"MatMul": 1, "Conv": 0, "ConvTranspose": 1}[op]]
            bias = graph.constants[name]
            if bias.size != size or (op != "MatMul" and bias.shape[-2:] != (1, 1)):
                continue
            bias_name = graph.add_constant(f"{name}_bias", bias.reshape(size))
            fused = helper.make_node(
                "Gemm" if op == "MatMul" else op, [*node.input, bias_name], [add.output[0]]
            )
            fused.attribute.extend(node.attribute)
            graph.replace(found, [fused])


def name_dense(graph: Graph) -> None:
    """A MatMul by a constant matrix is a Gemm without a bias: tf2onnx leaves out biases of zero."""
    for node in list(graph.nodes):
        if node.op_type != "MatMul" or node.input[1] not in graph.constants:
            continue
        if graph.constants[node.input[1]].ndim == 2:
            graph.replace([node], [helper.make_node("Gemm", list(node.input), list(node.output))])


def cancel_transposes(graph: Graph) -> None:
    """Channels first, an activation, channels last: the activation alone does."""
    for node in list(graph.nodes):
        for activation in ELEMENTWISE:
            found = graph.chain(node, "Transpose", activation, "Transpose")
            if not found:
                continue
            to, act, back = found
            if [list(attribute(n, "perm")) for n in (to, back)] == [NHWC_TO_NCHW, NCHW_TO_NHWC]:
                alone = helper.make_node(activation, [to.input[0]], [back.output[0]])
                alone.attribute.extend(act.attribute)
                graph.replace(found, [alone])


def rename(graph: Graph) -> None:
    """Names by position and role, so that the same network always gives the same bytes."""
    kept = {value.name for value in [*graph.inputs, *graph.outputs]}
    names: dict[str, str] = {}
    roles = {"Reshape": ("data", "shape"), "Pad": ("data", "pads", "value")}
    for index, node in enumerate(graph.nodes):
        node.name = f"{node.op_type.lower()}_{index}"
        for position, name in enumerate(node.input):
            if name in graph.constants and name not in names:
                called = roles.get(node.op_type, ("input", "weight", "bias"))
                role = called[position] if position < len(called) else f"input{position}"
                names[name] = f"{node.name}.{role}"
        for name in node.output:
            if name not in kept:
                names[name] = node.name
    for node in graph.nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    graph.constants = {names.get(name, name): value for name, value in graph.constants.items()}


def _skip(graph: Graph, node: onnx.NodeProto) -> None:
    """Remove a one-input node; its readers read its input."""
    if any(out.name == node.output[0] for out in graph.outputs):
        producer = graph.producer(node.input[0])
        assert producer is not None
        producer.output[0] = node.output[0]
    for reader in graph.readers(node.output[0]):
        reader.input[:] = [node.input[0] if n == node.output[0] else n for n in reader.input]
    graph.nodes.remove(node)
