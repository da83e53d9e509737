"""The ONNX model that scores images: `images`, `latents`, `denoised` → `scores`.

    features   the latents; the norm of the input; and on means over blocks of 2×2 pixels, where
               noise counts for half, mean and norm of the input, the answer, their product and
               the answer's square, and the norm of what the answer leaves of the input: there,
               and over 4×4 pixels, where little but structure is left of it
    surprise   half the squared Mahalanobis distance of the features from those of training images,
               plus the weighted log-odds that a small network gives for a contrast
    scores     the share of validation images with a lower surprise

It reads what the engine's models have made anyway, and costs a few per cent of them. As a graph it
runs on the engine's own one-thread sessions; the products are too large for numpy, whose BLAS would
start threads of its own inside the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common.arrays import Array
from export.convert import OPSET

IR_VERSION = 8  # as in the models beside it
# Deviations from the usual that count. A million of them square to what float32 holds; without an
# end, infinity less infinity would make NaN of the very unusual.
FARTHEST = np.float32(1e6)
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Residual:
    """What is left of an input value x where the answer is y: (x − a − b y) · (c + d y).

    Attributes:
        mean: b, a: the line that x lies about. precision: d, c: about one over its deviation there.
    """

    mean: tuple[float, float]
    precision: tuple[float, float]


@dataclass(frozen=True)
class Surprise:
    """How features become one number; F features, shapes as of float arrays.

    Attributes:
        centre (F,), whiten (F, F): features to those of mean 0 and unit covariance.
        layers: (weights, bias) of the network that tells contrasts, ReLU between them; the last
            gives one number, the weighted log-odds.
    """

    centre: Array
    whiten: Array
    layers: tuple[tuple[Array, Array], ...]


@dataclass(frozen=True)
class Scale:
    """Surprise to score: straight lines between knots, and a last stretch beyond them.

    Beyond the largest knot, at distance d, the score is 1 − (1 − last) / (1 + d / spread): a Pareto
    tail, whose slow fall keeps far outliers in order in float32 for some thousand spreads.

    Attributes:
        knots: float (M,), ascending. shares: float (M,) in [0, 1), what the score is there.
        spread: in units of surprise.
    """

    knots: Array
    shares: Array
    spread: float


class _Nodes:
    """A graph in the making: each call adds a node and gives the name of its output."""

    def __init__(self) -> None:
        self.made: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str | Array, name: str = "", **attributes: Any) -> str:
        """A node; arrays among its inputs become constants."""
        output = name or f"{op.lower()}_{len(self.made)}"
        tensors = [
            value if isinstance(value, str) else self._constant(value, f"{output}_{place}")
            for place, value in enumerate(inputs)
        ]
        self.made.append(helper.make_node(op, tensors, [output], name=output, **attributes))
        return output

    def _constant(self, value: Array, name: str) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def features_model(shape: Shape, latent_size: int, residual: Residual) -> onnx.ModelProto:
    """The first part alone, output `features` (N, F): what the statistics are fitted on."""
    nodes = _Nodes()
    _features(nodes, shape, residual)
    return _model(nodes, shape, latent_size, "features", [count(shape, latent_size)])


def novelty_model(
    shape: Shape, latent_size: int, residual: Residual, surprise: Surprise, scale: Scale | None
) -> onnx.ModelProto:
    """The whole, output `scores` (N,); without a scale `surprise` (N,), to make one from."""
    nodes = _Nodes()
    surprised = _surprise(nodes, _features(nodes, shape, residual), surprise)
    name = "surprise" if scale is None else "scores"
    answer = surprised if scale is None else _scores(nodes, surprised, scale)
    nodes.add("Squeeze", answer, _axes(1), name=name)
    return _model(nodes, shape, latent_size, name, [])


def count(shape: Shape, latent_size: int) -> int:
    """How many features there are."""
    return latent_size + 11 * shape[2]


def _features(nodes: _Nodes, shape: Shape, residual: Residual) -> str:
    """(N, F). Small steps on few values: what does more at once is slower in ONNX Runtime here.

    ReduceL2 takes twice as long as its three steps, a 1×1 Conv three times as long as the residual.
    """
    fine = _planes(nodes, "images", shape)
    given, made = _pooled(nodes, fine), _pooled(nodes, _planes(nodes, "denoised", shape))
    left = nodes.add("Sub", given, _line(nodes, made, residual.mean))
    left = nodes.add("Mul", left, _line(nodes, made, residual.precision))
    blocks = nodes.add("Concat", given, made, left, axis=1)  # (N, 3C, H/2, W/2)
    product = nodes.add("Mul", given, made)
    means = [_mean(nodes, planes) for planes in (blocks, product)]
    squares = [
        _mean(nodes, nodes.add("Mul", planes, planes))
        for planes in (fine, blocks, _pooled(nodes, blocks))
    ]
    sizes = nodes.add("Sqrt", nodes.add("Concat", *squares, axis=1))
    return nodes.add("Concat", "latents", *means, sizes, name="features", axis=1)


def _mean(nodes: _Nodes, planes: str) -> str:
    """(N, K, …) → (N, K)"""
    return nodes.add("ReduceMean", planes, _axes(2, 3), keepdims=0)


def _line(nodes: _Nodes, tensor: str, line: tuple[float, float]) -> str:
    """Slope · tensor + start"""
    slope, start = (np.array(value, np.float32) for value in line)
    return nodes.add("Add", nodes.add("Mul", tensor, slope), start)


def _planes(nodes: _Nodes, images: str, shape: Shape) -> str:
    """(N, H, W, C) → (N, C, H, W)"""
    height, width, channels = shape
    if channels == 1:  # nothing to move
        return nodes.add("Reshape", images, np.array([-1, 1, height, width]))
    return nodes.add("Transpose", images, perm=[0, 3, 1, 2])


def _pooled(nodes: _Nodes, planes: str) -> str:
    """Means over blocks of 2×2; an odd side's last line is left out."""
    return nodes.add("AveragePool", planes, kernel_shape=[2, 2], strides=[2, 2])


