"""All rewrites together: the classic decoder as counted by hand, any preset, the same bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from export.convert import TENSORS, graphs
from export.rewrite.cost import macs
from export.rewrite.graph import Graph
from export.rewrite.optimise import optimise
from tests.export.test_cleanup import graph_of, ops
from tests.export.test_convert import build
from tests.export.test_fold import assert_same, in_runtime, outputs_of
from tests.support.paths import ROOT


def decoder(
    *,
    latent: int = 3,
    small: tuple[int, int] = (3, 5),
    filters: tuple[int, ...] = (4, 6),
    outputs: int = 1,
    kernel: int = 3,
    act: str = "Relu",
    seed: int = 0,
) -> Graph:
    """A preset's decoder as cleaning leaves it, (N, latent) → (N, outputs, H, W), in [0, 1].

    Padded as Keras pads: the smaller half at the top and at the left.
    """
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(prod(shape[1:])), shape).astype(np.float32)

    channels = [*filters[::-1], *filters[::-1][-1:]][: len(filters)]
    inputs = filters[-1]
    size = inputs * prod(small)
    constants: dict[str, Any] = {
        "m": weights(latent, size),
        "n": weights(size),
        "shape": np.array([-1, inputs, *small]),
    }
    nodes: list[tuple[Any, ...]] = [
        ("Gemm", ["x", "m", "n"], "g"),
        ("Reshape", ["g", "shape"], "r"),
    ]
    last = "r"
    for index, width in enumerate([*channels, outputs]):
        stride = 2 if index < len(channels) else 1
        begin = (kernel - stride) // 2
        constants[f"w{index}"] = weights(inputs, width, kernel, kernel)
        constants[f"b{index}"] = weights(width)
        end = kernel - stride - begin
        geometry = {"strides": [stride] * 2, "pads": [begin, begin, end, end]}
        nodes.append(("ConvTranspose", [last, f"w{index}", f"b{index}"], f"u{index}", geometry))
        last = f"a{index}" if stride == 2 else "y"
        nodes.append((act if stride == 2 else "Sigmoid", [f"u{index}"], last))
        inputs = width
    scale = 2 ** len(filters)
    output_row = (outputs, small[0] * scale, small[1] * scale)
    return graph_of(nodes, constants, (latent,), output_row)


def classic(seed: int = 0) -> Graph:
    """The decoder of the classic network: 178 thousand weights, about half of them here."""
    return decoder(latent=16, small=(7, 7), filters=(32, 64), seed=seed)


def rows_for(graph: Graph, batch: int = 3) -> np.ndarray:
    size = graph.inputs[0].type.tensor_type.shape.dim[1].dim_value
    return np.random.default_rng(9).normal(0, 1, (batch, size)).astype(np.float32)


@pytest.fixture(scope="module")
def rewritten_classic() -> tuple[np.ndarray, Graph]:
    """What the classic network's decoder answered before, and its graph afterwards."""
    graph = classic()
    before = in_runtime(graph, rows_for(graph))
    optimise(graph)
    return before, graph


def test_the_articles_decoder_has_the_layers_it_should(
    rewritten_classic: tuple[np.ndarray, Graph],
) -> None:
    before, graph = rewritten_classic
    assert ops(graph)[:3] == ["Gemm", "Relu", "Reshape"]  # 16 → 14·14·64, activated flat
    assert ops(graph)[-3:] == ["Concat", "ConvTranspose", "Sigmoid"]
    assert Counter(ops(graph)[3:-3]) == {"Conv": 8, "Relu": 4}
    shapes = [graph.constants[n.input[1]].shape for n in graph.nodes if n.op_type == "Conv"]
    taps = [(32, 64, 1, 1), (32, 64, 1, 2), (32, 64, 2, 1), (32, 64, 2, 2)]
    assert sorted(shapes[:4]) == taps
    assert shapes[4:] == [(9, 32, 1, 1)] * 4
    assert graph.constants[graph.nodes[0].input[1]].shape == (16, 14 * 14 * 64)
    assert graph.constants[graph.nodes[-2].input[1]].shape == (4 * 9, 1, 4, 4)
    after = in_runtime(graph, rows_for(graph))
    assert after.shape == before.shape == (3, 1, 28, 28)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)


