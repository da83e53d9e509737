"""Upsampling without zeros: a strided transposed convolution by its output phases.

A transposed convolution of stride s writes each output pixel from the few taps that fall on it: by
the pixel's position modulo s, s² ordinary convolutions of the small input, each with its share of
the taps (a 3×3 kernel at stride 2: 4 + 2 + 2 + 1). An activation acts on each phase alone, so the
phases need not be interleaved before it, nor before a last convolution of stride 1: from each phase
that is a transposed convolution of stride s, and the answer is their sum.

    ConvTranspose(s) → act → ConvTranspose(1)
    = s² × (Conv → act → ConvTranspose(s)) → Sum

With several output channels and whole blocks of channels before them, the last layer is computed
in tiles (`tiles.py`). With one output channel, and more channels before it than taps, a 1×1
convolution to the single tap products comes first and one transposed convolution adds them up. That
takes as long as the sum, and in int8 the convolutions run in integers (benchmarks/LOG.md).

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
from export.rewrite.graph import Graph
from export.rewrite.transposed import Layer


def split_last_upsampling(graph: Graph, *, tiled: bool = True) -> None:
    """Rewrite a strided transposed convolution, an activation and a final one of stride 1.

    Earlier strided layers are left alone: their phases would have to be interleaved with all
    their channels, which costs what the phases save (benchmarks/LOG.md).
    """
    for node in list(graph.nodes):
        if node not in graph.nodes:  # part of what was rewritten before
            continue
        for activation in ELEMENTWISE:
            found = graph.chain(node, "ConvTranspose", activation, "ConvTranspose")
            if found:
                _split(graph, found, tiled=tiled)


def _split(graph: Graph, found: list[onnx.NodeProto], *, tiled: bool) -> None:
    first, activation, last = found
    up, final = Layer.of(graph, first), Layer.of(graph, last)
    if up is None or final is None or up.stride < 2 or final.stride != 1:
        return
    nodes, phases = _phases(graph, up, first, activation)
    if not nodes:
        return
    answer = last.output[0]
    if tiled and tiles.are_worth_it(final, up.stride):
        height, width = (side or 0 for side in graph.shapes()[first.input[0]][2:])
        nodes += tiles.in_tiles(graph, final, up.stride, phases, answer, (height, width))
    elif _products_are_worth_it(final):
        nodes += _through_products(graph, final, up.stride, phases, answer)
    else:
        nodes += _each_alone(graph, final, up.stride, phases, answer)
    graph.replace(found, nodes)
    graph.prune()


def _phases(
    graph: Graph, layer: Layer, node: onnx.NodeProto, activation: onnx.NodeProto
) -> tuple[list[onnx.NodeProto], list[str]]:
    """A Conv and an activation for each phase, rows first; nothing where a phase has no taps."""
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
        active = helper.make_node(activation.op_type, [name], [f"{name}_active"])
        active.attribute.extend(activation.attribute)
        nodes.append(active)
        names.append(f"{name}_active")
    return nodes, names


def _around_zero(taps: list[tuple[int, int]]) -> bool:
    """Whether the shifts can be written as a convolution with pads that are not negative."""
    return bool(taps) and taps[0][0] <= 0 <= taps[-1][0]


def _products_are_worth_it(final: Layer) -> bool:
    """Whether the tap products are few: of one output, and fewer than the channels."""
    channels, outputs, *kernel = final.weights.shape
    return bool(outputs == 1 and kernel[0] * kernel[1] < channels)


def _each_alone(
    graph: Graph, final: Layer, stride: int, phases: list[str], answer: str
) -> list[onnx.NodeProto]:
    """The last layer from each phase by a ConvTranspose that writes where that phase lies; Sum."""
    nodes = []
    parts = [f"{phase}_part" for phase in phases]
    for index, place in enumerate(product(range(stride), repeat=2)):
        kernel = _placed(final.weights, stride, place)
        pads = final.pads
        for axis, phase in enumerate(place):  # rows of zeros that padding would cut off again
            first = min(phase, pads[axis])
            last = min(stride - 1 - phase, pads[axis + 2])
            kernel = kernel.take(range(first, kernel.shape[2 + axis] - last), axis=2 + axis)
            pads[axis] -= first
            pads[axis + 2] -= last
        inputs = [phases[index], graph.add_constant(f"{parts[index]}_weight", kernel)]
        if index == 0:
            inputs.append(graph.add_constant(f"{answer}_bias", final.bias))
        nodes.append(_upsampling(inputs, parts[index], stride, pads))
    return [*nodes, helper.make_node("Sum", parts, [answer])]


def _through_products(
    graph: Graph, final: Layer, stride: int, phases: list[str], answer: str
) -> list[onnx.NodeProto]:
    """For each phase a 1×1 Conv to every tap product; one ConvTranspose of ones adds them up."""
    channels, _, *sides = final.weights.shape
    taps = sides[0] * sides[1]
    kernel = final.weights.reshape(channels, taps).T[..., None, None]
    weights = graph.add_constant(f"{answer}_products", kernel)
    names = [f"{phase}_products" for phase in phases]
    nodes = [
        helper.make_node("Conv", [phase, weights], [name])
        for phase, name in zip(phases, names, strict=True)
    ]
    each = np.eye(taps, dtype=np.float32).reshape(taps, 1, *sides)
    places = product(range(stride), repeat=2)
    ones = np.concatenate([_placed(each, stride, place) for place in places])
    stacked = f"{answer}_phases"
    inputs = [
        stacked,
        graph.add_constant(f"{answer}_interleaved", ones),
        graph.add_constant(f"{answer}_bias", final.bias),
    ]
    nodes.append(helper.make_node("Concat", names, [stacked], axis=1))
    nodes.append(_upsampling(inputs, answer, stride, final.pads))
    return nodes


def _placed(kernel: Array, stride: int, place: tuple[int, ...]) -> Array:
    """A kernel of stride 1 among zeros, so that at `stride` it writes from the phase `place`.

    (C, O, kH, kW) to (C, O, kH + stride - 1, kW + stride - 1).
    """
    zeros = stride - 1
    around = [(0, 0), (0, 0), *((phase, zeros - phase) for phase in place)]
    return np.pad(kernel, around)


def _upsampling(inputs: list[str], answer: str, stride: int, pads: list[int]) -> onnx.NodeProto:
    return helper.make_node("ConvTranspose", inputs, [answer], strides=[stride, stride], pads=pads)
