"""Upsampling without zeros: a strided transposed convolution by its output phases.

A transposed convolution of stride s writes each output pixel from the few taps that fall on it: by
the pixel's position modulo s, s² ordinary convolutions of the small input, each with its share of
the taps (a 3×3 kernel at stride 2: 4 + 2 + 2 + 1). An activation acts on each phase alone, so the
phases need not be interleaved before it, nor before a last convolution of stride 1: that and the
interleaving together are one transposed convolution of stride s from the stacked phases. With
taps × outputs fewer than the channels, a 1×1 convolution to the single tap products comes first
(`_products`), and only those few channels leave the runtime's blocked layout.

    ConvTranspose(s) → act → ConvTranspose(1)
    = s² × (Conv → act [→ Conv 1×1]) → Concat → ConvTranspose(s)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx
from onnx import helper

from export.graph import Array, Graph, attribute

ELEMENTWISE = ("Relu", "LeakyRelu", "Elu", "Tanh", "Sigmoid")


def split_last_upsampling(graph: Graph) -> None:
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
                _split(graph, found)


@dataclass(frozen=True)
class _Layer:
    """A transposed convolution that keeps (stride 1) or multiplies (stride s) its input's sides."""

    weights: Array  # (C_in, C_out, kH, kW)
    bias: Array  # (C_out,)
    stride: int
    begin: tuple[int, int]  # pads at the top and at the left

    @classmethod
    def of(cls, graph: Graph, node: onnx.NodeProto) -> _Layer | None:
        """The layer, or None where it is of another kind than the rewriting is for."""
        weights = graph.constants.get(node.input[1])
        if weights is None or weights.ndim != 4:
            return None
        shapes = graph.shapes()
        taken, made = shapes[node.input[0]][2:], shapes[node.output[0]][2:]
        strides = list(attribute(node, "strides", [1, 1]))
        if (
            None in taken
            or strides[0] != strides[1]
            or attribute(node, "group", 1) != 1
            or list(attribute(node, "dilations", [1, 1])) != [1, 1]
            or list(attribute(node, "output_padding", [0, 0])) != [0, 0]
            or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET"
            or attribute(node, "output_shape")  # the pads then follow from it
            or [side * strides[0] for side in taken if side is not None] != list(made)
        ):
            return None
        if len(node.input) > 2:
            if node.input[2] not in graph.constants:
                return None
            bias = graph.constants[node.input[2]]
        else:
            bias = np.zeros(weights.shape[1], weights.dtype)
        top, left = list(attribute(node, "pads", [0, 0, 0, 0]))[:2]
        return cls(weights, bias, strides[0], (top, left))

    def taps(self, phase: int, axis: int) -> list[tuple[int, int]]:
        """(shift, tap) along one axis for the outputs at `phase`, by ascending shift.

        Output s·i + phase reads input i + shift through that tap.
        """
        reach = phase + self.begin[axis]
        kernel = self.weights.shape[2 + axis]
        fitting = [(reach - tap, tap) for tap in range(kernel) if (reach - tap) % self.stride == 0]
        return sorted((distance // self.stride, tap) for distance, tap in fitting)


def _split(graph: Graph, found: list[onnx.NodeProto]) -> None:
    first, activation, last = found
    up, final = _Layer.of(graph, first), _Layer.of(graph, last)
    if up is None or final is None or up.stride < 2 or final.stride != 1:
        return
    nodes, phases = _phases(graph, up, first, activation)
    if not nodes:
        return
    if _products_are_cheaper(up, final):
        more, phases = _products(graph, final, phases, last.output[0])
        nodes += more
        # Each product channel goes to its own tap and its own output: a kernel of ones and zeros.
        outputs, *kernel = final.weights.shape[1:]
        one_hot = np.eye(outputs * kernel[0] * kernel[1], dtype=np.float32)
        final = _Layer(one_hot.reshape(-1, outputs, *kernel), final.bias, 1, final.begin)
    nodes += _interleave(graph, final, up.stride, phases, last.output[0])
    graph.replace(found, nodes)
    graph.prune()


def _phases(
    graph: Graph, layer: _Layer, node: onnx.NodeProto, activation: onnx.NodeProto
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


def _products_are_cheaper(up: _Layer, final: _Layer) -> bool:
    """Count multiply-adds a position: straight from all channels, or through the tap products."""
    channels, outputs, *kernel = final.weights.shape
    grown = (kernel[0] + up.stride - 1) * (kernel[1] + up.stride - 1)
    phases, products = up.stride**2, outputs * kernel[0] * kernel[1]
    straight = phases * channels * grown * outputs
    return phases * products * channels + phases * products * grown * outputs < straight


def _products(
    graph: Graph, layer: _Layer, phases: list[str], answer: str
) -> tuple[list[onnx.NodeProto], list[str]]:
    """For each phase a 1×1 Conv to every (output, tap) product, in that order of channels."""
    channels = len(layer.weights)
    kernel = layer.weights.reshape(channels, -1).T[..., None, None]
    weights = graph.add_constant(f"{answer}_products", kernel)
    names = [f"{phase}_products" for phase in phases]
    nodes = [
        helper.make_node("Conv", [phase, weights], [name])
        for phase, name in zip(phases, names, strict=True)
    ]
    return nodes, names


def _interleave(
    graph: Graph, layer: _Layer, stride: int, phases: list[str], answer: str
) -> list[onnx.NodeProto]:
    """The last layer and the interleaving of its input's phases as one ConvTranspose."""
    channels, outputs, *kernel = layer.weights.shape
    sides = [side + stride - 1 for side in kernel]
    grown = np.zeros((len(phases), channels, outputs, *sides), np.float32)
    for index, (row, column) in enumerate(product(range(stride), repeat=2)):
        grown[index, :, :, row : row + kernel[0], column : column + kernel[1]] = layer.weights
    weights = graph.add_constant(f"{answer}_interleaved", grown.reshape(-1, outputs, *sides))
    bias = graph.add_constant(f"{answer}_bias", layer.bias)
    top, left = layer.begin
    stacked = f"{answer}_phases"
    return [
        helper.make_node("Concat", phases, [stacked], axis=1),
        helper.make_node(
            "ConvTranspose",
            [stacked, weights, bias],
            [answer],
            strides=[stride, stride],
            pads=[top, left, kernel[0] - 1 - top, kernel[1] - 1 - left],
        ),
    ]
