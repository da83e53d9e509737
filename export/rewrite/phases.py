"""A strided transposed convolution, split into one small convolution per output phase.

A transposed convolution of stride s is s² ordinary convolutions of its input, one per output phase
(the output pixel's position modulo s), each with its share of the taps: a 3×3 kernel at stride 2
has 4 + 2 + 2 + 1. An activation acts on each phase by itself, so the phases need not be interleaved
before it, nor before a last convolution of stride 1: from each phase that is a transposed
convolution of stride s, and the output is their sum.

    ConvTranspose(s) → act → ConvTranspose(1)
    = s² × (Conv → act → ConvTranspose(s)) → Sum

With several output channels, and input channels that fill whole blocks, the last layer is computed
in tiles (`tiles.py`). With one output channel, and more input channels than taps, a 1×1 convolution
computes each tap's products and one transposed convolution adds them up. That takes as long as the
sum, and in int8 the convolutions run in integers (benchmarks/LOG.md).

    = s² × (Conv → act → Conv 1×1) → Concat → ConvTranspose(s)
"""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
from onnx import helper

from common.arrays import Array
from export.rewrite import tiles
from export.rewrite.cleanup import ELEMENTWISE
from export.rewrite.graph import Graph, node_like
from export.rewrite.transposed import Layer


def split_last_upsampling(graph: Graph, *, tiled: bool = True) -> None:
    """Rewrite a strided transposed convolution, an activation and a final one of stride 1.

    Earlier strided layers stay: interleaving the phases of all their channels costs what the
    phases save (benchmarks/LOG.md).
    """
    for chain in graph.chains("ConvTranspose", ELEMENTWISE, "ConvTranspose"):
        _split(graph, chain, tiled=tiled)


def _split(graph: Graph, chain: list[onnx.NodeProto], *, tiled: bool) -> None:
    first, activation, last = chain
    up, final = Layer.of(graph, first), Layer.of(graph, last)
    if up is None or final is None or up.stride < 2 or final.stride != 1:
        return
    nodes, phases = _phases(graph, up, first, activation)
    if not nodes:
        return
    output = last.output[0]
    if tiled and tiles.pay_off(final, up.stride):
        height, width = (side or 0 for side in graph.shapes()[first.input[0]][2:])
        nodes += tiles.in_tiles(graph, final, up.stride, phases, output, (height, width))
    elif _products_pay_off(final):
        nodes += _by_products(graph, final, up.stride, phases, output)
    else:
        nodes += _by_phase(graph, final, up.stride, phases, output)
    graph.replace(chain, nodes)
    graph.prune()


def _phases(
    graph: Graph, layer: Layer, node: onnx.NodeProto, activation: onnx.NodeProto
) -> tuple[list[onnx.NodeProto], list[str]]:
    """A Conv and an activation per phase, rows first; nothing where a phase has no taps."""
    bias = graph.add_constant(f"{node.output[0]}_bias", layer.bias)
    nodes: list[onnx.NodeProto] = []
    names = []
    for row, column in product(range(layer.stride), repeat=2):
        vertical, horizontal = layer.taps(row, 0), layer.taps(column, 1)
        if not (_around_zero(vertical) and _around_zero(horizontal)):
            return [], []
        kernel = layer.weights[:, :, [tap for _, tap in vertical]][
            ..., [tap for _, tap in horizontal]
        ].transpose(1, 0, 2, 3)  # (C_out, C_in, taps, taps)
        name = f"{node.output[0]}_phase{row}{column}"
        weights = graph.add_constant(f"{name}_weight", kernel)
        pads = [-vertical[0][0], -horizontal[0][0], vertical[-1][0], horizontal[-1][0]]
        nodes.append(helper.make_node("Conv", [node.input[0], weights, bias], [name], pads=pads))
        nodes.append(node_like(activation, [name], f"{name}_active"))
        names.append(f"{name}_active")
    return nodes, names


def _around_zero(taps: list[tuple[int, int]]) -> bool:
    """Whether a convolution with non-negative pads can have these shifts."""
    return bool(taps) and taps[0][0] <= 0 <= taps[-1][0]


def _products_pay_off(final: Layer) -> bool:
    """Whether there is one output, and fewer taps than channels."""
    channels, outputs, *kernel = final.weights.shape
    return bool(outputs == 1 and kernel[0] * kernel[1] < channels)


def _by_phase(
    graph: Graph, final: Layer, stride: int, phases: list[str], output: str
) -> list[onnx.NodeProto]:
    """The last layer as one ConvTranspose per phase, which writes at the phase's place; Sum."""
    nodes = []
    parts = [f"{phase}_part" for phase in phases]
    for index, place in enumerate(product(range(stride), repeat=2)):
        kernel = _placed(final.weights, stride, place)
        pads = final.pads
        for axis, phase in enumerate(place):  # drop rows of zeros that the padding would remove
            first = min(phase, pads[axis])
            last = min(stride - 1 - phase, pads[axis + 2])
            kernel = kernel.take(range(first, kernel.shape[2 + axis] - last), axis=2 + axis)
            pads[axis] -= first
            pads[axis + 2] -= last
        inputs = [phases[index], graph.add_constant(f"{parts[index]}_weight", kernel)]
        if index == 0:
            inputs.append(graph.add_constant(f"{output}_bias", final.bias))
        nodes.append(_upsampling(inputs, parts[index], stride, pads))
    return [*nodes, helper.make_node("Sum", parts, [output])]


def _by_products(
    graph: Graph, final: Layer, stride: int, phases: list[str], output: str
) -> list[onnx.NodeProto]:
    """A 1×1 Conv per phase to the products of each tap; one ConvTranspose of ones adds them up."""
    channels, _, *sides = final.weights.shape
    taps = sides[0] * sides[1]
    kernel = final.weights.reshape(channels, taps).T[..., None, None]
    weights = graph.add_constant(f"{output}_products", kernel)
    names = [f"{phase}_products" for phase in phases]
    nodes = [
        helper.make_node("Conv", [phase, weights], [name])
        for phase, name in zip(phases, names, strict=True)
    ]
    each = np.eye(taps, dtype=np.float32).reshape(taps, 1, *sides)
    places = product(range(stride), repeat=2)
    ones = np.concatenate([_placed(each, stride, place) for place in places])
    stacked = f"{output}_phases"
    inputs = [
        stacked,
        graph.add_constant(f"{output}_interleaved", ones),
        graph.add_constant(f"{output}_bias", final.bias),
    ]
    nodes.append(helper.make_node("Concat", names, [stacked], axis=1))
    nodes.append(_upsampling(inputs, output, stride, final.pads))
    return nodes


def _placed(kernel: Array, stride: int, place: tuple[int, ...]) -> Array:
    """Pad a kernel with zeros so that at `stride` it writes from the phase `place`.

    (C, O, kH, kW) → (C, O, kH + stride - 1, kW + stride - 1).
    """
    return np.pad(kernel, [(0, 0), (0, 0), *((phase, stride - 1 - phase) for phase in place)])


def _upsampling(inputs: list[str], output: str, stride: int, pads: list[int]) -> onnx.NodeProto:
    return helper.make_node("ConvTranspose", inputs, [output], strides=[stride, stride], pads=pads)
