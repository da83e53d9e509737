"""What is read from latents: as much as is in them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from training.backend import load_tensorflow

load_tensorflow()

from training.data.arrays import Part, Rows  # noqa: E402
from training.data.datasets import Dataset  # noqa: E402
from training.evaluation import latents  # noqa: E402
from training.evaluation.heldout import HeldOut  # noqa: E402
from training.evaluation.latents import classify_latents, why_not  # noqa: E402
from training.noise.spec import parse_noise  # noqa: E402

RNG = np.random.default_rng(0)
LABELS = np.arange(300) % 3


def held(labels: np.ndarray | None, spec: str | None = "gaussian:0.0,0.4") -> HeldOut:
    """4×4 images as grey as their class; 100 to test on."""
    grey = np.array([40, 120, 200])[LABELS]
    images = (grey[:, None, None, None] + RNG.integers(-20, 20, (300, 4, 4, 1))).astype(np.uint8)
    whole = Part(Rows(images), labels)
    train, test = whole.take(np.arange(100, 300)), whole.take(np.arange(100))
    data = Dataset("greys", "file", train, whole.take(np.arange(0)), test)
    noise = parse_noise(spec) if spec else None
    return HeldOut("here", spec, noise, data.test.images, labels=data.test.labels, dataset=data)


def brightness() -> keras.Model:
    """An encoder that tells how bright an image is, twice."""
    images = keras.Input((4, 4, 1))
    mean = keras.layers.GlobalAveragePooling2D()(images)
    return keras.Model(images, keras.layers.Concatenate()([mean, -mean]))


def test_clean_latents_tell_more_than_noisy_ones() -> None:
    found = classify_latents(brightness(), held(LABELS))
    assert found.noisy is not None
    for flags in found.clean:
        assert flags.shape == (100,) and flags.dtype == bool
        assert flags.mean() > 0.98
    for flags in found.noisy:
        assert 0.5 < flags.mean() < 0.97
    assert (found.fitted, found.classes, found.majority) == (200, 3, 0.34)


def test_labels_that_mean_nothing_cannot_be_read() -> None:
    found = classify_latents(brightness(), held(RNG.permutation(LABELS)))
    assert all(flags.mean() < 0.55 for flags in found.clean)


def test_without_noise_only_clean_latents_are_read() -> None:
    found = classify_latents(brightness(), held(LABELS, None))
    assert found.noisy is None
    assert found.clean.neighbours.mean() > 0.98


def test_some_training_images_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "MAX_FITTED", 60)
    found = classify_latents(brightness(), held(LABELS))
    assert found.fitted == 60
    assert found.clean.neighbours.mean() > 0.98


def test_why_they_cannot_be_judged_is_told() -> None:
    assert why_not(held(LABELS)) is None
    assert why_not(held(None)) == "greys has no labels"
    assert why_not(held(np.zeros(300, int))) == "all training images of greys have one label"
    bare = HeldOut("samples.npz", None, None, held(LABELS).images)
    assert str(why_not(bare)).startswith("training images and labels are not known")
