"""The network for images of any size: preset `unet`, fully convolutional, same size out as in.

The encoder halves height and width once per entry of `filters`; the decoder doubles them again and
adds the encoder's features of each scale (skip connections; O. Ronneberger et al., "U-Net", 2015).
The answer is the input plus a correction (K. Zhang et al., "Beyond a Gaussian Denoiser", 2017). How
its shape was chosen is in benchmarks/LOG.md.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

FIRST_KERNEL = 4  # of the first layer: with stride 2 and its padding it is symmetric
# Residual blocks at each scale, on the way down and on the way up again; the last number of each
# stands for all deeper (or coarser) scales.
DOWN, UP = (0, 1, 2), (1, 1)
SMALL = 0.005  # deviation of the last layer's first weights: an untrained network changes little


@keras.saving.register_keras_serializable("denoiser")
class PadEdges(layers.Layer):
    """Images (N, H, W, C) continued by their last row and column, so that `multiple` divides H, W.

    The values at the edge are repeated, which a convolution's zeros would not be: zeros are ink.
    """

    def __init__(self, multiple: int, **options: Any) -> None:
        super().__init__(**options)
        self.multiple = multiple

    def call(self, images: Any) -> Any:
        """Float (N, H, W, C) → (N, H', W', C), the next multiples."""
        for axis in (1, 2):
            side = tf.shape(images)[axis]
            padded = -(-side // self.multiple) * self.multiple
            images = tf.gather(images, tf.minimum(tf.range(padded), side - 1), axis=axis)
        return images

    def compute_output_shape(self, shape: Any) -> Any:
        """Height and width are not known."""
        return (shape[0], None, None, shape[3])

    def get_config(self) -> dict[str, Any]:
        """What Keras saves of the layer."""
        return {**super().get_config(), "multiple": self.multiple}


@keras.saving.register_keras_serializable("denoiser")
class CropLike(layers.Layer):
    """The top left of the first input, (N, H', W', C), at the second one's height and width."""

    def call(self, images: Any, like: Any) -> Any:
        """Float (N, H', W', C) and (N, H, W, C) → (N, H, W, C)."""
        shape = tf.shape(like)
        return images[:, : shape[1], : shape[2], :]

    def compute_output_shape(self, images_shape: Any, like_shape: Any) -> Any:
        """That of the second input."""
        return (*like_shape[:3], images_shape[3])


@keras.saving.register_keras_serializable("denoiser")
class DepthToSpace(layers.Layer):
    """Four channels to a square of four pixels: (N, H, W, 4·C) → (N, 2·H, 2·W, C)."""

    def call(self, features: Any) -> Any:
        """As `tf.nn.depth_to_space` with blocks of 2."""
        return tf.nn.depth_to_space(features, 2)

    def compute_output_shape(self, shape: Any) -> Any:
        """Height and width are not known."""
        return (shape[0], None, None, shape[3] // 4)


def unet(channels: int, filters: tuple[int, ...], kernel: int) -> tuple[Any, Any]:
    """The network for images of that many channels, as two models that share their weights.

    Returns:
        For training, float32 (N, H, W, C) → (N, H, W, C) without bounds, so that a value beyond
        them still has a gradient; and the network to use, bounded to [0, 1].
    """
    images = keras.Input((None, None, channels), name="images")
    padded = x = PadEdges(2 ** len(filters), name="pad")(images)
    skips: list[Any] = []
    for scale, count in enumerate(filters):
        x = _convolved(x, count, kernel if scale else FIRST_KERNEL, strides=2)
        for _ in range(_at(DOWN, scale)):
            x = _residual(x, count, kernel)
        skips.append(x)
    for scale in reversed(range(len(filters) - 1)):
        count = filters[scale]
        x = layers.Conv2D(count, 1)(x)
        x = DepthToSpace()(layers.Concatenate()([x, x, x, x]))  # each value to four pixels
        x = layers.ReLU()(layers.Add()([x, skips[scale]]))
        for _ in range(_at(UP, scale - 1) if scale else 0):
            x = _residual(x, count, kernel)
    x = _convolved(x, filters[0], kernel)
    x = layers.Conv2D(
        4 * channels,
        kernel,
        padding="same",
        kernel_initializer=keras.initializers.RandomNormal(stddev=SMALL),
        name="correction",
    )(x)
    x = layers.Add()([DepthToSpace()(x), padded])
    bounded = layers.ReLU(max_value=1.0, name="bounds")(x)
    crop = CropLike(name="crop")
    return (
        keras.Model(images, crop(x, images), name="unbounded"),
        keras.Model(images, crop(bounded, images), name="autoencoder"),
    )


def error(target: Any, output: Any) -> Any:
    """Squared error of each value, where an output beyond a bound that is the target counts as it.

    Targets float32 in [0, 1]; outputs without bounds, both of one shape. The mean is the squared
    error of the bounded output, but has a gradient wherever that output is wrong.
    """
    difference = output - target
    difference = tf.where(target >= 1, tf.minimum(difference, 0.0), difference)
    return tf.square(tf.where(target <= 0, tf.maximum(difference, 0.0), difference))


def _at(counts: tuple[int, ...], scale: int) -> int:
    return counts[min(scale, len(counts) - 1)]


def _convolved(x: Any, filters: int, kernel: int, *, strides: int = 1) -> Any:
    initializer = {"kernel_initializer": "he_normal"}
    x = layers.Conv2D(filters, kernel, strides=strides, padding="same", **initializer)(x)
    return layers.ReLU()(x)


def _residual(x: Any, filters: int, kernel: int) -> Any:
    """Two convolutions beside the identity, ReLU after the sum; at first the identity alone."""
    y = _convolved(x, filters, kernel)
    y = layers.Conv2D(filters, kernel, padding="same", kernel_initializer="zeros")(y)
    return layers.ReLU()(layers.Add()([x, y]))
