"""Keras's networks in double precision: the same function, without rounding on the way."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from training.backend import load_tensorflow

load_tensorflow()

import keras  # noqa: E402

from export.exact import in_float64  # noqa: E402
from tests.support.paths import ROOT  # noqa: E402
from training.model import PRESETS, build  # noqa: E402
from training.runs import RunModels  # noqa: E402
from training.settings import FitSettings  # noqa: E402


@pytest.mark.parametrize("preset", list(PRESETS))
def test_it_is_the_same_function(preset: str) -> None:
    keras.utils.set_random_seed(0)
    settings = FitSettings.resolve(preset=preset, filters=(4, 8), latent_size=5)
    models = build(settings, (12, 8, 3))
    rng = np.random.default_rng(0)
    for weight in models.autoencoder.weights:  # statistics of normalisation among them
        weight.assign(rng.uniform(0.1, 0.3, weight.shape))
    exact: Any = in_float64(RunModels(*models))
    images = rng.random((3, 12, 8, 3), dtype=np.float32)
    latents = rng.normal(0, 1, (3, 5)).astype(np.float32)
    for name, rows in (("encoder", images), ("decoder", latents), ("autoencoder", images)):
        result = getattr(exact, name)(rows)
        expected = getattr(models, name)(rows, training=False).numpy()
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_rounded_on_the_way() -> None:
    """1e8 + 1 − 1e8 is 0 or 8 in float32."""
    row = keras.Input((3,))
    total = keras.Model(row, keras.layers.Dense(1, use_bias=False)(row))
    total.set_weights([np.array([[1e8], [1.0], [-1e8]], np.float32)])
    exact: Any = in_float64(RunModels(total, total, total))
    assert exact.encoder(np.ones((1, 3), np.float32)).tolist() == [[1.0]]


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    models = build(FitSettings.resolve(filters=(4, 8), latent_size=5), (12, 8, 3))
    images = np.random.default_rng(0).random((50, 12, 8, 3), dtype=np.float32)
    whole = in_float64(models).autoencoder(images)
    monkeypatch.setattr("export.exact.ACTIVATION_BYTES", 100_000)  # three images
    np.testing.assert_array_equal(in_float64(models).autoencoder(images), whole)


MEASURE = """
import resource
from training.backend import load_tensorflow
load_tensorflow()
import numpy as np
from export.exact import in_float64
from training.model import build
from training.settings import FitSettings
exact = in_float64(build(FitSettings.resolve(), (96, 96, 3)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
exact.autoencoder(np.zeros((100, 96, 96, 3), np.float32))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_large_images_take_little_memory() -> None:
    """100 images at once would take a GiB in double precision."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400  # MiB
