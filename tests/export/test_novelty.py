"""Scores are fitted through a real engine, say what they mean, and come out the same each time."""

from __future__ import annotations

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
from export.novelty import contrasts
from export.novelty import fit as novelty
from export.novelty.fit import NoiseSource
from export.novelty.graph import Residual, Scale, Surprise, count, features_model, novelty_model
from service.bundle import NOVELTY, Bundle
from service.engine import Engine
from tests.support.tiny import COLOUR, GREY, NOVELTY_FACTS, TinyNetwork, seal, write_bundle
from training.noise.spec import parse_noise
from training.reference import Reference, write_reference
from training.runs import Run

NOISE = parse_noise("gaussian:0.2,0.2")
RESIDUAL = Residual(mean=(0.6, 0.3), precision=(1.5, 2.0))


def shapes(count: int, seed: int, image_shape: tuple[int, int, int] = GREY) -> np.ndarray:
    """A data set: a bright bar with a foot, of any brightness, never mirrored. uint8."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, *image_shape), np.uint8)
    light = rng.integers(150, 256, (count, 1, 1, 1))
    images[:, 1:7, 2:4] = light
    images[:, 5:7, 4:6] = light
    return images


def reference(image_shape: tuple[int, int, int] = GREY, **noisy: np.ndarray) -> Reference:
    return Reference(shapes(400, 1, image_shape), shapes(300, 2, image_shape), **noisy)


def run_model(model: onnx.ModelProto, **given: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        convert.serialize(model), options, providers=["CPUExecutionProvider"]
    )
    answer: np.ndarray = session.run(None, given)[0]
    return answer


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that takes a second."""
    monkeypatch.setattr(novelty, "IMAGES", 1200)
    monkeypatch.setattr(novelty, "EPOCHS", 8)
    monkeypatch.setattr(novelty, "HIDDEN", (16, 8))


def scored(path: Path, engine: Engine, add_noise: NoiseSource, kept: Reference) -> Engine:
    """The engine of a bundle at `path` to which scores have been added."""
    model = novelty.fit(engine, kept, add_noise)
    (path / NOVELTY).write_bytes(convert.serialize(model))
    seal(path, image_shape=engine.manifest.image_shape, novelty={"float32": NOVELTY_FACTS})
    return Engine.load(path, threads=2)


@pytest.mark.parametrize("image_shape", [GREY, COLOUR])
def test_scores_are_calibrated_and_find_what_is_unusual(
    tmp_path: Path, image_shape: tuple[int, int, int]
) -> None:
    path = write_bundle(tmp_path / "bundle", TinyNetwork.random(image_shape, 3))
    kept, add_noise = reference(image_shape), NoiseSource(noise=NOISE)
    engine = scored(path, Engine.load(path, threads=2), add_noise, kept)

    facts = novelty.judge(engine, kept, add_noise)
    assert facts["share_above"] == pytest.approx(0.01, abs=0.0035)  # 3 of 300
    assert (facts["train"], facts["validation"]) == (400, 300)
    assert facts["probes"]["white pages"]["auroc"] > 0.95

    rng = np.random.default_rng(5)
    fresh = engine.score(add_noise(shapes(2000, 6, image_shape), rng))
    assert fresh.min() >= 0 and fresh.max() <= 1
    for share in (0.1, 0.5, 0.9):  # five deviations of 300 calibrating and 2,000 fresh images
        allowed = 5 * math.sqrt(share * (1 - share) * (1 / 300 + 1 / 2000))
        assert abs((fresh > share).mean() - (1 - share)) < allowed
    upside_down = np.ascontiguousarray(shapes(500, 7, image_shape)[:, ::-1, ::-1])
    unusual = engine.score(add_noise(upside_down, rng))
    truth = np.repeat([0, 1], [len(fresh), len(unusual)])
    assert roc_auc_score(truth, np.concatenate([fresh, unusual])) > 0.9


def test_the_same_fit_twice_is_the_same_file(engine: Engine) -> None:
    kept = reference()
    one, two = (convert.serialize(novelty.fit(engine, kept, NoiseSource(NOISE))) for _ in range(2))
    assert one == two


