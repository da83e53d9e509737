"""A last layer of several outputs, computed on the small picture that the upsampling reads.

Over each pixel of that picture lie stride × stride pixels of the answer: a tile. Its numbers, with
O outputs stride² · O of them, are the channels of one small picture. A tap of the last layer leads
from a phase either into the tile over the same pixel (the core) or over a neighbour (the rim):

    tiles = Σ phases (core: Conv 1×1)
          + Σ phases (rim: Conv 1×1 → depthwise Conv → Conv 1×1)

The rim's first convolution makes one channel for each tap, the depthwise one moves each channel to
the pixel that it belongs to, the last adds it to its place in the tile. No tap is multiplied twice,
and every step is a convolution on channels in blocks of 16, as ONNX Runtime keeps them for vector
units; it adds one convolution to another in place. Only finished tiles are brought into rows.
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

BLOCK = 16  # channels that a vector of 512 bits holds; also a multiple of what smaller ones do
MAX_WORK = 1.8


class _Tap(NamedTuple):
    """One tap of the last layer, from one phase to one output.

    Attributes:
        weights: (C,).
        channel: of the tile.
        shift: rows and columns from the pixel that it reads to the tile that it goes to.
    """

    weights: Array
    channel: int
    shift: tuple[int, int]


def are_worth_it(final: Layer, stride: int) -> bool:
    """Whether tiles beat a transposed convolution from each phase.

    A lane of a block is multiplied whether a channel is in it or not. Of twenty networks those
    where this made at most MAX_WORK times the multiply-adds and each rim fitted one block were
    faster by 1 to 6 %, the others slower or the same (benchmarks/LOG.md; the rule was set after
    these were measured). Channels that fill no blocks would be laid out anew for each convolution.
    """
    channels, outputs = final.weights.shape[:2]
    if channels % BLOCK:
        return False
    needed = spent = 0
    for place in product(range(stride), repeat=2):
        taps = _taps(final, stride, place)
        lanes = _blocks(stride**2 * outputs)
        rim = _blocks(sum(tap.shift != (0, 0) for tap in taps))
        if rim > BLOCK:
            return False
        needed += channels * len(taps)
        spent += channels * (lanes + rim) + rim * lanes
    return spent <= MAX_WORK * needed


def in_tiles(
    graph: Graph,
    final: Layer,
    stride: int,
    phases: list[str],
    answer: str,
    sides: tuple[int, int],
) -> list[NodeProto]:
    """Nodes that compute the last layer from its phases, rows first: (N, C, H, W) each.

    `answer` is (N, O, stride · H, stride · W), and `sides` is H, W.
    """
    keep_batch(graph)
    nodes: list[NodeProto] = []
    places = stride**2 * final.weights.shape[1]
    parts: list[str] = []

    def conv(source: str, weights: Array, role: str, bias: Array | None = None, **how: Any) -> str:
        name = f"{source}_{role}"
        inputs = [source, graph.add_constant(f"{name}_weight", weights)]
        if bias is not None:
            inputs.append(graph.add_constant(f"{name}_bias", bias))
        nodes.append(helper.make_node("Conv", inputs, [name], **how))
        return name

    for phase, place in zip(phases, product(range(stride), repeat=2), strict=True):
        taps = _taps(final, stride, place)
        core = np.zeros((places, final.weights.shape[0], 1, 1), np.float32)
        for tap in taps:
            if tap.shift == (0, 0):
                core[tap.channel, :, 0, 0] = tap.weights
        bias = None if parts else np.tile(final.bias, stride**2)
        parts.append(conv(phase, core, "core", bias))
        rim = [tap for tap in taps if tap.shift != (0, 0)]
        if rim:
            apart = conv(phase, _apart(rim), "rim")
            moves, pads = _moves([tap.shift for tap in rim])
            moved = conv(apart, moves, "moved", group=len(moves), pads=pads)
            parts.append(conv(moved, _into_place(rim, places), "placed"))
    total = parts[0]
    for index, part in enumerate(parts[1:]):
        nodes.append(helper.make_node("Add", [total, part], [f"{answer}_sum{index}"]))
        total = nodes[-1].output[0]
    shape = (final.weights.shape[1], *sides)
    return [*nodes, *_in_rows(graph, total, answer, shape, stride)]


def keep_batch(graph: Graph) -> None:
    """Reshapes that keep the first dimension say so, with 0 in place of -1.

    ONNX Runtime adds convolutions in place where it sees that their shapes are the same; behind a
    -1 it sees no batch.
    """
    shapes = graph.shapes()
    for node in graph.nodes:
        target = graph.constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if target is None or target[0] != -1:
            continue
        taken = shapes[node.input[0]][1:]
        if None not in taken and prod(side or 0 for side in taken) == prod(target[1:]):
            kept = np.concatenate([np.zeros(1, target.dtype), target[1:]])
            node.input[1] = graph.add_constant(f"{node.input[1]}_kept", kept)


def _taps(final: Layer, stride: int, place: tuple[int, ...]) -> list[_Tap]:
    """All taps of the last layer, as they lead away from the phase at `place`."""
    outputs, *kernel = final.weights.shape[1:]
    found = []
    for output, *at in product(range(outputs), *map(range, kernel)):
        ends = [
            phase + tap - begin for phase, tap, begin in zip(place, at, final.begin, strict=True)
        ]
        (down, row), (right, column) = (divmod(end, stride) for end in ends)
        channel = (row * stride + column) * outputs + output
        found.append(_Tap(final.weights[:, output, at[0], at[1]], channel, (down, right)))
    return found


def _blocks(channels: int) -> int:
    """Channels, filled up to whole blocks."""
    return -(-channels // BLOCK) * BLOCK


def _apart(rim: list[_Tap]) -> Array:
    """(channels, C, 1, 1): each tap by itself."""
    weights = np.zeros((_blocks(len(rim)), len(rim[0].weights), 1, 1), np.float32)
    weights[: len(rim), :, 0, 0] = [tap.weights for tap in rim]
    return weights


def _moves(shifts: list[tuple[int, int]]) -> tuple[Array, list[int]]:
    """A depthwise kernel that moves each channel by its shift, and the pads that keep all sides."""
    first, last = ([pick(0, *axis) for axis in zip(*shifts, strict=True)] for pick in (min, max))
    spans = [1 + end - begin for begin, end in zip(first, last, strict=True)]
    weights = np.zeros((_blocks(len(shifts)), 1, *spans), np.float32)
    for channel, (down, right) in enumerate(shifts):
        weights[channel, 0, last[0] - down, last[1] - right] = 1
    return weights, [*last, *(-begin for begin in first)]


def _into_place(rim: list[_Tap], places: int) -> Array:
    """(places, channels, 1, 1): ones that add each tap to its channel of the tile."""
    weights = np.zeros((places, _blocks(len(rim)), 1, 1), np.float32)
    for channel, tap in enumerate(rim):
        weights[tap.channel, channel] = 1
    return weights


def _in_rows(
    graph: Graph, tiles: str, answer: str, shape: tuple[int, int, int], stride: int
) -> list[NodeProto]:
    """Tiles (N, stride · stride · O, H, W) to the picture (N, O, stride · H, stride · W).

    By way of channels last: one transposition of matrices, one of whole rows. Where the graph goes
    on to channels last by itself, `cancel_transposes` drops the way back.
    """
    outputs, height, width = shape
    nodes: list[NodeProto] = []

    def node(op: str, inputs: list[str], **how: list[int]) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{answer}_rows{len(nodes)}"], **how))
        return str(nodes[-1].output[0])

    def reshaped(source: str, *sides: int) -> str:
        target = graph.add_constant(f"{source}_shape", np.array([0, *sides], np.int64))
        return node("Reshape", [source, target])

    across = stride * outputs  # numbers of one tile in one row
    planes = reshaped(tiles, stride, across, height * width)
    pixels = node("Transpose", [planes], perm=[0, 1, 3, 2])
    rows = reshaped(pixels, stride, height, width * across)
    ordered = node("Transpose", [rows], perm=[0, 2, 1, 3])
    last = reshaped(ordered, stride * height, stride * width, outputs)
    return [*nodes, helper.make_node("Transpose", [last], [answer], perm=NHWC_TO_NCHW)]
