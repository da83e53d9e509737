"""Scores are fitted through a real engine, mean what they say, and are the same each time."""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sklearn.metrics import roc_auc_score

from export import convert
from export.novelty import fit as novelty
from export.novelty import negatives
from export.novelty.fit import noise_model
from export.novelty.graph import (
    Calibration,
    LogitWeights,
    Residual,
    feature_count,
    novelty_model,
)
from export.novelty.probes import AddNoise
from service.bundle import NOVELTY, Bundle
from service.engine import Engine
from tests.support.tiny import COLOUR, GREY, NOVELTY_FACTS, TinyNetwork, seal, write_bundle
from training.noise.spec import parse_noise
from training.reference import Reference, write_reference
from training.runs import Run

NOISE = parse_noise("gaussian:0.2,0.2")
RESIDUAL = Residual(mean=(0.6, 0.3), precision=(1.5, 2.0))


def shapes(count: int, seed: int, image_shape: tuple[int, int, int] = GREY) -> np.ndarray:
    """A data set: a bright bar with a foot, of any brightness, never mirrored; uint8."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, *image_shape), np.uint8)
    light = rng.integers(150, 256, (count, 1, 1, 1))
    images[:, 1:7, 2:4] = light
    images[:, 5:7, 4:6] = light
    return images


def reference(image_shape: tuple[int, int, int] = GREY, **noisy: np.ndarray) -> Reference:
    return Reference(shapes(400, 1, image_shape), shapes(300, 2, image_shape), **noisy)


def run_model(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        convert.serialize(model), options, providers=["CPUExecutionProvider"]
    )
    output: np.ndarray = session.run(None, inputs)[0]
    return output


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that takes a second."""
    monkeypatch.setattr(novelty, "IMAGES", 1200)
    monkeypatch.setattr(novelty, "EPOCHS", 8)
    monkeypatch.setattr(novelty, "HIDDEN", (16, 8))


def scored(path: Path, engine: Engine, add_noise: AddNoise, images: Reference) -> Engine:
    """The engine of a bundle at `path` to which scores have been added."""
    model = novelty.fit(engine, images, add_noise)
    (path / NOVELTY).write_bytes(convert.serialize(model))
    seal(path, image_shape=engine.manifest.image_shape, novelty={"float32": NOVELTY_FACTS})
    return Engine.load(path, threads=2)


@pytest.mark.parametrize("image_shape", [GREY, COLOUR])
def test_scores_are_calibrated_and_detect_novel_images(
    tmp_path: Path, image_shape: tuple[int, int, int]
) -> None:
    path = write_bundle(tmp_path / "bundle", TinyNetwork.random(image_shape, 3))
    images, add_noise = reference(image_shape), noise_model(reference(), NOISE)
    engine = scored(path, Engine.load(path, threads=2), add_noise, images)

    facts = novelty.evaluate(engine, images, add_noise)
    assert facts["share_above"] == pytest.approx(0.01, abs=0.0035)  # 3 of 300
    assert (facts["train"], facts["validation"]) == (400, 300)
    assert facts["probes"]["white images"]["auroc"] > 0.95

    rng = np.random.default_rng(5)
    fresh = engine.score(add_noise(shapes(2000, 6, image_shape), rng))
    assert fresh.min() >= 0 and fresh.max() <= 1
    for share in (0.1, 0.5, 0.9):  # five deviations of 300 calibrating and 2,000 fresh images
        allowed = 5 * math.sqrt(share * (1 - share) * (1 / 300 + 1 / 2000))
        assert abs((fresh > share).mean() - (1 - share)) < allowed
    upside_down = np.ascontiguousarray(shapes(500, 7, image_shape)[:, ::-1, ::-1])
    novel = engine.score(add_noise(upside_down, rng))
    truth = np.repeat([0, 1], [len(fresh), len(novel)])
    assert roc_auc_score(truth, np.concatenate([fresh, novel])) > 0.9


def test_the_same_fit_twice_is_the_same_file(engine: Engine) -> None:
    images = reference()
    one, two = (
        convert.serialize(novelty.fit(engine, images, noise_model(reference(), NOISE)))
        for _ in range(2)
    )
    assert one == two


