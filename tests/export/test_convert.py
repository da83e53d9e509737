"""Keras → ONNX: the cleaned graph is the same function, and holds nothing but the network."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.convert import OPSET, TENSORS, graphs, serialize
from export.rewrite import cleanup
from export.rewrite.graph import attribute
from training.backend import load_tensorflow

ARITHMETIC = {"Shape", "Gather", "Slice", "Concat", "Cast", "Unsqueeze", "Squeeze", "Identity"}
CASES = [
    # image shape, filters, kernel
    ((8, 8, 1), (3, 5), 3),
    ((12, 8, 3), (4, 3), 3),
    ((8, 8, 1), (4,), 2),
    ((12, 8, 3), (1, 3), 4),
    ((8, 12, 1), (1,), 5),
    ((4, 4, 1), (2, 3), 3),
    ((8, 8, 3), (1, 1), 2),
]
TILED = ((12, 8, 3), (16, 5), 3)  # its last layer is computed in tiles


def build(shape: tuple[int, int, int], filters: tuple[int, ...], kernel: int, seed: int = 0) -> Any:
    """The three Keras models of training, with random weights and random biases."""
    load_tensorflow()
    import keras

    from training.model import ModelSettings, classic

    keras.utils.set_random_seed(seed)
    models = classic(
        ModelSettings(image_shape=shape, filters=filters, latent_size=5, kernel_size=kernel)
    )
    rng = np.random.default_rng(seed)
    for weight in models.autoencoder.weights:  # Keras's biases are zero, which would hide mistakes
        weight.assign(rng.normal(0, 0.3, weight.shape))
    return models


def rows_for(model: Any, size: int, seed: int = 0) -> np.ndarray:
    shape = (size, *model.input_shape[1:])
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def run(model: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {session.get_inputs()[0].name: rows})[0]
    return output


@pytest.fixture(scope="module")
def converted() -> dict[Any, Any]:
    """Case → name → (Keras model, ONNX model)."""
    pairs: dict[Any, Any] = {}
    for case in [*CASES, TILED]:
        models = build(*case)
        pairs[case] = {
            name: (getattr(models, name), graphs(getattr(models, name), name, metadata={}).served)
            for name in TENSORS
        }
    return pairs


@pytest.mark.parametrize(("case", "name"), list(itertools.product([*CASES, TILED], TENSORS)))
def test_the_same_numbers_as_keras(converted: Any, case: Any, name: str) -> None:
    model, onnx_model = converted[case][name]
    for size in (1, 3, 17):
        rows = rows_for(model, size, seed=size)
        expected = model(rows, training=False).numpy()
        result = run(onnx_model, rows)
        assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(("case", "name"), list(itertools.product(CASES, TENSORS)))
def test_nothing_but_the_network(converted: Any, case: Any, name: str) -> None:
    nodes = converted[case][name][1].graph.node
    ops = Counter(node.op_type for node in nodes)
    assert not (ARITHMETIC - {"Concat"}) & set(ops), ops
    for node in nodes:
        if node.op_type == "Concat":  # of upsampling phases, along channels; never of a shape
            assert attribute(node, "axis") == 1 and len(node.input) == 4
    assert not {"MatMul", "Add"} & set(ops), "a bias that was not fused"
    channels = case[0][2]
    assert ops["Transpose"] == (channels > 1 and name != "encoder")
    for node in nodes:
        if node.op_type == "Transpose":
            assert node.output[0] in ("images", "denoised")
            assert list(attribute(node, "perm")) == [0, 2, 3, 1]


@pytest.mark.parametrize("name", TENSORS)
def test_names_shapes_opset_and_metadata(name: str) -> None:
    model = getattr(build((12, 8, 3), (2, 3), 3), name)
    served = graphs(model, name, metadata={"denoiser.image_range": "[0, 1]"}).served
    onnx.checker.check_model(served, full_check=True)
    shapes = {"images": ["N", 12, 8, 3], "denoised": ["N", 12, 8, 3], "latents": ["N", 5]}
    ends = [*served.graph.input, *served.graph.output]
    assert tuple(end.name for end in ends) == TENSORS[name]
    for end in ends:
        kind = end.type.tensor_type
        assert kind.elem_type == onnx.TensorProto.FLOAT
        assert [d.dim_param or d.dim_value for d in kind.shape.dim] == shapes[end.name]
    assert [(o.domain, o.version) for o in served.opset_import] == [("", OPSET)]
    metadata = {item.key: item.value for item in served.metadata_props}
    assert metadata == {"denoiser.model": name, "denoiser.image_range": "[0, 1]"}
    node_names = [node.name for node in served.graph.node]
    assert len(set(node_names)) == len(node_names)


def test_tensor_names_are_the_contracts() -> None:
    assert TENSORS == {
        "encoder": ("images", "latents"),
        "decoder": ("latents", "images"),
        "autoencoder": ("images", "denoised"),
    }


@pytest.mark.parametrize("name", TENSORS)
def test_the_same_model_always_gives_the_same_bytes(name: str) -> None:
    first = build((8, 8, 1), (2, 3), 3)
    again = build(
        (8, 8, 1), (2, 3), 3
    )  # Keras gives its layers new numbers, which must not be in the names
    other = build((8, 8, 1), (2, 3), 3, seed=1)
    files = [
        serialize(graphs(getattr(models, name), name, metadata={"a": "b"}).served)
        for models in (first, first, again, other)
    ]
    assert files[0] == files[1] == files[2]
    assert files[3] != files[0]


def test_nothing_of_the_machine_or_the_day_is_in_the_bytes() -> None:
    data = serialize(graphs(build((8, 8, 1), (2,), 3).encoder, "encoder", metadata={}).served)
    for trace in (b"tf2onnx", b"/home", b"/root", b"StatefulPartitionedCall", b"2026"):
        assert trace not in data


def test_a_model_that_fails_the_checker_is_not_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = cleanup.clean

    def damage(graph: Any) -> None:
        real(graph)
        graph.nodes[0].op_type = "NoSuchOperator"

    monkeypatch.setattr("export.convert.clean", damage)
    with pytest.raises(onnx.checker.ValidationError):
        graphs(build((8, 8, 1), (2,), 3).encoder, "encoder", metadata={})
