"""int8: the layers that gain from it, calibrated on the run's own samples.

The result is standard ONNX: float32 inputs and outputs, QuantizeLinear/DequantizeLinear pairs
around the layers that a runtime may compute in integers. Activations are uint8 with one scale per
tensor, and a ReLU becomes the lower end of the range; weights are int8 with one scale per output
channel. Weights use 7 of the 8 bits: on x86 without VNNI the sum of two products saturates at 16
bits, and the same file would give another result there.

The latents are unbounded and never quantised; the activations after them saturate for latents far
outside those of the samples. Encoder and decoder are the quantised autoencoder, split at the
latents, so that the three agree bit for bit: decode(encode(images)) is denoise(images).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnx.utils
from onnx import helper

from common.arrays import Array
from export.chunks import chunks
from export.rewrite import cost
from export.rewrite.graph import Graph

# Products per sum from which int8 gains: the first layer of `classic` (3 × 3 × 1) took 5.6 µs per
# image in int8 and 1.5 µs in float32, its second (3 × 3 × 32) 5.3 and 15.7 (benchmarks/LOG.md).
MIN_PRODUCTS = 32
# Multiply-adds per activation from which int8 gains: each multiply-add takes less time, each
# activation read or written takes more. Of ten networks, those with 26 to 61 ran 1.2 to 1.9 times
# as fast, those with 16 or fewer more slowly.
MIN_INTENSITY = 20.0
BATCH = 64 * 4 * 28 * 28  # bytes of images; their activations take many times as much
_MOVES = ("Reshape", "Flatten", "Transpose")
_DENSE = ("Gemm", "MatMul")
_PASSES = (*_MOVES, "Relu", "Concat")


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the layers to compute in int8.

    A Conv whose sums are long enough; a dense layer that reads the output of a ReLU. One that reads
    latents, which are unbounded, stays float32.
    """
    graph = Graph(model)
    names = []
    for node in graph.nodes:
        weights = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
        if weights is None:
            continue
        if node.op_type == "Conv" and prod(weights.shape[1:]) >= MIN_PRODUCTS:
            names.append(node.name)
        if node.op_type in _DENSE:
            before = graph.producer(node.input[0])
            while before is not None and before.op_type in _MOVES:
                before = graph.producer(before.input[0])
            if before is not None and before.op_type == "Relu":
                names.append(node.name)
    return names


def intensity(model: onnx.ModelProto) -> float:
    """Multiply-adds per activation that the `quantised_layers` read or write."""
    chosen = set(quantised_layers(model))
    names = [node.name for node in model.graph.node if node.op_type in cost.LINEAR]
    layers = zip(names, cost.layers(model), strict=True)
    integer = [layer for name, layer in layers if name in chosen]
    activations = sum(layer.inputs + layer.outputs for layer in integer)
    return sum(layer.macs for layer in integer) / max(1, activations)


def quantise(models: Mapping[str, onnx.ModelProto], images: Array) -> dict[str, onnx.ModelProto]:
    """The three networks with their `quantised_layers` in int8.

    Args:
        models: encoder, decoder and autoencoder, float32, as `convert.graphs` makes them.
        images: noisy samples, float32 (N, H, W, C) in [0, 1]; the ranges of activations are the
            smallest and largest values on them.
    """
    whole = models["autoencoder"]
    latents = whole.graph.node[len(models["encoder"].graph.node) - 1].output[0]
    source, output = whole.graph.input[0].name, whole.graph.output[0].name
    reduced = _quantised(whole, images)
    ends = {
        "encoder": (source, latents),
        "decoder": (latents, output),
        "autoencoder": (source, output),
    }
    return {name: _part(reduced, *ends[name], like=models[name]) for name in ends}


def _quantised(model: onnx.ModelProto, samples: Array) -> onnx.ModelProto:
    """One model with its `quantised_layers` in int8; `model` is not modified."""
    from onnxruntime import quantization  # slow to import

    passing = [node.name for node in model.graph.node if node.op_type in _PASSES]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # Marks the graph as preprocessed; without it each call prints advice.
    copy.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with TemporaryDirectory(prefix="denoiser-int8-") as folder:
        path = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            copy,
            path,
            _Reader(model.graph.input[0].name, samples),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", *_DENSE, *_PASSES],
            nodes_to_quantize=[*quantised_layers(model), *passing],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": list(_DENSE)},
        )
        return onnx.load(path)


def _part(
    whole: onnx.ModelProto, source: str, output: str, *, like: onnx.ModelProto
) -> onnx.ModelProto:
    """The part of `whole` between two tensors, with inputs, outputs and metadata as in `like`."""
    part = onnx.utils.Extractor(whole).extract_model([source], [output])
    names = {source: like.graph.input[0].name, output: like.graph.output[0].name}
    for node in part.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    part.graph.ClearField("input")
    part.graph.input.extend(like.graph.input)
    part.graph.ClearField("output")
    part.graph.output.extend(like.graph.output)
    del part.graph.value_info[:], part.metadata_props[:]
    props = {prop.key: prop.value for prop in like.metadata_props}
    helper.set_model_props(part, {**props, "denoiser.precision": "int8"})
    part.producer_name, part.graph.name = like.producer_name, like.graph.name
    onnx.checker.check_model(part, full_check=True)
    return part


class _Reader:
    """Samples in batches of a fixed order, as `quantize_static` reads them."""

    def __init__(self, name: str, samples: Array) -> None:
        self._batches: Iterator[dict[str, Any]] = (
            {name: samples[chunk]} for chunk in chunks(len(samples), samples.shape[1:], limit=BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next batch under its input's name; None after the last."""
        return next(self._batches, None)