def test_the_articles_decoder_costs_what_it_should(
    rewritten_classic: tuple[np.ndarray, Graph],
) -> None:
    graph = rewritten_classic[1]
    dense = 16 * 14 * 14 * 64
    phases = 14 * 14 * (1 + 2 + 2 + 4) * 64 * 32
    products = 4 * 14 * 14 * 32 * 9
    interleave = 14 * 14 * (4 * 9) * (4 * 4)
    assert macs(graph.model()) == dense + phases + products + interleave == 4_152_064
    plain = 16 * 3136 + 49 * 64 * 64 * 9 + 196 * 64 * 32 * 9 + 784 * 32 * 9
    assert macs(classic().model()) == plain == 5_694_976


def test_the_last_layer_only_sums() -> None:
    """A kernel of ones and zeros: each product channel is written to one place."""
    graph = decoder(filters=(24, 3), outputs=1)
    optimise(graph)
    last = next(node for node in graph.nodes if node.op_type == "ConvTranspose")
    kernel = graph.constants[last.input[1]]
    assert set(np.unique(kernel)) == {0, 1}
    np.testing.assert_array_equal(kernel.sum(axis=(1, 2, 3)), 1)
    assert kernel.sum(axis=(0, 1)).max() <= 4


PRESETS: list[dict[str, Any]] = [
    {"filters": (3,), "kernel": 3},
    {"filters": (24,), "kernel": 3, "latent": 5},
    {"filters": (2, 3), "kernel": 2, "small": (1, 2)},
    {"filters": (24, 3), "kernel": 3, "small": (2, 1)},
    {"filters": (4, 3, 2), "kernel": 3, "small": (1, 3)},
    {"filters": (5, 3), "kernel": 4, "outputs": 3},
    {"filters": (63, 2), "kernel": 3, "outputs": 3, "small": (2, 2)},
    {"filters": (3, 4), "kernel": 5, "act": "LeakyRelu"},
    {"filters": (3, 4), "kernel": 7, "act": "Tanh", "outputs": 3, "small": (1, 1)},
    {"filters": (2, 2), "latent": 40},  # wide latents: nothing folds
    {"filters": (2, 1), "latent": 1, "small": (1, 1)},
]


@pytest.mark.parametrize("preset", PRESETS, ids=str)
def test_any_preset_computes_the_same_in_two_runtimes(preset: dict[str, Any]) -> None:
    graph = decoder(**preset)
    expected = in_runtime(graph, rows_for(graph))
    before = macs(graph.model())
    optimise(graph)
    assert {"Concat", "Sum"} & set(ops(graph)) or len(preset["filters"]) == 1
    assert_same(graph, rows_for(graph), expected)
    model = graph.model()
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and "" not in names
    assert before > 0 and macs(model) > 0


@pytest.mark.parametrize("preset", PRESETS, ids=str)
def test_rewriting_again_changes_nothing(preset: dict[str, Any]) -> None:
    graph = decoder(**preset)
    optimise(graph)
    once = graph.model().SerializeToString()
    optimise(graph)
    assert graph.model().SerializeToString() == once


def test_batches_of_any_size(rewritten_classic: tuple[np.ndarray, Graph]) -> None:
    graph = rewritten_classic[1]
    rows = rows_for(graph, 33)
    whole = in_runtime(graph, rows)
    parts = [in_runtime(graph, rows[at]) for at in (slice(0, 1), slice(1, 8), slice(8, 33))]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-6)
    assert in_runtime(graph, rows[:0]).shape == (0, 1, 28, 28)


