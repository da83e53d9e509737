"""Keras → ONNX: one model, fixed tensor names, a dynamic batch, a pinned opset."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import onnx

from export.chunks import free_memory
from export.rewrite.cleanup import clean
from export.rewrite.graph import Graph
from export.rewrite.optimise import optimise

# Opset 18 is what tf2onnx 1.17 writes at most; every ONNX Runtime since 1.14 reads it.
OPSET = 18
TENSORS = {
    "encoder": ("images", "latents"),
    "decoder": ("latents", "images"),
    "autoencoder": ("images", "denoised"),
}


class Graphs(NamedTuple):
    """One network as two float32 models: the one that is served, and the input of quantisation."""

    served: onnx.ModelProto
    reducible: onnx.ModelProto


def graphs(model: Any, name: str, *, metadata: dict[str, str]) -> Graphs:
    """Convert a Keras model, rewrite its graph and check it in full.

    Args:
        model: the Keras encoder, decoder or autoencoder, channels last.
        name: which of the three it is; determines the names of input and output.
        metadata: properties stored in the file.

    Returns:
        Models of opset 18 with input and output float32 (N, …).
    """
    import tensorflow as tf
    import tf2onnx

    # Without this, tf2onnx copies the whole graph before each of its passes: 0.5 GiB for 192×192×3.
    os.environ["TF2ONNX_CATCH_ERRORS"] = "FALSE"
    source, output = TENSORS[name]
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name=source)]
    raw, _ = tf2onnx.convert.from_keras(model, input_signature=signature, opset=OPSET)
    free_memory()
    graph = Graph(raw)
    _name_tensors(graph, source, output)
    clean(graph)
    cleaned, both = graph.model(), []
    for tiled in (True, False):
        graph = Graph(cleaned)
        optimise(graph, tiled=tiled)
        both.append(graph.model())
        onnx.helper.set_model_props(both[-1], {"denoiser.model": name, **metadata})
        onnx.checker.check_model(both[-1], full_check=True)
    return Graphs(*both)


def serialize(model: onnx.ModelProto) -> bytes:
    """The model's bytes, the same for the same model."""
    return bytes(model.SerializeToString(deterministic=True))


def _name_tensors(graph: Graph, source: str, output: str) -> None:
    """Name the output, and call the batch dimension of input and output N."""
    assert graph.inputs[0].name == source
    old = graph.outputs[0].name
    producer = graph.producer(old)
    assert producer is not None
    producer.output[:] = [output if name == old else name for name in producer.output]
    for reader in graph.readers(old):
        reader.input[:] = [output if name == old else name for name in reader.input]
    graph.outputs[0].name = output
    for value in (graph.inputs[0], graph.outputs[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
