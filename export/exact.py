"""The Keras networks in double precision: the reference for parity, free of float32 rounding.

Keras in float32 rounds in another order than ONNX Runtime, and in deep networks the two errors add
up. On one of 1,024 images, the `standard` network of bundles/mnist differed from double precision
by 8.4e-6 in Keras and by 5.1e-6 in the exported graph; the two differed by 1.02e-5.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from common.arrays import Array
from export.chunks import chunks

ACTIVATION_BYTES = 32 << 20  # of one chunk: the outputs of all layers, in double precision
Compute = Callable[[Array], Array]


class Exact(NamedTuple):
    """Three functions from float32 (N, …) to float32 (N, …), computed in double precision."""

    encoder: Compute
    decoder: Compute
    autoencoder: Compute


def in_float64(models: tuple[Any, Any, Any]) -> Exact:
    """Encoder, decoder and decoder(encoder(images)) of three Keras models, in float64."""
    import keras

    def double(layer: Any) -> Any:
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float64"})

    def copied(model: Any) -> Any:
        copy = keras.models.clone_model(model, clone_function=double)
        copy.set_weights(model.get_weights())
        return keras.Model(copy.inputs[0], copy.outputs[0])  # called with an array, not a list

    encoder, decoder = copied(models[0]), copied(models[1])

    def function(*networks: Any) -> Compute:
        sizes = [layer.output.shape[1:] for network in networks for layer in network.layers]
        doubles = (2 * sum(map(prod, sizes)),)  # per image, in units of a float32

        def compute(rows: Array) -> Array:
            results = []
            for chunk in chunks(len(rows), doubles, limit=ACTIVATION_BYTES):
                values: Any = rows[chunk].astype(np.float64)
                for network in networks:
                    values = network(values, training=False)
                results.append(np.asarray(values, np.float32))
            return np.concatenate(results)

        return compute

    return Exact(function(encoder), function(decoder), function(encoder, decoder))
