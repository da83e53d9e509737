"""Keras's networks in double precision: the same function, without rounding on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.backend import load_tensorflow

load_tensorflow()

import keras  # noqa: E402

from export.exact import in_float64  # noqa: E402
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