def test_features_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    images, denoised = rng.random((2, 7, *COLOUR), dtype=np.float32)
    latents = rng.normal(size=(7, 4)).astype(np.float32)
    model = novelty_model(COLOUR, 4, RESIDUAL)
    features = run_model(model, images=images, latents=latents, denoised=denoised)

    def pooled(planes: np.ndarray) -> np.ndarray:
        rows = planes[:, ::2] + planes[:, 1::2]
        means: np.ndarray = (rows[:, :, ::2] + rows[:, :, 1::2]) / 4
        return means

    source, output = pooled(images), pooled(denoised)
    residual = (source - (0.6 * output + 0.3)) * (1.5 * output + 2.0)
    blocks = np.concatenate([source, output, residual], axis=-1)
    pixels = (1, 2)
    expected = np.concatenate(
        [
            latents,
            blocks.mean(pixels),
            (source * output).mean(pixels),
            np.sqrt((images**2).mean(pixels)),
            np.sqrt((blocks**2).mean(pixels)),
            np.sqrt((pooled(blocks) ** 2).mean(pixels)),
        ],
        axis=1,
    )
    assert features.shape == (7, feature_count(COLOUR, 4))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def random_weights(features: int) -> LogitWeights:
    rng = np.random.default_rng(1)
    layers = [
        (rng.normal(size=(features, 5)), rng.normal(size=5)),
        (rng.normal(size=(5, 3)), rng.normal(size=3)),
        (rng.normal(size=(3, 1)), rng.normal(size=1)),
    ]
    whiten = np.linalg.cholesky(np.cov(rng.normal(size=(features, 99))))
    return LogitWeights(rng.normal(size=features), whiten, tuple(layers))


def test_the_logit_is_distance_and_log_odds() -> None:
    rng = np.random.default_rng(2)
    inputs = {
        "images": rng.random((9, *GREY), dtype=np.float32),
        "latents": rng.normal(size=(9, 4)).astype(np.float32),
        "denoised": rng.random((9, *GREY), dtype=np.float32),
    }
    parameters = random_weights(feature_count(GREY, 4))
    white = run_model(novelty_model(GREY, 4, RESIDUAL), **inputs) - parameters.centre
    white = white @ parameters.whiten
    hidden = white
    for weights, bias in parameters.layers[:-1]:
        hidden = np.maximum(hidden @ weights + bias, 0)
    weights, bias = parameters.layers[-1]
    expected = 0.5 * np.square(white).sum(axis=1) + (hidden @ weights + bias)[:, 0]
    logit = run_model(novelty_model(GREY, 4, RESIDUAL, parameters), **inputs)
    np.testing.assert_allclose(logit, expected, rtol=1e-4, atol=1e-3)


def scores_of(calibration: Calibration, logits: np.ndarray) -> np.ndarray:
    """Any logits through a calibration's own graph, by weights that pass the latents on."""
    features = feature_count(GREY, 1)
    whiten, first = np.zeros((features, features)), np.zeros((features, 2))
    whiten[0, 0] = 1e-6  # a distance whose square is negligible beside the log-odds
    first[0] = 1e6, -1e6  # both signs through the ReLUs
    layers = (
        (first, np.zeros(2)),
        (np.eye(2), np.zeros(2)),
        (np.array([[1.0], [-1.0]]), np.zeros(1)),
    )
    weights = LogitWeights(np.zeros(features), whiten, layers)
    model = novelty_model(GREY, 1, RESIDUAL, weights, calibration)
    blank = np.zeros((len(logits), *GREY), np.float32)
    latents = logits[:, None].astype(np.float32)
    return run_model(model, images=blank, latents=latents, denoised=blank)


def test_a_score_is_the_share_of_validation_images_below() -> None:
    validation = np.random.default_rng(3).gamma(2, 5, 1000).astype(np.float32)
    calibration = novelty.calibrate(validation)
    logits = np.sort(np.random.default_rng(4).gamma(2, 5, 500)).astype(np.float32)
    logits = logits[logits < validation.max()]
    scores = scores_of(calibration, logits)
    difference = np.abs(scores - (validation[None] < logits[:, None]).mean(axis=1))
    assert difference.max() < 0.006  # 192 knots, linear between them
    high = logits > np.sort(validation)[-novelty.LAST_KNOTS]  # where each image is a knot
    assert difference[high].max() <= 0.001 + 1e-5
    assert np.diff(scores).min() >= -1e-6
    np.testing.assert_array_equal(scores_of(calibration, np.array([-1e6, validation.min()])), 0)


def test_beyond_all_validation_images_scores_keep_their_order() -> None:
    validation = np.random.default_rng(3).gamma(2, 5, 5000).astype(np.float32)
    beyond = np.array([0, 0.1, 1, 10, 100, 1000, 10_000]) * 10 + validation.max()
    scores = scores_of(novelty.calibrate(validation), beyond)
    assert (np.diff(scores) > 0).all()
    assert scores[0] == pytest.approx(1 - 1 / 5000, abs=1e-6)
    assert scores[-1] <= 1
    assert scores_of(novelty.calibrate(validation), np.array([1e30]))[0] == 1


@pytest.mark.parametrize("values", [[3.0] * 200, [1.0, 2.0] * 100])
def test_equal_logits_have_a_calibration(values: list[float]) -> None:
    scores = scores_of(novelty.calibrate(np.array(values)), np.array([0.0, 3.0, 4.0]))
    assert np.isfinite(scores).all()
    assert (np.diff(scores) >= 0).all() and scores[0] == 0


def test_negative_samples_differ_from_their_images_and_leave_them_alone() -> None:
    images = shapes(80, 0, COLOUR)
    before = images.copy()
    samples = negatives.negative_samples(images, np.random.default_rng(0))
    again = negatives.negative_samples(images, np.random.default_rng(0))
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(samples, again)
    assert samples.dtype == np.uint8
    assert samples.shape == images.shape
    changed = (samples[:60] != images[:60]).any(axis=(1, 2, 3))
    assert changed.mean() > 0.95


