"""The ONNX model that scores images: `images`, `latents`, `denoised` → `scores`.

    features   the latents; the RMS of the input; from 2×2 block means, which halve the noise: mean
               and RMS of input, output and residual, and the mean of input × output and of
               output²; from 4×4 block means, where little but structure remains: the RMS again
    logit      half the squared Mahalanobis distance of the features from the training images',
               plus the weighted log-odds that a small classifier gives for a negative sample
    scores     the share of validation images with a lower logit

The model reads what the engine has computed anyway, and costs a few per cent of it. As a graph it
runs on the engine's own one-thread sessions; numpy's BLAS would start threads of its own for
products of this size.
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
# Whitened features are clipped here: 1e6 standard deviations square to what float32 holds. Beyond
# it, infinity minus infinity would give NaN.
MAX_DEVIATION = np.float32(1e6)
Shape = tuple[int, int, int]  # (H, W, C)


@dataclass(frozen=True)
class Residual:
    """Standardised residual of an input value x for the output y: (x − a − b·y) · (c + d·y).

    Attributes:
        mean: (b, a), the regression line of x on y.
        precision: (d, c), about one over the standard deviation around it.
    """

    mean: tuple[float, float]
    precision: tuple[float, float]


@dataclass(frozen=True)
class LogitWeights:
    """Parameters of the novelty logit over F features, as float arrays.

    Attributes:
        centre: (F,), the mean of the features.
        whiten: (F, F), maps centred features to unit covariance.
        layers: (weights, bias) of the classifier of negative samples, ReLU between them; the last
            one has one output, the weighted log-odds.
    """

    centre: Array
    whiten: Array
    layers: tuple[tuple[Array, Array], ...]


@dataclass(frozen=True)
class Calibration:
    """Logit to score: linear between knots, with a tail beyond the last.

    At distance d beyond the last knot, whose share is `last`, the score is
    1 − (1 − last) / (1 + d / spread): a Pareto tail, slow enough to keep the order of far outliers
    in float32 for some thousand spreads.

    Attributes:
        knots: logits, float (M,), ascending.
        shares: scores at the knots, float (M,) in [0, 1).
        spread: in units of the logit.
    """

    knots: Array
    shares: Array
    spread: float


class _Builder:
    """A graph under construction: each call adds a node and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str | Array, name: str = "", **attributes: Any) -> str:
        """Add a node; arrays among its inputs become constants."""
        output = name or f"{op.lower()}_{len(self.nodes)}"
        tensors = [
            value if isinstance(value, str) else self._constant(value, f"{output}_{index}")
            for index, value in enumerate(inputs)
        ]
        self.nodes.append(helper.make_node(op, tensors, [output], name=output, **attributes))
        return output

    def dense(self, tensor: str, weights: Array, bias: Array) -> str:
        """Add a Gemm with these weights as float32."""
        return self.add("Gemm", tensor, weights.astype(np.float32), bias.astype(np.float32))

    def _constant(self, value: Array, name: str) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def model(
        self, shape: Shape, latent_size: int, output: str, row: tuple[int, ...] = ()
    ) -> onnx.ModelProto:
        """The nodes as a checked model whose output is (N, *row)."""
        rows = {"images": shape, "latents": (latent_size,), "denoised": shape, output: row}
        *inputs, result = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *sides])
            for name, sides in rows.items()
        )
        graph = helper.make_graph(self.nodes, "novelty", inputs, [result], self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.helper.set_model_props(model, {"denoiser.model": "novelty"})
        onnx.checker.check_model(model, full_check=True)
        return model


def novelty_model(
    shape: Shape,
    latent_size: int,
    residual: Residual,
    weights: LogitWeights | None = None,
    calibration: Calibration | None = None,
) -> onnx.ModelProto:
    """The whole model, output `scores` (N,), or its first part.

    Without a calibration the output is `logit` (N,), and without weights `features` (N, F).
    """
    builder = _Builder()
    result = _features(builder, shape, residual)
    if weights is None:
        return builder.model(shape, latent_size, result, (feature_count(shape, latent_size),))
    result = _logit(builder, result, weights)
    name = "logit" if calibration is None else "scores"
    if calibration is not None:
        result = _scores(builder, result, calibration)
    builder.add("Squeeze", result, _axes(1), name=name)
    return builder.model(shape, latent_size, name)


def feature_count(shape: Shape, latent_size: int) -> int:
    """The number of features, F."""
    return latent_size + 11 * shape[2]


def _features(builder: _Builder, shape: Shape, residual: Residual) -> str:
    """Features, (N, F), by many small operators: the fused ones are slower in ONNX Runtime.

    ReduceL2 takes twice as long as its three steps, a 1×1 Conv three times as long as the residual.
    """
    fine = _planes(builder, "images", shape)
    source = _pooled(builder, fine)
    output = _pooled(builder, _planes(builder, "denoised", shape))
    rest = builder.add("Sub", source, _line(builder, output, residual.mean))
    rest = builder.add("Mul", rest, _line(builder, output, residual.precision))
    blocks = builder.add("Concat", source, output, rest, axis=1)  # (N, 3C, H/2, W/2)
    product = builder.add("Mul", source, output)
    means = [_mean(builder, planes) for planes in (blocks, product)]
    squares = [
        _mean(builder, builder.add("Mul", planes, planes))
        for planes in (fine, blocks, _pooled(builder, blocks))
    ]
    rms = builder.add("Sqrt", builder.add("Concat", *squares, axis=1))
    return builder.add("Concat", "latents", *means, rms, name="features", axis=1)


def _mean(builder: _Builder, planes: str) -> str:
    """Mean over the pixels: (N, K, H, W) → (N, K)."""
    return builder.add("ReduceMean", planes, _axes(2, 3), keepdims=0)


def _line(builder: _Builder, tensor: str, line: tuple[float, float]) -> str:
    """The value slope · tensor + intercept."""
    slope, intercept = (np.array(value, np.float32) for value in line)
    return builder.add("Add", builder.add("Mul", tensor, slope), intercept)


def _planes(builder: _Builder, images: str, shape: Shape) -> str:
    """Channels first: (N, H, W, C) → (N, C, H, W)."""
    height, width, channels = shape
    if channels == 1:  # the same order in memory
        return builder.add("Reshape", images, np.array([-1, 1, height, width]))
    return builder.add("Transpose", images, perm=[0, 3, 1, 2])


def _pooled(builder: _Builder, planes: str) -> str:
    """Means over 2×2 blocks; the last line of an odd side is dropped."""
    return builder.add("AveragePool", planes, kernel_shape=[2, 2], strides=[2, 2])


def _logit(builder: _Builder, features: str, logit: LogitWeights) -> str:
    """The novelty logit, (N, F) → (N, 1)."""
    # The half of the squared distance is folded into the whitening, and out of the first layer.
    whiten = logit.whiten * np.sqrt(0.5)
    (weights, bias), *layers = logit.layers
    white = builder.dense(features, whiten, -logit.centre @ whiten)
    white = builder.add("Clip", white, np.array(-MAX_DEVIATION), np.array(MAX_DEVIATION))
    hidden = white
    for layer in [(weights * np.sqrt(2), bias), *layers[:-1]]:
        hidden = builder.add("Relu", builder.dense(hidden, *layer))
    weights, bias = layers[-1]
    distance = builder.add("ReduceSumSquare", white, _axes(1))  # (N, 1)
    distance = builder.add("Add", distance, bias.astype(np.float32))
    return builder.add("Gemm", hidden, weights.astype(np.float32), distance)


def _scores(builder: _Builder, logit: str, calibration: Calibration) -> str:
    """The calibrated score, (N, 1) → (N, 1): linear between two knots, a tail beyond the last."""
    zero, one = np.array(0, np.float32), np.array(1, np.float32)
    knots, shares, spread = calibration.knots, calibration.shares, calibration.spread
    steps = 1 / np.diff(knots)
    parts = builder.dense(logit, steps[None], -knots[:-1] * steps)  # (N, M − 1)
    tail = builder.dense(logit, np.array([[1 / spread]]), -knots[-1:] / spread)
    tail = builder.add("Softsign", builder.add("Relu", tail))  # d → d / (1 + d)
    parts = builder.add("Clip", parts, zero, one)
    rises = np.diff(shares)[:, None].astype(np.float32)
    score = builder.add("Gemm", parts, rises, tail, beta=float(1 - shares[-1]))
    return builder.add("Clip", score, zero, one)


def _axes(*axes: int) -> Array:
    return np.array(axes, np.int64)