def test_features_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    images, denoised = rng.random((2, 7, *COLOUR), dtype=np.float32)
    latents = rng.normal(size=(7, 4)).astype(np.float32)
    model = features_model(COLOUR, 4, RESIDUAL)
    found = run_model(model, images=images, latents=latents, denoised=denoised)

    def halved(planes: np.ndarray) -> np.ndarray:
        rows = planes[:, ::2] + planes[:, 1::2]
        return (rows[:, :, ::2] + rows[:, :, 1::2]) / 4

    given, made = halved(images), halved(denoised)
    residual = (given - (0.6 * made + 0.3)) * (1.5 * made + 2.0)
    blocks = np.concatenate([given, made, residual], axis=-1)
    middle = (1, 2)
    wanted = np.concatenate(
        [
            latents,
            blocks.mean(middle),
            (given * made).mean(middle),
            np.sqrt((images**2).mean(middle)),
            np.sqrt((blocks**2).mean(middle)),
            np.sqrt((halved(blocks) ** 2).mean(middle)),
        ],
        axis=1,
    )
    assert found.shape == (7, count(COLOUR, 4))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def some_surprise(features: int) -> Surprise:
    rng = np.random.default_rng(1)
    layers = [
        (rng.normal(size=(features, 5)), rng.normal(size=5)),
        (rng.normal(size=(5, 3)), rng.normal(size=3)),
        (rng.normal(size=(3, 1)), rng.normal(size=1)),
    ]
    whiten = np.linalg.cholesky(np.cov(rng.normal(size=(features, 99))))
    return Surprise(rng.normal(size=features), whiten, tuple(layers))


def test_surprise_is_distance_and_odds() -> None:
    rng = np.random.default_rng(2)
    given = {
        "images": rng.random((9, *GREY), dtype=np.float32),
        "latents": rng.normal(size=(9, 4)).astype(np.float32),
        "denoised": rng.random((9, *GREY), dtype=np.float32),
    }
    surprise = some_surprise(count(GREY, 4))
    white = run_model(features_model(GREY, 4, RESIDUAL), **given) - surprise.centre
    white = white @ surprise.whiten
    hidden = white
    for weights, bias in surprise.layers[:-1]:
        hidden = np.maximum(hidden @ weights + bias, 0)
    weights, bias = surprise.layers[-1]
    wanted = 0.5 * np.square(white).sum(axis=1) + (hidden @ weights + bias)[:, 0]
    found = run_model(novelty_model(GREY, 4, RESIDUAL, surprise, None), **given)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def through(scale: Scale, surprises: np.ndarray) -> np.ndarray:
    """A scale as its own graph computes it, on any surprises: latents that are passed on."""
    features = count(GREY, 1)
    pick, pass_on = np.zeros((features, features)), np.zeros((features, 2))
    pick[0, 0] = 1e-6  # a distance whose square is nothing beside the odds
    pass_on[0] = 1e6, -1e6  # both signs through the ReLUs
    layers = (
        (pass_on, np.zeros(2)),
        (np.eye(2), np.zeros(2)),
        (np.array([[1.0], [-1.0]]), np.zeros(1)),
    )
    model = novelty_model(GREY, 1, RESIDUAL, Surprise(np.zeros(features), pick, layers), scale)
    blank = np.zeros((len(surprises), *GREY), np.float32)
    latents = surprises[:, None].astype(np.float32)
    return run_model(model, images=blank, latents=latents, denoised=blank)


def test_a_score_is_the_share_of_validation_images_below() -> None:
    validation = np.random.default_rng(3).gamma(2, 5, 1000).astype(np.float32)
    scale = novelty.scale_of(validation)
    asked = np.sort(np.random.default_rng(4).gamma(2, 5, 500)).astype(np.float32)
    asked = asked[asked < validation.max()]
    found = through(scale, asked)
    wanted = (validation[None] < asked[:, None]).mean(axis=1)
    assert np.abs(found - wanted).max() < 0.006  # 192 places and straight lines between
    high = asked > np.sort(validation)[-novelty.LAST_KNOTS]  # where each image has its own place
    assert np.abs(found - wanted)[high].max() <= 0.001 + 1e-5
    assert np.diff(found).min() >= -1e-6
    np.testing.assert_array_equal(through(scale, np.array([-1e6, validation.min()])), 0)


def test_beyond_all_validation_images_scores_keep_their_order() -> None:
    validation = np.random.default_rng(3).gamma(2, 5, 5000).astype(np.float32)
    most = validation.max()
    beyond = np.array([0, 0.1, 1, 10, 100, 1000, 10_000]) * 10 + most
    found = through(novelty.scale_of(validation), beyond)
    assert (np.diff(found) > 0).all()
    assert found[0] == pytest.approx(1 - 1 / 5000, abs=1e-6)
    assert found[-1] <= 1
    assert through(novelty.scale_of(validation), np.array([1e30]))[0] == 1


@pytest.mark.parametrize("values", [[3.0] * 200, [1.0, 2.0] * 100])
def test_surprises_that_are_all_alike_have_a_scale(values: list[float]) -> None:
    found = through(novelty.scale_of(np.array(values)), np.array([0.0, 3.0, 4.0]))
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all() and found[0] == 0