def test_a_mirrored_image_is_never_a_rotated_one() -> None:
    """The sign of a product of moments separates rotated from mirrored shapes of an L."""
    large = np.kron(shapes(200, 0), np.ones((1, 3, 3, 1), np.uint8))
    images = np.pad(large, ((0, 0), (12, 12), (12, 12), (0, 0)))
    mirrored = negatives.mirrored(images, np.random.default_rng(1)).astype(float)

    def chirality(image: np.ndarray) -> float:
        """One sign for an L, the other for a mirrored one."""
        y, x = np.mgrid[:48, :48]
        mass = image / image.sum()
        y, x = y - (mass * y).sum(), x - (mass * x).sum()
        z = x + 1j * y
        second, third = (mass * z**2).sum(), (mass * z**2 * z.conj()).sum()
        return float((second * third.conj() ** 2).imag)

    upright = chirality(images[0, ..., 0].astype(float))
    rotated = [chirality(np.rot90(images[0, ..., 0], k).astype(float)) for k in range(4)]
    np.testing.assert_allclose(rotated, upright, rtol=1e-6)
    signs = np.array([chirality(image[..., 0]) for image in mirrored]) * np.sign(upright)
    assert (signs < 0).mean() > 0.95


def test_pairs_give_their_own_residuals() -> None:
    clean = shapes(50, 0)
    noisy = np.clip(clean.astype(int) + 40, 0, 255).astype(np.uint8)
    add_noise = noise_model(Reference(clean, clean, noisy, noisy), None)
    black = add_noise(np.zeros((9, *GREY), np.uint8), np.random.default_rng(0))
    assert black.max() <= 40 / 255 + 1e-6 and black.min() >= 0
    assert (black[:, 0, 0] > 0.15).all()
    plain = noise_model(Reference(clean, clean), None)(clean, np.random.default_rng(0))
    np.testing.assert_array_equal(plain, clean / np.float32(255))
    drawn = noise_model(Reference(clean, clean, noisy, noisy), NOISE)
    black = drawn(np.zeros((9, *GREY), np.uint8), np.random.default_rng(0))
    assert black.max() > 40 / 255 + 1e-6  # drawn noise, not the residuals


def test_pairs_are_scored_with_their_own_noise(engine: Engine) -> None:
    clean = reference()
    noisy = {
        f"{name}_noisy": np.rint(
            255 * noise_model(reference(), NOISE)(images, np.random.default_rng(k))
        )
        for k, (name, images) in enumerate(
            (("train", clean.train), ("validation", clean.validation))
        )
    }
    pairs = replace(clean, **{name: images.astype(np.uint8) for name, images in noisy.items()})
    model = novelty.fit(engine, pairs, noise_model(pairs, None))
    images = pairs.validation_noisy / np.float32(255)  # type: ignore[operator]
    latents = engine.encode(images)
    scores = run_model(model, images=images, latents=latents, denoised=engine.decode(latents))
    assert (scores > 0.9).mean() == pytest.approx(0.1, abs=0.01)


# --- a run and its bundle


@pytest.fixture(scope="module")
def informed(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run with enough images beside it."""
    path = tmp_path_factory.mktemp("informed") / "run"
    shutil.copytree(tiny_run, path)
    write_reference(path / "reference.npz", reference())
    return path


@pytest.mark.tensorflow
def test_an_exported_run_scores(
    informed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from export.bundling import export_run

    caplog.set_level(logging.INFO, logger="export")
    manifest = export_run(informed, tmp_path / "one")
    again = export_run(informed, tmp_path / "two")
    assert set(manifest.novelty) == {"float32"}
    assert manifest.files[NOVELTY] == again.files[NOVELTY]
    facts = manifest.novelty["float32"]
    assert facts["threshold"] == 0.99
    assert facts["share_above"] == pytest.approx(0.01, abs=0.0035)
    assert any("AUROC" in line for line in caplog.messages)
    engine = Engine.load(tmp_path / "one", threads=1)
    noisy = Run.load(informed).samples().noisy
    assert engine.score(noisy).shape == (len(noisy),)
    images = engine.run(("denoised", "scores"), images=noisy)["denoised"]
    np.testing.assert_array_equal(images, engine.denoise(noisy))


def test_a_run_that_cannot_be_scored_logs_why(
    tiny_run: Path, tmp_path: Path, bundle_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="export")
    files = sorted(bundle_copy.iterdir())
    bundle, run = Bundle.open(bundle_copy), Run.load(tiny_run)
    assert novelty.add(bundle, run) == {}
    old: Any = replace(run, path=tmp_path)
    assert novelty.add(bundle, old) == {}
    assert "training images, at least 200 needed" in caplog.messages[0]
    assert "train it again" in caplog.messages[1]
    assert sorted(bundle_copy.iterdir()) == files
