"""A last layer of several outputs, computed at the resolution of the upsampling's input.

Each input pixel has a tile of stride × stride output pixels; with O outputs, its stride² · O
numbers are the channels of one low-resolution tensor. A tap of the last layer leads from a phase
into the tile of the same pixel (the core) or of a neighbour (the rim):

    tiles = Σ phases (core: Conv 1×1)
          + Σ phases (rim: Conv 1×1 → depthwise Conv → Conv 1×1)

The rim's first convolution makes one channel per tap, the depthwise one shifts each channel to its
pixel, and the last adds it to its place in the tile. No tap is multiplied twice, and every step is
a convolution on channels in blocks of 16, as ONNX Runtime stores them for vector units; it adds one
convolution to another in place. Only the finished tiles are rearranged into rows.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from onnx import NodeProto, helper

from common.arrays import Array
from export.rewrite.cleanup import NHWC_TO_NCHW
from export.rewrite.graph import Graph
from export.rewrite.transposed import Layer

BLOCK = 16  # float32 channels in a vector of 512 bits; a multiple of those in shorter vectors
MAX_WORK = 1.8  # multiply-adds in tiles, relative to those needed


class _Tap(NamedTuple):
    """One tap of the last layer, from one phase to one output.

    Attributes:
        weights: (C,).
        channel: of the tile.
        shift: rows and columns from the pixel that it reads to the tile that it writes.
    """

    weights: Array
    channel: int
    shift: tuple[int, int]


def pay_off(final: Layer, stride: int) -> bool:
    """Whether tiles are faster than one transposed convolution per phase.

    All lanes of a block are multiplied, also unused ones. Of twenty networks, those with at most
    MAX_WORK times the multiply-adds and with each rim in one block were 1 to 6 % faster, the others
    were not (benchmarks/LOG.md; the rule was set after these were measured). Channels that do not
    fill their blocks would be copied for each convolution.
    """
    channels, outputs = final.weights.shape[:2]
    if channels % BLOCK:
        return False
    needed = computed = 0
    for place in product(range(stride), repeat=2):
        taps = _taps(final, stride, place)
        lanes = _blocks(stride**2 * outputs)
        rim = _blocks(sum(tap.shift != (0, 0) for tap in taps))
        if rim > BLOCK:
            return False
        needed += channels * len(taps)
        computed += channels * (lanes + rim) + rim * lanes
    return bool(computed <= MAX_WORK * needed)


def in_tiles(
    graph: Graph,
    final: Layer,
    stride: int,
    phases: list[str],
    output: str,
    sides: tuple[int, int],
) -> list[NodeProto]:
    """Nodes that compute the last layer from its phases, (N, C, H, W) each, rows first.

    `output` is (N, O, stride · H, stride · W), and `sides` is H, W.
    """
    keep_batch(graph)
    nodes: list[NodeProto] = []
    size = stride**2 * final.weights.shape[1]  # channels of a tile
    parts: list[str] = []

    def conv(source: str, weights: Array, role: str, bias: Array | None = None, **more: Any) -> str:
        name = f"{source}_{role}"
        inputs = [source, graph.add_constant(f"{name}_weight", weights)]
        if bias is not None:
            inputs.append(graph.add_constant(f"{name}_bias", bias))
        nodes.append(helper.make_node("Conv", inputs, [name], **more))
        return name

    for phase, place in zip(phases, product(range(stride), repeat=2), strict=True):
        taps = _taps(final, stride, place)
        core = np.zeros((size, final.weights.shape[0], 1, 1), np.float32)
        for tap in taps:
            if tap.shift == (0, 0):
                core[tap.channel, :, 0, 0] = tap.weights
        bias = None if parts else np.tile(final.bias, stride**2)
        parts.append(conv(phase, core, "core", bias))
        rim = [tap for tap in taps if tap.shift != (0, 0)]
        if rim:
            products = conv(phase, _per_tap(rim), "rim")
            kernel, pads = _shifting([tap.shift for tap in rim])
            shifted = conv(products, kernel, "moved", group=len(kernel), pads=pads)
            parts.append(conv(shifted, _placing(rim, size), "placed"))
    total = parts[0]
    for index, part in enumerate(parts[1:]):
        nodes.append(helper.make_node("Add", [total, part], [f"{output}_sum{index}"]))
        total = nodes[-1].output[0]
    shape = (final.weights.shape[1], *sides)
    return [*nodes, *_in_rows(graph, total, output, shape, stride)]


def keep_batch(graph: Graph) -> None:
    """Write 0 in place of -1 in each Reshape that keeps the first dimension.

    ONNX Runtime adds convolutions in place if shape inference finds equal shapes; after a -1 the
    batch is unknown.
    """
    shapes = graph.shapes()
    for node in graph.nodes:
        target = graph.constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if target is None or target[0] != -1:
            continue
        sides = shapes[node.input[0]][1:]
        if None not in sides and prod(side or 0 for side in sides) == prod(target[1:]):
            kept = np.concatenate([np.zeros(1, target.dtype), target[1:]])
            node.input[1] = graph.add_constant(f"{node.input[1]}_kept", kept)


def _taps(final: Layer, stride: int, place: tuple[int, ...]) -> list[_Tap]:
    """All taps of the last layer that read the phase at `place`."""
    outputs, *kernel = final.weights.shape[1:]
    taps = []
    for output, *tap in product(range(outputs), *map(range, kernel)):
        targets = (sum(axis) for axis in zip(place, tap, [-b for b in final.begin], strict=True))
        (down, row), (right, column) = (divmod(target, stride) for target in targets)
        channel = (row * stride + column) * outputs + output
        taps.append(_Tap(final.weights[:, output, tap[0], tap[1]], channel, (down, right)))
    return taps


def _blocks(channels: int) -> int:
    """The number of channels, rounded up to whole blocks."""
    return -(-channels // BLOCK) * BLOCK


def _per_tap(rim: list[_Tap]) -> Array:
    """Weights (channels, C, 1, 1): one channel per tap."""
    weights = np.zeros((_blocks(len(rim)), len(rim[0].weights), 1, 1), np.float32)
    weights[: len(rim), :, 0, 0] = [tap.weights for tap in rim]
    return weights


def _shifting(shifts: list[tuple[int, int]]) -> tuple[Array, list[int]]:
    """A depthwise kernel that shifts each channel, and the pads that keep height and width."""
    first, last = ([pick(0, *axis) for axis in zip(*shifts, strict=True)] for pick in (min, max))
    spans = [1 + end - begin for begin, end in zip(first, last, strict=True)]
    weights = np.zeros((_blocks(len(shifts)), 1, *spans), np.float32)
    for channel, (down, right) in enumerate(shifts):
        weights[channel, 0, last[0] - down, last[1] - right] = 1
    return weights, [*last, *(-begin for begin in first)]


def _placing(rim: list[_Tap], size: int) -> Array:
    """Weights (size, channels, 1, 1): ones that add each tap to its channel of the tile."""
    weights = np.zeros((size, _blocks(len(rim)), 1, 1), np.float32)
    for channel, tap in enumerate(rim):
        weights[tap.channel, channel] = 1
    return weights


def _in_rows(
    graph: Graph, tiles: str, output: str, shape: tuple[int, int, int], stride: int
) -> list[NodeProto]:
    """Tiles (N, stride · stride · O, H, W) to images (N, O, stride · H, stride · W).

    Through channels last: one transposition of matrices and one of whole rows. Where the graph
    continues with channels last, `cancel_transposes` drops the final transposition.
    """
    outputs, height, width = shape
    nodes: list[NodeProto] = []

    def node(op: str, inputs: list[str], **attributes: list[int]) -> str:
        name = f"{output}_rows{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def reshaped(source: str, *sides: int) -> str:
        target = graph.add_constant(f"{source}_shape", np.array([0, *sides], np.int64))
        return node("Reshape", [source, target])

    across = stride * outputs  # numbers per row of a tile
    planes = reshaped(tiles, stride, across, height * width)
    pixels = node("Transpose", [planes], perm=[0, 1, 3, 2])
    rows = reshaped(pixels, stride, height, width * across)
    ordered = node("Transpose", [rows], perm=[0, 2, 1, 3])
    last = reshaped(ordered, stride * height, stride * width, outputs)
    return [*nodes, helper.make_node("Transpose", [last], [output], perm=NHWC_TO_NCHW)]