def test_contrasts_differ_from_their_images_and_leave_them_alone() -> None:
    images = shapes(80, 0, COLOUR)
    before = images.copy()
    found = contrasts.contrasts(images, np.random.default_rng(0))
    again = contrasts.contrasts(images, np.random.default_rng(0))
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(found, again)
    assert (found.dtype, found.shape) == (np.uint8, images.shape)
    changed = (found[:60] != images[:60]).any(axis=(1, 2, 3))
    assert changed.mean() > 0.95


def test_mirrored_is_never_turned() -> None:
    """An L and its turns are told from the mirrored ones by the sign of a product of moments."""
    large = np.kron(shapes(200, 0), np.ones((1, 3, 3, 1), np.uint8))
    images = np.pad(large, ((0, 0), (12, 12), (12, 12), (0, 0)))
    found = contrasts.mirrored(images, np.random.default_rng(1)).astype(float)

    def hand(image: np.ndarray) -> float:
        """One sign for an L, the other for a mirrored one."""
        y, x = np.mgrid[:48, :48]
        mass = image / image.sum()
        y, x = y - (mass * y).sum(), x - (mass * x).sum()
        z = x + 1j * y
        second, third = (mass * z**2).sum(), (mass * z**2 * z.conj()).sum()
        return float((second * third.conj() ** 2).imag)

    upright = hand(images[0, ..., 0].astype(float))
    turned = [hand(np.rot90(images[0, ..., 0], k).astype(float)) for k in range(4)]
    np.testing.assert_allclose(turned, upright, rtol=1e-6)
    signs = np.array([hand(image[..., 0]) for image in found]) * np.sign(upright)
    assert (signs < 0).mean() > 0.95


def test_pairs_lend_their_grain() -> None:
    clean = shapes(50, 0)
    noisy = np.clip(clean.astype(int) + 40, 0, 255).astype(np.uint8)
    add_noise = NoiseSource.of(Reference(clean, clean, noisy, noisy), None)
    found = add_noise(np.zeros((9, *GREY), np.uint8), np.random.default_rng(0))
    assert found.max() <= 40 / 255 + 1e-6 and found.min() >= 0
    assert (found[:, 0, 0] > 0.15).all()
    plain = NoiseSource.of(Reference(clean, clean), None)(clean, np.random.default_rng(0))
    np.testing.assert_array_equal(plain, clean / np.float32(255))
    drawn = NoiseSource.of(Reference(clean, clean, noisy, noisy), NOISE)
    assert drawn.grain is None


def test_pairs_are_scored_with_their_own_noise(engine: Engine) -> None:
    kept = reference()
    noisy = {
        f"{name}_noisy": np.rint(255 * NoiseSource(NOISE)(images, np.random.default_rng(k)))
        for k, (name, images) in enumerate((("train", kept.train), ("validation", kept.validation)))
    }
    pairs = replace(kept, **{name: images.astype(np.uint8) for name, images in noisy.items()})
    model = novelty.fit(engine, pairs, NoiseSource.of(pairs, None))
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
def test_an_exported_run_scores(informed: Path, tmp_path: Path) -> None:
    from export.bundling import export_run

    said: list[str] = []
    manifest = export_run(informed, tmp_path / "one", say=said.append)
    again = export_run(informed, tmp_path / "two", say=lambda _: None)
    assert set(manifest.novelty) == {"float32"}
    assert manifest.files[NOVELTY] == again.files[NOVELTY]
    facts = manifest.novelty["float32"]
    assert facts["threshold"] == 0.99
    assert facts["share_above"] == pytest.approx(0.01, abs=0.0035)
    assert any("AUROC" in line for line in said)
    engine = Engine.load(tmp_path / "one", threads=1)
    noisy = Run.load(informed).samples().noisy
    assert engine.score(noisy).shape == (len(noisy),)
    images = engine.run(("denoised", "scores"), images=noisy)["denoised"]
    np.testing.assert_array_equal(images, engine.denoise(noisy))


def test_a_run_that_cannot_be_scored_says_why(
    tiny_run: Path, tmp_path: Path, bundle_path: Path
) -> None:
    sealed, run, said = Bundle.open(bundle_path), Run.load(tiny_run), list[str]()
    assert novelty.add(tmp_path, sealed, run, said.append) == {}
    old: Any = replace(run, path=tmp_path)
    assert novelty.add(tmp_path, sealed, old, said.append) == {}
    assert "training images where 200 are needed" in said[0]
    assert "train it again" in said[1]
    assert [*tmp_path.iterdir()] == []
