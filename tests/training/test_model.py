"""The networks: the classic one to the letter, other sizes, shared weights."""

from __future__ import annotations

import numpy as np
import pytest

from training.backend import load_tensorflow

load_tensorflow()

import keras  # noqa: E402

from training.model import (  # noqa: E402
    PRESETS,
    ModelSettings,
    build,
    compile_for,
    freeze_normalisation,
)
from training.settings import FitSettings  # noqa: E402


def test_the_classic_network_to_the_letter() -> None:
    models = build(FitSettings.resolve(), (28, 28, 1))
    assert models.autoencoder.count_params() == 178_001
    assert [m.name for m in models] == ["encoder", "decoder", "autoencoder"]
    down = [layer for layer in models.encoder.layers if isinstance(layer, keras.layers.Conv2D)]
    up = [x for x in models.decoder.layers if isinstance(x, keras.layers.Conv2DTranspose)]
    assert [layer.filters for layer in down + up] == [32, 64, 64, 32, 1]
    assert [layer.strides for layer in down + up] == [(2, 2)] * 4 + [(1, 1)]
    assert {layer.kernel_size for layer in down + up} == {(3, 3)}
    assert {layer.padding for layer in down + up} == {"same"}
    activations = [layer.activation.__name__ for layer in down + up]
    assert activations == ["relu"] * 4 + ["sigmoid"]
    assert models.encoder.layers[-1].name == "latent_vector"
    assert models.encoder.layers[-1].activation.__name__ == "linear"
    assert models.decoder.layers[-1].name == "decoder_output"
    assert models.encoder.output_shape == (None, 16)
    assert models.decoder.output_shape == (None, 28, 28, 1)


def test_the_standard_network_to_the_letter() -> None:
    models = build(FitSettings.resolve(preset="standard"), (28, 28, 1))
    assert models.autoencoder.count_params() == 1_819_729
    convolutions = [x for x in models.encoder.layers if isinstance(x, keras.layers.Conv2D)]
    assert [x.filters for x in convolutions] == [32] * 3 + [64] * 5
    assert [x.strides[0] for x in convolutions] == [2, 1, 1, 2, 1, 1, 1, 1]
    assert len([x for x in models.encoder.layers if isinstance(x, keras.layers.Add)]) == 3
    assert models.encoder.output_shape == (None, 16)
    assert models.encoder.layers[-1].activation.__name__ == "linear"
    assert models.decoder.layers[-1].activation.__name__ == "sigmoid"


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize(
    ("shape", "filters", "latent_size", "kernel_size"),
    [
        ((64, 64, 3), (32, 64), 16, 3),
        ((28, 28, 1), (8,), 1, 5),
        ((8, 24, 3), (4, 8, 12), 7, 2),
        ((2, 2, 1), (3,), 2, 1),
    ],
)
def test_other_settings(
    preset: str,
    shape: tuple[int, int, int],
    filters: tuple[int, ...],
    latent_size: int,
    kernel_size: int,
) -> None:
    settings = ModelSettings(
        image_shape=shape, filters=filters, latent_size=latent_size, kernel_size=kernel_size
    )
    models = PRESETS[preset](settings)
    images = np.random.default_rng(0).random((3, *shape), dtype=np.float32)
    latents = np.asarray(models.encoder(images))
    decoded = np.asarray(models.decoder(latents))
    assert latents.shape == (3, latent_size)
    assert decoded.shape == images.shape
    assert decoded.dtype == np.float32
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_the_three_models_share_their_weights() -> None:
    models = build(FitSettings.resolve(filters=(4,)), (8, 8, 1))
    images = np.random.default_rng(0).random((2, 8, 8, 1), dtype=np.float32)
    before = np.asarray(models.autoencoder(images))
    for half in (models.encoder, models.decoder):
        half.set_weights([weight + 0.1 for weight in half.get_weights()])
    after = np.asarray(models.autoencoder(images))
    assert abs(before - after).max() > 1e-3
    halves = np.asarray(models.decoder(models.encoder(images)))
    np.testing.assert_allclose(after, halves, atol=1e-6)


def test_freezing_takes_the_normalisation_out_of_training_and_moves_no_weight() -> None:
    models = build(FitSettings.resolve(preset="standard", filters=(4,), latent_size=3), (8, 8, 1))
    paths = [weight.path for weight in models.autoencoder.weights]
    learning = [weight.path for weight in models.autoencoder.trainable_weights]
    freeze_normalisation(models, True)
    assert [weight.path for weight in models.autoencoder.weights] == paths
    kept = [weight.path for weight in models.autoencoder.trainable_weights]
    assert kept == [path for path in learning if "normalization" not in path]
    assert len(kept) < len(learning)
    freeze_normalisation(models, False)
    assert [weight.path for weight in models.autoencoder.trainable_weights] == learning


def test_the_cosine_schedule_ends_at_zero() -> None:
    settings = FitSettings.resolve(filters=(2,), schedule="cosine", epochs=5, learning_rate=0.01)
    autoencoder = build(settings, (4, 4, 1)).autoencoder
    compile_for(autoencoder, settings, steps_per_epoch=7)
    assert float(autoencoder.optimizer.learning_rate) == pytest.approx(0.01)
    autoencoder.optimizer.iterations.assign(35)
    assert float(autoencoder.optimizer.learning_rate) == pytest.approx(0.0, abs=1e-9)


def test_the_warm_cosine_climbs_for_half_an_epoch_and_ends_at_zero() -> None:
    settings = FitSettings.resolve(filters=(2,), schedule="warm-cosine", epochs=5)
    autoencoder = build(settings, (4, 4, 1)).autoencoder
    compile_for(autoencoder, settings, steps_per_epoch=8)
    rates = []
    for step in (0, 2, 4, 40):
        autoencoder.optimizer.iterations.assign(step)
        rates.append(float(autoencoder.optimizer.learning_rate) / settings.learning_rate)
    assert rates == pytest.approx([0, 0.5, 1, 0], abs=1e-6)
