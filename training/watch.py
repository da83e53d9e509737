"""Stopping a training that learns nothing: a loss that is not finite, or a constant output."""

from __future__ import annotations

import logging
import math
from typing import Any

import keras
import numpy as np

from common.arrays import Floats
from training.errors import LearningError

LOG = logging.getLogger("denoiser.training")
# Largest difference at any pixel between the outputs for different images: dead networks have
# 1e-10 or 0, untrained ones of five strides 1e-4.
CONSTANT = 1e-6
FAINT = 0.5 / 255  # the same picture in 8 bits


class Watch(keras.callbacks.Callback):
    """Raises a LearningError once the loss or the outputs for some images show a useless network.

    `probe` are inputs with different targets, float32 (N, H, W, C) in [0, 1]; None: none differ.
    """

    def __init__(self, probe: Floats | None, learning_rate: float) -> None:
        super().__init__()
        self._probe = probe
        self._hint = f"Train again with --overwrite and a --learning-rate below {learning_rate:g}."
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch, for messages."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Check the mean loss of the epoch so far."""
        self._require_finite("loss", logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Check the validation loss and the outputs."""
        self._require_finite("val_loss", logs)
        self.require_varying(self.model)

    def require_varying(self, model: Any, *, last: bool = False) -> None:
        """Refuse a network whose outputs are all the same; of the `last`, warn where nearly so."""
        if self._probe is None:
            return
        outputs = keras.ops.convert_to_numpy(model(self._probe, training=False))
        difference = float(np.ptp(outputs, axis=0).max())
        if not difference >= CONSTANT:  # also NaN
            raise LearningError(
                f"a network collapsed to one output for every input, after epoch {self._epoch}",
                expected="outputs that depend on the input",
                hint=self._hint,
            )
        if last and difference < FAINT:
            LOG.warning("outputs differ by %.1e at most: train longer, or change "
                        "--learning-rate", difference)  # fmt: skip

    def _require_finite(self, name: str, logs: Any) -> None:
        if not math.isfinite(logs[name]):
            raise LearningError(
                f"the {name} is {float(logs[name])} in epoch {self._epoch}",
                expected="a finite number",
                hint=self._hint,
            )
