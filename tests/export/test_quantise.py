"""int8: the right layers, integer kernels, three models that agree, and limits that hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from common.errors import BundleMissingError
from export import bundling, convert, quality, quantise
from export.bundling import export_run
from export.rewrite.graph import Graph
from service.bundle import GOLDEN, INT8, MODELS, Bundle, golden_file, model_file
from service.engine import Engine
from training.runs import Run, Samples

SHAPE = (12, 8, 3)
INT8_FILES = sorted([golden_file(INT8), *(model_file(model, INT8) for model in MODELS)])


@pytest.fixture(scope="module")
def models() -> dict[str, onnx.ModelProto]:
    """Our three ONNX models of a network with random weights; only to be read."""
    from training.backend import load_tensorflow

    load_tensorflow()
    import keras

    from training.model import ModelSettings, classic

    keras.utils.set_random_seed(3)
    keras_models = classic(ModelSettings(image_shape=SHAPE, filters=(32, 64), latent_size=6))
    rng = np.random.default_rng(3)
    for weight in keras_models.autoencoder.weights:
        if len(weight.shape) == 1:  # Keras begins with biases of zero
            weight.assign(rng.normal(0, 0.1, weight.shape))
    metadata = {"denoiser.latent_size": "6"}
    return {
        name: convert.graphs(getattr(keras_models, name), name, metadata=metadata).served
        for name in MODELS
    }


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((150, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def reduced(models: dict[str, onnx.ModelProto], images: np.ndarray) -> dict[str, onnx.ModelProto]:
    return quantise.quantise(models, images)


def run(model: onnx.ModelProto, rows: np.ndarray, optimised: Path | None = None) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if optimised:
        options.optimized_model_filepath = str(optimised)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    output: np.ndarray = session.run(None, {session.get_inputs()[0].name: rows})[0]
    return output


def test_the_layers_that_gain_are_chosen(models: dict[str, onnx.ModelProto]) -> None:
    graph = Graph(models["autoencoder"])
    chosen = set(quantise.quantised_layers(models["autoencoder"]))
    for node in graph.nodes:
        if node.op_type == "Conv":
            sums = int(np.prod(graph.constants[node.input[1]].shape[1:]))
            assert (node.name in chosen) == (sums >= 32), node.name
    dense = [node.name for node in graph.nodes if node.op_type in ("Gemm", "MatMul")]
    assert [name in chosen for name in dense] == [True, False]  # the second reads latents
    assert not [n for n in quantise.quantised_layers(models["decoder"]) if n.startswith("gemm")]


def test_float32_models_are_not_modified(
    models: dict[str, onnx.ModelProto], images: np.ndarray
) -> None:
    before = {name: convert.serialize(model) for name, model in models.items()}
    quantise.quantise(models, images[:4])
    assert before == {name: convert.serialize(model) for name, model in models.items()}


@pytest.mark.parametrize("name", MODELS)
def test_inputs_outputs_and_metadata_stay(
    models: dict[str, onnx.ModelProto], reduced: dict[str, onnx.ModelProto], name: str
) -> None:
    old, new = models[name], reduced[name]
    assert list(new.graph.input) == list(old.graph.input)
    assert list(new.graph.output) == list(old.graph.output)
    assert {o.domain: o.version for o in new.opset_import} == {"": convert.OPSET}
    before = {prop.key: prop.value for prop in old.metadata_props}
    after = {prop.key: prop.value for prop in new.metadata_props}
    assert after == {**before, "denoiser.precision": "int8"}


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_outputs_are_near_and_the_three_agree_bit_for_bit(
    models: dict[str, onnx.ModelProto],
    reduced: dict[str, onnx.ModelProto],
    images: np.ndarray,
    size: int,
) -> None:
    rows = images[:size]
    whole = run(reduced["autoencoder"], rows)
    latents = run(reduced["encoder"], rows)
    np.testing.assert_array_equal(run(reduced["decoder"], latents), whole)
    expected = run(models["autoencoder"], rows)
    difference = np.abs(whole - expected)
    assert 0 < difference.max() < 0.05
    assert difference.mean() < 0.005
    exact = run(models["encoder"], rows)
    assert 0 < np.abs(latents - exact).max() < 0.05 * np.abs(exact).max()


def test_latents_are_not_quantised(reduced: dict[str, onnx.ModelProto]) -> None:
    readers = [n for n in reduced["decoder"].graph.node if "latents" in n.input]
    makers = [n for n in reduced["encoder"].graph.node if "latents" in n.output]
    assert {node.op_type for node in (*readers, *makers)} <= {"Gemm", "MatMul"}
    floats = {t.name for t in reduced["decoder"].graph.initializer if t.data_type == 1}
    assert readers[0].input[1] in floats


def test_weights_have_seven_bits_and_a_scale_for_each_output(
    reduced: dict[str, onnx.ModelProto],
) -> None:
    constants = Graph(reduced["autoencoder"]).constants
    weights = {k: v for k, v in constants.items() if k.endswith("weight_quantized")}
    assert len(weights) == len(
        [n for n in reduced["autoencoder"].graph.node if f"{n.name}.weight_quantized" in weights]
    )
    for name, values in weights.items():
        assert values.dtype == np.int8
        assert 60 <= np.abs(values.astype(int)).max() <= 64, name
        outputs = values.shape[0 if values.ndim == 4 else 1]
        assert constants[name.replace("_quantized", "_scale")].shape == (outputs,), name


def test_onnxruntime_computes_them_in_integers(
    models: dict[str, onnx.ModelProto], reduced: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    whole = reduced["autoencoder"]
    path = tmp_path / "optimised.onnx"
    run(whole, np.zeros((1, *SHAPE), np.float32), path)
    ops = [node.op_type for node in onnx.load(path).graph.node]
    chosen = quantise.quantised_layers(models["autoencoder"])
    assert ops.count("QLinearConv") == len([name for name in chosen if name.startswith("conv")])
    assert ops.count("QGemm") == 1


def test_the_same_samples_give_the_same_bytes(
    models: dict[str, onnx.ModelProto],
    reduced: dict[str, onnx.ModelProto],
    images: np.ndarray,
) -> None:
    again = quantise.quantise(models, images)
    for name in MODELS:
        assert convert.serialize(again[name]) == convert.serialize(reduced[name])


def test_every_sample_counts(
    models: dict[str, onnx.ModelProto], reduced: dict[str, onnx.ModelProto], images: np.ndarray
) -> None:
    dark = images * np.float32(0.1)
    narrow = quantise.quantise(models, dark)
    one = quantise.quantise(models, np.concatenate([dark, images[-1:]]))  # in the last batch
    assert convert.serialize(narrow["encoder"]) != convert.serialize(one["encoder"])


def test_intensity_is_counted_from_the_layers(models: dict[str, onnx.ModelProto]) -> None:
    # The encoder's int8 layers: 3×2×64 outputs of 3×3×32 products; 384 × 6.
    macs = 6 * 64 * 288 + 384 * 6
    activations = (6 * 4 * 32 + 384) + (384 + 6)
    assert quantise.intensity(models["encoder"]) == pytest.approx(macs / activations)


def figures(**loss: tuple[float, float]) -> dict[str, Any]:
    return {"loss": {name: {"psnr": p, "ssim": s} for name, (p, s) in loss.items()}}


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ({"encoder": (0.05, 0.002)}, ""),
        ({"encoder": (-3.0, -0.5)}, ""),
        ({"encoder": (0.051, 0.0)}, "encoder loses 0.0510 dB of PSNR"),
        ({"encoder": (0.0, 0.0021)}, "encoder loses 0.0021 of SSIM"),
        ({"encoder": (0.06, 0.0), "decoder": (0.0, 0.02)}, "decoder loses 0.0200 of SSIM"),
        ({"encoder": (float("nan"), 0.0)}, "encoder loses nan dB of PSNR"),
        ({"encoder": (0.0, float("inf"))}, "encoder loses inf of SSIM"),
    ],
)
def test_the_limits(loss: dict[str, tuple[float, float]], reason: str) -> None:
    refusal = quality.refusal(figures(**loss))
    assert refusal.startswith(reason)
    assert bool(refusal) == bool(reason)


def test_the_limits_are_those_of_the_design() -> None:
    assert quality.LIMITS == {"psnr": 0.05, "ssim": 0.002}


class Fake:
    """An engine on flat numbers: latents are the images' means plus an error."""

    def __init__(self, *, encoder: float = 0, decoder: float = 0) -> None:
        self._encoder, self._decoder = encoder, decoder

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images + np.float32(self._encoder)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return latents + np.float32(self._decoder)

    def denoise(self, images: np.ndarray) -> np.ndarray:
        return self.decode(self.encode(images))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_each_model_is_measured_alone_and_all_together(part: str) -> None:
    clean = np.random.default_rng(0).random((20, *SHAPE), dtype=np.float32)
    noisy = clean + np.float32(0.01)  # 40 dB
    full, worse = Fake(), Fake(**{part: 0.01})  # 34 dB where the error enters
    losses = quality.losses(full, worse, clean=clean, noisy=noisy)  # type: ignore[arg-type]
    assert (losses["images"], losses["limits"]) == (20, quality.LIMITS)
    assert losses["float32"]["psnr"] == pytest.approx(40, abs=0.01)
    for name, loss in losses["loss"].items():
        changed = name in (part, "autoencoder", "decoder(encoder)")
        assert loss["psnr"] == pytest.approx(6.02 if changed else 0, abs=0.01), name
    assert set(losses["loss"]) == {*MODELS, "decoder(encoder)"}
    assert json.dumps(losses, allow_nan=False)
    assert part in quality.table(losses)


