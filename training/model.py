"""The networks: encoder, decoder and autoencoder, three Keras models that share their weights.

A preset is a function from `ModelSettings` to `Models`, listed in `PRESETS`.
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
    """The shape of a network; 2 ** len(filters), its stride, divides height and width."""

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
    """The tutorials' convolutional autoencoder: stride-2 convolutions to a vector and back.

    Network, noise N(0.5, 0.5²) and loss are those of Keras's own example
    `mnist_denoising_autoencoder.py` (keras-team/keras, 2017), in the line of F. Chollet, "Building
    Autoencoders in Keras", The Keras Blog, 2016. Denoising as the training task: P. Vincent et al.,
    "Extracting and composing robust features with denoising autoencoders", ICML 2008. With the
    default settings and 28×28×1 images it has 178,001 parameters.
    """
    height, width, _ = settings.image_shape
    stride = 2 ** len(settings.filters)
    small = (height // stride, width // stride, settings.filters[-1])
    strided = {"kernel_size": settings.kernel_size, "strides": 2, "padding": "same"}

    images = keras.Input(settings.image_shape, name="images")
    x = images
    for filters in settings.filters:
        # (N, 14, 14, 32), (N, 7, 7, 64)
        x = layers.Conv2D(filters, activation="relu", **strided)(x)
    x = layers.Flatten()(x)  # (N, 3136)
    x = layers.Dense(settings.latent_size, name="latent_vector")(x)  # (N, 16)
    encoder = keras.Model(images, x, name="encoder")

    latents = keras.Input((settings.latent_size,), name="latents")
    x = layers.Dense(small[0] * small[1] * small[2])(latents)  # (N, 3136)
    x = layers.Reshape(small)(x)  # (N, 7, 7, 64)
    for filters in reversed(settings.filters):
        # (N, 14, 14, 64), (N, 28, 28, 32)
        x = layers.Conv2DTranspose(filters, activation="relu", **strided)(x)
    return _finished(settings, encoder, latents, x)


HIDDEN = 256  # the dense layer on either side of the latent
START = 16  # channels of the feature map that the decoder starts from, at half the sides
BARE: dict[str, Any] = {"padding": "same", "use_bias": False}  # the normalisation has a bias
BLOCKS = (1, 2)  # residual blocks after each stride-2 convolution; the last number for the rest


def standard(settings: ModelSettings) -> Models:
    """A better denoiser, at about 0.4 of the classic network's images per second.

    In addition to `classic`, measured in benchmarks/LOG.md: residual blocks (He et al., 2015) in
    the encoder, where they cost least; batch normalisation (Ioffe and Szegedy, 2015), which export
    folds into the weights; a hidden layer on either side of the latent; and a decoder that starts
    at half the sides. With the default settings and 28×28×1 images it has 1,819,729 parameters.
    """
    height, width, _ = settings.image_shape
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
    return _finished(settings, encoder, latents, x)


def _finished(settings: ModelSettings, encoder: Any, latents: Any, x: Any) -> Models:
    """The models, with the decoder's last layer on its features `x`, (N, 28, 28, 32)."""
    x = layers.Conv2DTranspose(
        settings.image_shape[2],
        settings.kernel_size,
        padding="same",
        activation="sigmoid",
        name="decoder_output",
    )(x)  # (N, 28, 28, 1)
    decoder = keras.Model(latents, x, name="decoder")
    images = keras.Input(settings.image_shape, name="images")
    return Models(
        encoder, decoder, keras.Model(images, decoder(encoder(images)), name="autoencoder")
    )


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
    """Freeze every batch normalisation at its averages, or let it learn again.

    Frozen, it is the same linear map in training as in the exported graph. That removes per-batch
    noise, which limits a nearly converged network, and makes a step cheaper (Y. Wu and J. Johnson,
    "Rethinking 'Batch' in BatchNorm", 2021; measured in benchmarks/LOG.md). Compile afterwards.
    """
    for half in (models.encoder, models.decoder):
        for layer in half.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.trainable = not frozen


def compile_for(
    autoencoder: Any, settings: FitSettings, steps_per_epoch: int, *, done: int = 0
) -> None:
    """Mean squared error and Adam, at a constant rate or with a cosine that ends at zero.

    With `done` epochs it is a new Adam for the rest, from the cosine's rate after those epochs.

    "warm-cosine" first climbs to the rate over half an epoch (Loshchilov and Hutter, 2017; Goyal
    et al., 2017), for rates at which a fresh network would diverge. With `averaging` the optimizer
    also keeps a moving average of the weights after each step (Polyak and Juditsky, 1992), which
    replaces them when training ends (by Keras) and for validation (by `averaged`).

    XLA and steps per execution are set, not left to Keras's "auto": on 2 cores a step of 32 images
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
    """The callback by which `fit` validates the averaged weights; none without averaging."""
    return [] if settings.averaging is None else [keras.callbacks.SwapEMAWeights()]