def _surprise(nodes: _Nodes, features: str, surprise: Surprise) -> str:
    """(N, 1)"""
    # the half of the squared distance goes into the distance itself, and out of the first layer
    whiten = surprise.whiten * np.sqrt(0.5)
    (weights, bias), *layers = surprise.layers
    white = _dense(nodes, features, whiten, -surprise.centre @ whiten)
    white = nodes.add("Clip", white, np.array(-FARTHEST), np.array(FARTHEST))
    hidden = white
    for more in [(weights * np.sqrt(2), bias), *layers[:-1]]:
        hidden = nodes.add("Relu", _dense(nodes, hidden, *more))
    weights, bias = layers[-1]
    distance = nodes.add("ReduceSumSquare", white, _axes(1))  # (N, 1)
    distance = nodes.add("Add", distance, bias.astype(np.float32))
    return nodes.add("Gemm", hidden, weights.astype(np.float32), distance)


def _scores(nodes: _Nodes, surprise: str, scale: Scale) -> str:
    """(N, 1) → (N, 1): between two knots the share climbs from one's to the other's."""
    zero, one = np.array(0, np.float32), np.array(1, np.float32)
    steps = 1 / np.diff(scale.knots)
    parts = _dense(nodes, surprise, steps[None], -scale.knots[:-1] * steps)  # (N, M − 1)
    last = scale.knots[-1:]
    beyond = _dense(nodes, surprise, np.array([[1 / scale.spread]]), -last / scale.spread)
    beyond = nodes.add("Softsign", nodes.add("Relu", beyond))  # d → d / (1 + d)
    climbs = np.diff(scale.shares)[:, None].astype(np.float32)
    parts = nodes.add("Clip", parts, zero, one)
    found = nodes.add("Gemm", parts, climbs, beyond, beta=float(1 - scale.shares[-1]))
    return nodes.add("Clip", found, zero, one)


def _dense(nodes: _Nodes, tensor: str, weights: Array, bias: Array) -> str:
    return nodes.add("Gemm", tensor, weights.astype(np.float32), bias.astype(np.float32))


def _axes(*axes: int) -> Array:
    return np.array(axes, np.int64)


def _model(
    nodes: _Nodes, shape: Shape, latent_size: int, output: str, row: list[int]
) -> onnx.ModelProto:
    """A checked model of what is in `nodes`."""
    ends = {"images": [*shape], "latents": [latent_size], "denoised": [*shape]}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *rows])
        for name, rows in ends.items()
    ]
    answer = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *row])
    graph = helper.make_graph(nodes.made, "novelty", inputs, [answer], nodes.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.helper.set_model_props(model, {"denoiser.model": "novelty"})
    onnx.checker.check_model(model, full_check=True)
    return model
