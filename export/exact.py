"""The Keras networks in double precision: what they compute, without Keras's own rounding.

Keras in float32 rounds too, in another order than ONNX Runtime does. In deep networks the two add
up: on one of 1,024 images the `standard` network of bundles/mnist gave Keras a difference of 8.4e-6
from double precision, the exported graph one of 5.1e-6, and the two one of 1.02e-5 from each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from export.parity import Models


class Exact(NamedTuple):
    """Three functions: float32 (N, …) in, float32 (N, …) out, double precision between."""

    encoder: Any
    decoder: Any
    autoencoder: Any


def in_float64(models: Models) -> Exact:
    """The same networks and weights in float64; the autoencoder is decoder(encoder(images))."""
    import keras

    def widened(model: Any) -> Any:
        def wide(layer: Any) -> Any:
            return layer.__class__.from_config({**layer.get_config(), "dtype": "float64"})

        copy = keras.models.clone_model(model, clone_function=wide)
        copy.set_weights(model.get_weights())
        return keras.Model(copy.inputs[0], copy.outputs[0])  # called with an array, not a list

    encoder, decoder = widened(models.encoder), widened(models.decoder)

    def rounded(*networks: Any) -> Any:
        def run(batch: list[Any], *, training: bool) -> Any:
            values: Any = np.asarray(batch[0], np.float64)
            for network in networks:
                values = network(values, training=training)
            return keras.ops.cast(values, "float32")

        return run

    return Exact(rounded(encoder), rounded(decoder), rounded(encoder, decoder))