def test_an_encoder_is_left_as_it_was() -> None:
    rng = np.random.default_rng(0)
    graph = graph_of([
        ("Conv", ["x", "w"], "c", {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
        ("Relu", ["c"], "r"),
        ("Reshape", ["r", "shape"], "f"),
        ("Gemm", ["f", "m"], "y"),
    ], {"w": rng.normal(0, 1, (4, 3, 3, 3)).astype(np.float32), "shape": np.array([-1, 48]),
        "m": rng.normal(0, 1, (48, 5)).astype(np.float32)}, (3, 8, 6), (5,))  # fmt: skip
    rows = rng.normal(0, 1, (2, 3, 8, 6)).astype(np.float32)
    expected = in_runtime(graph, rows)
    optimise(graph)
    assert ops(graph) == ["Conv", "Relu", "Reshape", "Gemm"]
    for result in outputs_of(graph, rows):
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5)


# --- the same bytes


def hashed(shuffled: int | None = None) -> str:
    """SHA-256 of a rewritten decoder; its constants come in another order for each number."""
    model = decoder(filters=(24, 3), latent=40).model()  # keeps some constants as they were
    if shuffled is not None:
        order = np.random.default_rng(shuffled).permutation(len(model.graph.initializer))
        tensors = [onnx.TensorProto.FromString(t.SerializeToString())
                   for t in model.graph.initializer]  # fmt: skip
        del model.graph.initializer[:]
        model.graph.initializer.extend(tensors[k] for k in order)
    graph = Graph(model)
    optimise(graph)
    return hashlib.sha256(graph.model().SerializeToString(deterministic=True)).hexdigest()


def test_the_same_network_always_gives_the_same_bytes() -> None:
    assert hashed() == hashed() == hashed(1) == hashed(2)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_bytes_do_not_hang_on_the_hashes_of_a_process(seed: str) -> None:
    """tf2onnx and Python's sets iterate by hashes, which differ from process to process."""
    done = subprocess.run(
        [sys.executable, "-c", "from tests.export.test_optimise import hashed; print(hashed())"],
        cwd=ROOT,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == hashed()


# --- from Keras


@pytest.fixture(scope="module")
def colour() -> dict[str, tuple[Any, onnx.ModelProto]]:
    """A 64×64×3 classic network: name → (Keras model, ONNX model)."""
    models = build((64, 64, 3), (62, 3), 3)
    for weight in models.autoencoder.weights:  # so that values stay near 1 in all layers
        weight.assign(weight / (0.3 * np.sqrt(prod(weight.shape[:-1]) or 1)))
    return {
        name: (getattr(models, name), graphs(getattr(models, name), name, metadata={}).served)
        for name in TENSORS
    }


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.tensorflow
def test_a_colour_network_from_keras_to_onnx(colour: Any, name: str, batch: int) -> None:
    model, onnx_model = colour[name]
    rows = np.random.default_rng(batch).random((batch, *model.input_shape[1:]), dtype=np.float32)
    expected = model(rows, training=False).numpy()
    session = ort.InferenceSession(
        onnx_model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result = session.run(None, {TENSORS[name][0]: rows})[0]
    assert result.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max()))  # 1 for images
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * scale)
    if name != "encoder":
        assert expected.std() > 0.01  # not constant, which anything would match


@pytest.mark.tensorflow
def test_a_colour_decoder_is_rewritten(colour: Any) -> None:
    nodes = colour["decoder"][1].graph.node
    assert [node.op_type for node in nodes][:3] == ["Gemm", "Relu", "Reshape"]
    assert Counter(node.op_type for node in nodes) == {
        "Gemm": 1, "Relu": 5, "Reshape": 1, "Conv": 4, "ConvTranspose": 4, "Sum": 1,
        "Sigmoid": 1, "Transpose": 1,
    }  # fmt: skip


@pytest.mark.tensorflow
def test_a_colour_decoder_runs_in_the_reference(colour: Any) -> None:
    model, onnx_model = colour["decoder"]
    rows = np.random.default_rng(0).normal(0, 1, (1, 5)).astype(np.float32)
    result = ReferenceEvaluator(onnx_model).run(None, {"latents": rows})[0]
    expected = model(rows, training=False).numpy()
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
