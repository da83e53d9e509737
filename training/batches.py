"""Training batches with fresh noise in every epoch, as a pure function of (seed, epoch, batch).

A run that is killed and resumed at epoch k therefore sees exactly the batches that it would have
seen undisturbed. Measured against tf.data (the same noise as stateless ops, or these batches
through a generator with more prefetching): 17–20 ms a step here, 24–26 ms there.
"""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats, to_floats
from training.noise.spec import Noise

Pair = tuple[Floats, Floats]


class NoisyBatches(keras.utils.PyDataset):
    """(input, target) batches, float32 (B, H, W, C) in [0, 1]; the last of an epoch may be short.

    Each epoch has its own order and its own noise. Without noise to draw, the input is the given
    noisy image of each clean one, or, where none are given, the clean one itself. Hand it to `fit`
    with `shuffle=False`, since it shuffles itself, and with `follow()` among the callbacks: Keras
    calls `on_epoch_end` also before the first epoch, so counting those calls would not tell which
    epoch it is.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        *,
        noise: Noise | None,
        noisy: NDArray[np.uint8] | None = None,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.images = images
        self.noise = noise
        self.noisy = noisy
        self.batch_size = batch_size
        self.seed = seed
        self.begin(0)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, index: int) -> Pair:
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        clean = to_floats(self.images[chosen])
        if self.noise is None:
            return (clean if self.noisy is None else to_floats(self.noisy[chosen])), clean
        rng = np.random.default_rng([self.seed, self.epoch, 1 + index])
        return self.noise.apply(clean, rng), clean

    def begin(self, epoch: int) -> None:
        """Turn to an epoch, from 0: its order, its noise."""
        self.epoch = epoch
        self._order = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.images))

    def follow(self) -> keras.callbacks.Callback:
        """The callback that turns the batches to each epoch as it begins."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.begin(epoch))