def test_images_without_any_error_count_as_a_finite_number() -> None:
    clean = np.zeros((3, *SHAPE), np.float32)
    losses = quality.losses(Fake(), Fake(), clean=clean, noisy=clean)  # type: ignore[arg-type]
    assert losses["float32"]["psnr"] == 100
    assert json.dumps(losses, allow_nan=False)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 is tried for the tiny run too, whatever it would gain."""
    monkeypatch.setattr(quantise, "MIN_INTENSITY", 0)
    monkeypatch.setattr(quantise, "MIN_PRODUCTS", 8)
    monkeypatch.setattr(quality, "MIN_IMAGES", 1)


def test_a_run_that_cannot_gain_ships_without_int8_and_says_why(
    tiny_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="export")
    manifest = export_run(tiny_run, tmp_path / "out")
    assert not set(INT8_FILES) & set(manifest.files)
    assert manifest.available == ["float32"]
    tried = manifest.precisions["int8"]
    assert "too little to gain" in tried.reason
    assert 0 < tried.figures["multiply_adds_per_activation"] < 20
    assert f"int8: {tried.reason}" in caplog.messages
    with pytest.raises(BundleMissingError, match="too little to gain"):
        Engine.load(tmp_path / "out", precision="int8")


def test_a_run_with_few_images_ships_without_int8(
    tiny_run: Path, tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "MIN_IMAGES", 1000)
    manifest = export_run(tiny_run, tmp_path / "out")
    assert "held-out images to measure the loss" in manifest.precisions["int8"].reason
    assert not set(INT8_FILES) & set(manifest.files)


def test_a_run_that_passes_ships_both(
    tiny_run: Path, tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    real = quantise.quantise

    def spy(models: Any, images: np.ndarray) -> Any:
        seen.append(images)
        return real(models, images)

    monkeypatch.setattr(quantise, "quantise", spy)
    manifest = export_run(tiny_run, tmp_path / "out")
    samples = Run.load(tiny_run).samples()
    np.testing.assert_array_equal(seen[0], samples.noisy[0::2])
    tried = manifest.precisions["int8"]
    assert tried.reason == "" and set(INT8_FILES) <= set(manifest.files)
    assert tried.figures["images"] == len(samples.noisy[1::2])
    assert set(tried.figures["loss"]) == {*MODELS, "decoder(encoder)"}
    int8 = Engine.load(tmp_path / "out", precision="int8")
    full = Engine.load(tmp_path / "out")
    assert int8.fingerprint == tried.fingerprint != full.fingerprint
    difference = np.abs(int8.denoise(samples.noisy) - full.denoise(samples.noisy))
    assert 0 < difference.max() < 0.1
    golden = Bundle.open(tmp_path / "out").golden(INT8)
    np.testing.assert_array_equal(golden["latents"], int8.encode(golden["images"]))
    again = export_run(tiny_run, tmp_path / "again")
    assert again.at(INT8).fingerprint == tried.fingerprint
    assert again.files[GOLDEN] == manifest.files[GOLDEN]


def test_a_run_that_loses_too_much_ships_without_int8_and_with_the_figures(
    tiny_run: Path, tmp_path: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quantise.quantise

    def damage(models: Any, images: np.ndarray) -> Any:
        reduced = real(models, images)
        graph = reduced["decoder"].graph
        inputs = (node.input for node in graph.node if node.op_type == "ConvTranspose")
        bias = next(names[2] for names in inputs if len(names) > 2)
        tensor = next(t for t in graph.initializer if t.name == bias)
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values + 4, tensor.name))  # nearly white
        return reduced

    monkeypatch.setattr(quantise, "quantise", damage)
    manifest = export_run(tiny_run, tmp_path / "out")
    tried = manifest.precisions["int8"]
    assert tried.reason.startswith("decoder") and tried.fingerprint == ""
    assert not quality.refusal({"loss": {"encoder": tried.figures["loss"]["encoder"]}})
    assert tried.figures["loss"]["decoder"]["psnr"] > 0.05
    assert not [path for path in (tmp_path / "out").iterdir() if "int8" in path.name]
    assert Engine.load(tmp_path / "out").manifest.available == ["float32"]


def test_a_constant_output_measures_no_loss(
    models: dict[str, onnx.ModelProto], images: np.ndarray, tmp_path: Path
) -> None:
    """Whatever int8 does to the weights, it loses nothing: it does not ship."""
    engine: Any = None  # refused before anything is computed
    samples = Samples(images, images)
    work, stage = tmp_path / "work", tmp_path / "stage"
    for folder in (work, stage):
        folder.mkdir()
    for name, model in models.items():
        (work / model_file(name)).write_bytes(convert.serialize(model))
    precision = bundling._reduce(stage, work, engine, samples, {}, spread=0.003)
    assert "differs by 0.0030 between images" in precision.reason and not precision.fingerprint
    assert not list(stage.iterdir())
