"""The Keras networks in double precision: what they compute, without Keras's own rounding.

Keras in float32 rounds too, in another order than ONNX Runtime does. In deep networks the two add
up: on one of 1,024 images the `standard` network of bundles/mnist gave Keras a difference of 8.4e-6
from double precision, the exported graph one of 5.1e-6, and the two one of 1.02e-5 from each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from common.arrays import Array

Compute = Callable[[Array], Array]


class Exact(NamedTuple):
    """Three functions: float32 (N, …) in, float32 (N, …) out, double precision between."""

    encoder: Compute
    decoder: Compute
    autoencoder: Compute


class KerasModels(Protocol):
    """The networks of a run."""

    @property
    def encoder(self) -> Any: ...
    @property
    def decoder(self) -> Any: ...


def in_float64(models: KerasModels) -> Exact:
    """The same networks and weights in float64; the autoencoder is decoder(encoder(images))."""
    import keras

    def widened(model: Any) -> Any:
        def wide(layer: Any) -> Any:
            return layer.__class__.from_config({**layer.get_config(), "dtype": "float64"})

        copy = keras.models.clone_model(model, clone_function=wide)
        copy.set_weights(model.get_weights())
        return keras.Model(copy.inputs[0], copy.outputs[0])  # called with an array, not a list

    encoder, decoder = widened(models.encoder), widened(models.decoder)

    def rounded(*networks: Any) -> Compute:
        def compute(rows: Array) -> Array:
            values: Any = rows.astype(np.float64)
            for network in networks:
                values = network(values, training=False)
            return np.asarray(values, np.float32)

        return compute

    return Exact(rounded(encoder), rounded(decoder), rounded(encoder, decoder))
