"""The networks: encoder, decoder and autoencoder, three Keras models that share their weights.

A preset is a function from `ModelSettings` to `Models`, and joins by a line in `PRESETS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import layers

from training.settings import FitSettings


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What shapes a network; `stride` (2 for each entry of filters) divides height and width."""

    image_shape: tuple[int, int, int]  # height, width, channels
    filters: tuple[int, ...] = (32, 64)
    latent_size: int = 16
    kernel_size: int = 3


class Models(NamedTuple):
    """Three views of one network.

    encoder      float32 (N, H, W, C) in [0, 1] → float32 (N, latent_size)
    decoder      float32 (N, latent_size) → float32 (N, H, W, C) in [0, 1]
    autoencoder  decoder(encoder(images))
    """

    encoder: Any
    decoder: Any
    autoencoder: Any


def classic(settings: ModelSettings) -> Models:
    """The classic network: stride-2 convolutions down to a small vector, and back up again.

    With the default settings and 28×28×1 images it has 178,001 parameters.
    """
    height, width, channels = settings.image_shape
    stride = 2 ** len(settings.filters)
    small = (height // stride, width // stride, settings.filters[-1])
    down = {"kernel_size": settings.kernel_size, "padding": "same", "activation": "relu"}

    images = keras.Input(settings.image_shape, name="images")
    x = images
    for filters in settings.filters:
        x = layers.Conv2D(filters, strides=2, **down)(x)  # (N, 14, 14, 32), (N, 7, 7, 64)
    x = layers.Flatten()(x)  # (N, 3136)
    x = layers.Dense(settings.latent_size, name="latent_vector")(x)  # (N, 16)
    encoder = keras.Model(images, x, name="encoder")

    latents = keras.Input((settings.latent_size,), name="latents")
    x = layers.Dense(small[0] * small[1] * small[2])(latents)  # (N, 3136)
    x = layers.Reshape(small)(x)  # (N, 7, 7, 64)
    for filters in reversed(settings.filters):
        x = layers.Conv2DTranspose(filters, strides=2, **down)(
            x
        )  # (N, 14, 14, 64), (N, 28, 28, 32)
    x = layers.Conv2DTranspose(
        channels,
        kernel_size=settings.kernel_size,
        padding="same",
        activation="sigmoid",
        name="decoder_output",
    )(x)  # (N, 28, 28, 1)
    decoder = keras.Model(latents, x, name="decoder")

    whole = keras.Input(settings.image_shape, name="images")
    return Models(encoder, decoder, keras.Model(whole, decoder(encoder(whole)), name="autoencoder"))


HIDDEN = 256  # between the last picture of features and the latent vector, and after it
START = 16  # channels of the picture that the decoder's matrix writes, at half the sides
BARE: dict[str, Any] = {"padding": "same", "use_bias": False}  # the normalisation has a bias
BLOCKS = (1, 2)  # residual blocks after each stride-2 convolution, the last figure for the rest


def standard(settings: ModelSettings) -> Models:
    """A better denoiser, at about 0.4 of the classic network's images per second.

    What it has over `classic`, measured in benchmarks/LOG.md: residual blocks (He et al.,
    2015) in the encoder, where they cost least; batch normalisation (Ioffe and Szegedy, 2015),
    which vanishes into the weights at export; a hidden layer on either side of the latent vector;
    and a decoder that begins at half the sides. With the default settings and 28×28×1 images it
    has 1,819,729 parameters.
    """
    height, width, channels = settings.image_shape
    kernel = settings.kernel_size

    images = keras.Input(settings.image_shape, name="images")
    x = images
    for stage, filters in enumerate(settings.filters):
        x = _normalised(layers.Conv2D(filters, kernel, strides=2, **BARE), x)
        for _ in range(BLOCKS[min(stage, len(BLOCKS) - 1)]):
            x = _residual(x, filters, kernel)  # (N, 14, 14, 32), (N, 7, 7, 64)
    x = layers.Flatten()(x)  # (N, 3136)
    x = _normalised(layers.Dense(HIDDEN, use_bias=False), x)  # (N, 256)
    x = layers.Dense(settings.latent_size, name="latent_vector")(x)  # (N, 16)
    encoder = keras.Model(images, x, name="encoder")

    latents = keras.Input((settings.latent_size,), name="latents")
    start = (height // 2, width // 2, START)
    x = _normalised(layers.Dense(HIDDEN, use_bias=False), latents)  # (N, 256)
    x = _normalised(layers.Dense(start[0] * start[1] * START, use_bias=False), x)  # (N, 3136)
    x = layers.Reshape(start)(x)  # (N, 14, 14, 16)
    x = _normalised(layers.Conv2DTranspose(settings.filters[0], kernel, strides=2, **BARE), x)
    x = layers.Conv2DTranspose(
        channels, kernel, padding="same", activation="sigmoid", name="decoder_output"
    )(x)  # (N, 28, 28, 1)
    decoder = keras.Model(latents, x, name="decoder")

    whole = keras.Input(settings.image_shape, name="images")
    return Models(encoder, decoder, keras.Model(whole, decoder(encoder(whole)), name="autoencoder"))


def _normalised(layer: Any, x: Any) -> Any:
    """A linear layer, batch normalisation, ReLU. Momentum 0.95: averages of some 20 batches."""
    return layers.ReLU()(layers.BatchNormalization(momentum=0.95)(layer(x)))


def _residual(x: Any, filters: int, kernel: int) -> Any:
    """Two convolutions beside the identity, ReLU after the sum: the same shape as `x`."""
    y = _normalised(layers.Conv2D(filters, kernel, **BARE), x)
    y = layers.BatchNormalization(momentum=0.95)(layers.Conv2D(filters, kernel, **BARE)(y))
    return layers.ReLU()(layers.Add()([x, y]))


PRESETS: dict[str, Callable[[ModelSettings], Models]] = {"classic": classic, "standard": standard}


def build(settings: FitSettings, image_shape: tuple[int, int, int]) -> Models:
    """The preset's network for images (H, W, C), with fresh weights from Keras's random seed."""
    return PRESETS[settings.preset](
        ModelSettings(
            image_shape=image_shape,
            filters=settings.filters,
            latent_size=settings.latent_size,
            kernel_size=settings.kernel_size,
        )
    )


def freeze_normalisation(models: Models, frozen: bool) -> None:
    """Fix every batch normalisation at its averages, or let it learn again.

    Frozen, it is the same linear map in training as in the exported graph: what a batch's own
    statistics add as noise, which holds a network back that is nearly done, is gone, and a step is
    cheaper (Wu and Johnson, 2021, "Frozen BatchNorm"; measured in benchmarks/LOG.md). Compile
    afterwards.
    """
    for half in (models.encoder, models.decoder):
        for layer in half.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.trainable = not frozen


def compile_for(
    autoencoder: Any, settings: FitSettings, steps_per_epoch: int, *, done: int = 0
) -> None:
    """Loss mse and Adam, at a constant rate or with a cosine that ends at zero.

    After `done` epochs it is a new Adam for those that are left, from the rate that the cosine has
    come down to.

    "warm-cosine" first climbs to the rate over half an epoch (Loshchilov and Hutter, 2017; Goyal
    et al., 2017), for rates that a fresh network would not stand. With `averaging` the optimizer
    also keeps a moving average of the weights after each step (Polyak and Juditsky, 1992), which
    Keras puts in their place when training ends, and `averaged` for validation.

    Neither XLA nor fewer Python steps are left to Keras's "auto": on 2 cores a step of 32 images
    takes 17 ms like this, 20 ms with one step an execution, and 26 ms or more under XLA.
    """
    rate: Any = settings.learning_rate
    steps = (settings.epochs - done) * steps_per_epoch
    if settings.schedule != "constant":
        rate *= (1 + math.cos(math.pi * done / settings.epochs)) / 2
    if settings.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    elif settings.schedule == "warm-cosine":
        climb = max(1, steps_per_epoch // 2)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - climb), warmup_target=rate, warmup_steps=climb
        )
    averaging = settings.averaging
    adam = keras.optimizers.Adam(rate, use_ema=averaging is not None, ema_momentum=averaging or 0.0)
    autoencoder.compile(adam, loss="mse", jit_compile=False, steps_per_execution=8)


def averaged(settings: FitSettings) -> list[Any]:
    """The callback with which `fit` validates the averaged weights, where there are such."""
    return [] if settings.averaging is None else [keras.callbacks.SwapEMAWeights()]
