"""Multiply-adds of an ONNX graph, counted for one image, and how few of them are needed.

Counted are the layers that multiply matrices: Conv, ConvTranspose, Gemm, MatMul. Taps that fall on
padding count like all others, as is usual. One multiply-add is two FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2, prod
from pathlib import Path

import onnx

CHUNK_MACS = 64e6
# Where a layer's weights are too large for the cache: each chunk reads them from further away.
CHUNK_HEAVY = 32
CHUNK_LONGEST = 1e9  # multiply-adds: some 20 ms of a core, for which another call may have to wait
CHUNK_LEAST = 4
CACHE = 1 << 20  # bytes of L2 that a server's core has
LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# What does not end a linear chain: moving elements, and adding constants (not residual branches).
TRANSPARENT = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Add"}


@dataclass(frozen=True)
class Layer:
    """One linear layer, for one image.

    Attributes:
        op: ONNX operator.
        macs: multiply-adds.
        inputs, outputs: elements that one image takes to it and gets from it.
        gemm: (rows, k, n) of the matrix product that computes it for one image: `rows` positions,
            `k` numbers into each, `n` out of each.
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

    @property
    def activations(self) -> int:
        """Bytes of float32 that go in and come out for one image."""
        return 4 * (self.inputs + self.outputs)


def layers(model: onnx.ModelProto | Path) -> list[Layer]:
    """The linear layers of a graph in their order.

    The batch must be the first dimension of the input; shapes are inferred with a batch of one.
    """
    proto = onnx.load(str(model)) if isinstance(model, Path) else model
    single = onnx.ModelProto()
    single.CopyFrom(proto)
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for answer in single.graph.output:
        answer.ClearField("type")
    del single.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph

    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    constants = set(shapes)
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(abs(d.dim_value) for d in value.type.tensor_type.shape.dim)
    found: list[Layer] = []
    open_chains: set[str] = set()  # tensors that a linear layer made, and nothing bent since
    for node in graph.node:
        straight = node.input and node.input[0] in open_chains
        if node.op_type in LINEAR:
            found.append(_layer(node, shapes, follows=bool(straight)))
            open_chains.update(node.output)
        elif straight and _passes_on(node, constants):
            open_chains.update(node.output)
    return found


def _passes_on(node: onnx.NodeProto, constants: set[str]) -> bool:
    """Whether what a linear chain made is still linear after this node."""
    return node.op_type in TRANSPARENT and (node.op_type != "Add" or node.input[1] in constants)


def macs(model: onnx.ModelProto | Path) -> int:
    """Multiply-adds for one image, layer by layer as the graph has them."""
    return sum(layer.macs for layer in layers(model))


def chunk_of(model: onnx.ModelProto | Path) -> int:
    """Images that the engine should compute at once: a power of two from 1 to 64.

    Some 64 million multiply-adds take a core a millisecond or two. That is long beside what Python
    and the runtime cost a call (tens of microseconds), short enough that concurrent calls share
    the cores fairly, and in these networks small enough for a core's L2 cache. It gives 16 for the
    classic's decoder and 64 for its encoder, the best of what was measured (benchmarks/LOG.md).

    A layer's weights beyond the cache are read again for each chunk, and a machine's other guests
    drive them out of its last cache in between. A network that has such gets 32 images at once, or
    fewer, down to 4, where these would take a core very long: `standard` took 4 % less CPU time
    with 32 than with 16, and the network for 64×64×3 images 4 % less time with 32 than with 4.
    """
    found = layers(model)
    total = max(1, sum(layer.macs for layer in found))
    fitting = 2 ** min(6, max(0, round(log2(CHUNK_MACS / total))))
    if max((layer.weights for layer in found), default=0) <= CACHE:
        return int(fitting)
    short = 2 ** floor(log2(max(CHUNK_LEAST, CHUNK_LONGEST / total)))
    return int(max(fitting, min(CHUNK_HEAVY, short)))


def folded_macs(model: onnx.ModelProto | Path) -> int:
    """The fewest multiply-adds for one image when linear chains may become one matrix.

    Layers with nothing non-linear between them are one linear map; a run of them may be computed
    as one matrix of inputs × outputs. The cheapest way to cut each chain into such runs counts.
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
    """The smallest cost of a chain, each layer alone or in a run that is one matrix."""
    best = [0]
    for end in range(1, len(chain) + 1):
        options = [best[end - 1] + chain[end - 1].macs]
        for start in range(end - 1):
            options.append(best[start] + chain[start].inputs * chain[end - 1].outputs)
        best.append(min(options))
    return best[-1]


def _layer(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], *, follows: bool) -> Layer:
    """Shapes are those of one image: (1, C, H, W), (1, features) or a batch of positions."""
    taken, weight, made = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":  # weight (M, C / group, kH, kW)
        rows, k, n = prod(made[2:]), prod(weight[1:]), weight[0]
    elif node.op_type == "ConvTranspose":  # weight (C, M / group, kH, kW)
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        rows, k, n = prod(taken[2:]), weight[0] // group, prod(weight[1:]) * group
    else:
        k = prod(taken) // (prod(made) // made[-1])
        rows, n = prod(made) // made[-1], made[-1]
    return Layer(node.op_type, rows * k * n, prod(taken), prod(made), (rows, k, n), follows)
