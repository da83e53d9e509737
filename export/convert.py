"""Keras → ONNX: one model, fixed tensor names, a dynamic batch, a pinned opset."""

from __future__ import annotations

from typing import Any, NamedTuple

import onnx

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
    """One network twice, both float32: as it is served, and as quantising starts from it."""

    served: onnx.ModelProto
    reducible: onnx.ModelProto


def to_onnx(model: Any, name: str, *, metadata: dict[str, str]) -> onnx.ModelProto:
    """Convert a Keras model, rewrite its graph and check it in full.

    Args:
        model: the Keras encoder, decoder or autoencoder, channels last.
        name: which of the three it is; decides the names of input and output.
        metadata: text that travels inside the file.

    Returns:
        A float32 model of opset 18 with input (N, …) and output (N, …).
    """
    return graphs(model, name, metadata=metadata).served


def graphs(model: Any, name: str, *, metadata: dict[str, str]) -> Graphs:
    """`to_onnx`, and beside it the graph without what int8 would lose by (`optimise`)."""
    import tensorflow as tf
    import tf2onnx

    source, answer = TENSORS[name]
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name=source)]
    raw, _ = tf2onnx.convert.from_keras(model, input_signature=signature, opset=OPSET)
    graph = Graph(raw)
    _name_ends(graph, source, answer)
    clean(graph)
    cleaned = graph.model()
    return Graphs(*(_finished(cleaned, name, metadata, tiled=tiled) for tiled in (True, False)))


def _finished(
    cleaned: onnx.ModelProto, name: str, metadata: dict[str, str], *, tiled: bool
) -> onnx.ModelProto:
    graph = Graph(cleaned)
    optimise(graph, tiled=tiled)
    made = graph.model()
    onnx.helper.set_model_props(made, {"denoiser.model": name, **metadata})
    onnx.checker.check_model(made, full_check=True)
    return made


def serialize(model: onnx.ModelProto) -> bytes:
    """The model's bytes, the same for the same model."""
    return model.SerializeToString(deterministic=True)


def _name_ends(graph: Graph, source: str, answer: str) -> None:
    """Name the output, and call the batch dimension N at both ends."""
    assert graph.inputs[0].name == source
    old = graph.outputs[0].name
    producer = graph.producer(old)
    assert producer is not None
    producer.output[:] = [answer if name == old else name for name in producer.output]
    for reader in graph.readers(old):
        reader.input[:] = [answer if name == old else name for name in reader.input]
    graph.outputs[0].name = answer
    for value in (graph.inputs[0], graph.outputs[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
