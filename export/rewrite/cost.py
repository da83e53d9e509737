"""Multiply-adds of an ONNX graph for one image, and the fewest that it needs.

Conv, ConvTranspose, Gemm and MatMul are counted. Taps that fall on padding count like all others,
as is usual. One multiply-add is two FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2, prod
from pathlib import Path

import onnx

from export.rewrite.graph import without_weights

CHUNK_MACS = 64e6
MAX_HEAVY_CHUNK = 32  # images, where a layer's weights exceed the cache
MAX_HEAVY_MACS = 1e9  # about 20 ms of a core, for which another call may have to wait
MIN_HEAVY_CHUNK = 4
CACHE = 1 << 20  # bytes of L2 per core of a server
LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# Operators that keep a chain linear: moving elements, and adding constants (not residual branches).
TRANSPARENT = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Add"}


@dataclass(frozen=True)
class Layer:
    """One linear layer, for one image.

    Attributes:
        op: ONNX operator.
        macs: multiply-adds.
        inputs: elements that it reads, without weights.
        outputs: elements that it writes.
        gemm: (rows, k, n) of the matrix product that computes it: `rows` positions, `k` inputs and
            `n` outputs for each.
        follows: True where nothing non-linear lies between the layer before and this one.
    """

    op: str
    macs: int
    inputs: int
    outputs: int
    gemm: tuple[int, int, int]
    follows: bool

    @property
    def weights(self) -> int:
        """Bytes of float32 weights, without the bias."""
        return 4 * self.gemm[1] * self.gemm[2]


def layers(model: onnx.ModelProto | Path) -> list[Layer]:
    """The linear layers of a graph, in order.

    The first dimension of the input is the batch; shapes are inferred with a batch of one.
    """
    proto = onnx.load(str(model)) if isinstance(model, Path) else model
    single = onnx.ModelProto()
    single.CopyFrom(proto)
    without_weights(single)
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for output in single.graph.output:
        output.ClearField("type")
    del single.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph

    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    constants = set(shapes)

    def is_transparent(node: onnx.NodeProto) -> bool:
        constant = node.op_type != "Add" or node.input[1] in constants
        return node.op_type in TRANSPARENT and constant

    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(abs(d.dim_value) for d in value.type.tensor_type.shape.dim)
    result: list[Layer] = []
    linear: set[str] = set()  # tensors that are linear in the output of an earlier linear layer
    for node in graph.node:
        follows = bool(node.input) and node.input[0] in linear
        if node.op_type in LINEAR:
            result.append(_layer(node, shapes, follows=follows))
            linear.update(node.output)
        elif follows and is_transparent(node):
            linear.update(node.output)
    return result


def macs(model: onnx.ModelProto | Path) -> int:
    """Multiply-adds of the graph for one image."""
    return sum(layer.macs for layer in layers(model))


def chunk_of(model: onnx.ModelProto | Path) -> int:
    """Images that the engine should compute at once: a power of two from 1 to 64.

    CHUNK_MACS take a core one or two milliseconds: long beside a call's overhead (tens of
    microseconds), short enough that concurrent calls share the cores fairly, and small enough for
    the L2 cache. A network with a layer whose weights exceed the cache reads them again for each
    chunk; it gets larger chunks, as long as these do not take a core very long. benchmarks/LOG.md
    has the measurements.
    """
    counted = layers(model)
    total = max(1, sum(layer.macs for layer in counted))
    fitting = 2 ** min(6, max(0, round(log2(CHUNK_MACS / total))))
    if max((layer.weights for layer in counted), default=0) <= CACHE:
        return int(fitting)
    short = 2 ** floor(log2(max(MIN_HEAVY_CHUNK, MAX_HEAVY_MACS / total)))
    return int(max(fitting, min(MAX_HEAVY_CHUNK, short)))


def folded_macs(model: onnx.ModelProto | Path) -> int:
    """The fewest multiply-adds for one image when consecutive linear layers may be merged.

    A run of layers with nothing non-linear between them may be one matrix of inputs × outputs. The
    cheapest partition of each chain into such runs counts.
    """
    total, chain = 0, list[Layer]()
    for layer in [*layers(model), None]:
        if layer is None or not layer.follows:
            total += _cheapest(chain)
            chain = []
        if layer is not None:
            chain.append(layer)
    return total


def _cheapest(chain: list[Layer]) -> int:
    """The smallest cost of a chain, each layer by itself or in a run that is one matrix."""
    best = [0]
    for end in range(1, len(chain) + 1):
        options = [best[end - 1] + chain[end - 1].macs]
        for start in range(end - 1):
            options.append(best[start] + chain[start].inputs * chain[end - 1].outputs)
        best.append(min(options))
    return best[-1]


def _layer(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], *, follows: bool) -> Layer:
    """The layer for shapes of one image: (1, C, H, W), (1, features) or a batch of positions."""
    before, weight, after = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":  # weight (M, C / group, kH, kW)
        rows, k, n = prod(after[2:]), prod(weight[1:]), weight[0]
    elif node.op_type == "ConvTranspose":  # weight (C, M / group, kH, kW)
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        rows, k, n = prod(before[2:]), weight[0] // group, prod(weight[1:]) * group
    else:
        rows, n = prod(after) // after[-1], after[-1]
        k = prod(before) // rows
    return Layer(node.op_type, rows * k * n, prod(before), prod(after), (rows, k, n), follows)
