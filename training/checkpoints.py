"""Checkpoints: weights, optimizer and history after an epoch, so that a killed run can be resumed.

A checkpoint is one `.npz` that appears whole; it costs about 10 ms for the classic network. The
last two are kept. Where epochs are short, at most one is written in five seconds; on Ctrl-C `flush`
writes the last finished epoch.

With a `patience` the weights of the best epoch so far, by validation loss, are kept in `best.npz`,
written before the checkpoint whose history refers to them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from training.runs import staged_file

KEPT = 2
BEST = "best.npz"
MIN_SECONDS = 5.0  # between two checkpoints

Row = dict[str, float]  # one epoch: epoch (from 1), loss, val_loss, learning_rate, seconds


class Checkpoints(keras.callbacks.Callback):
    """Keeps `history`, one row for each finished epoch, and writes checkpoints as it grows."""

    def __init__(
        self, folder: Path, history: list[Row], *, epochs: int, patience: int | None = None
    ) -> None:
        super().__init__()
        self.folder = folder
        self.history = history
        self.epochs = epochs
        self.patience = patience
        self._unwritten: dict[str, Any] | None = None
        self._unwritten_best: dict[str, Any] | None = None
        self._began = 0.0
        self._wrote = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the epoch's clock."""
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add the epoch to the history; stop the training where patience has run out."""
        now = time.monotonic()
        row = {"epoch": epoch + 1, "loss": logs["loss"], "val_loss": logs["val_loss"]}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        self.history.append({**row, "seconds": round(now - self._began, 3)})
        history = np.array(json.dumps(self.history))
        self._unwritten = {**_copied(_variables(self.model)), "history": history}
        if self.patience is not None and since_best(self.history) == 0:
            self._unwritten_best = _averaged_weights(self.model)
        stop = exhausted(self.history, self.patience)
        if stop:
            self.model.stop_training = True
        if now - self._wrote >= MIN_SECONDS or epoch + 1 == self.epochs or stop:
            self.flush()

    def flush(self) -> None:
        """Write the last finished epoch, unless it is written already."""
        if self._unwritten is None:
            return
        self.folder.mkdir(exist_ok=True)
        if self._unwritten_best is not None:
            _write(self.folder / BEST, self._unwritten_best)
            self._unwritten_best = None
        _write(self.folder / f"epoch-{len(self.history):05d}.npz", self._unwritten)
        for old in written(self.folder)[KEPT:]:
            old.unlink()
        self._unwritten = None
        self._wrote = time.monotonic()


def since_best(history: list[Row]) -> int:
    """Epochs after the one with the lowest validation loss, the first of equals."""
    losses = [row["val_loss"] for row in history]
    return len(losses) - 1 - losses.index(min(losses))


def exhausted(history: list[Row], patience: int | None) -> bool:
    """Whether `patience` epochs have passed without a lower validation loss."""
    return patience is not None and bool(history) and since_best(history) >= patience


def use_best(folder: Path, model: Any) -> None:
    """Give the model the weights of its best epoch."""
    with np.load(folder / BEST, allow_pickle=False) as arrays:
        for k, variable in enumerate(model.weights):
            variable.assign(arrays[f"weight_{k}"])


def written(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted(folder.glob("epoch-*.npz"), reverse=True)


def restore(folder: Path, model: Any, compile_at: Callable[[int], None]) -> list[Row]:
    """Bring a model to the newest whole checkpoint; returns its history, [] where there is none.

    `compile_at(epoch)` compiles the model as it is for that epoch, counted from 1.
    """
    for path in written(folder):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                state = {name: arrays[name] for name in arrays.files}
            history: list[Row] = json.loads(str(state.pop("history")))
        except Exception:  # damaged, in any way: use the one before it
            continue
        compile_at(len(history))
        model.optimizer.build(model.trainable_variables)
        for name, variable in _variables(model).items():
            variable.assign(state[name])
        return history
    return []


def _averaged_weights(model: Any) -> dict[str, Any]:
    """A copy of the weights that were validated: averaged, where the optimizer averages them."""
    current = [keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    weights = {k: v for k, v in _variables(model).items() if k.startswith("weight_")}
    averaged = _copied(weights)
    for variable, value in zip(model.trainable_variables, current, strict=True):
        variable.assign(value)
    return averaged


def _write(target: Path, arrays: dict[str, Any]) -> None:
    with staged_file(target) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _variables(model: Any) -> dict[str, Any]:
    """Weights and optimizer variables (step count and moments), under stable names."""
    groups = {"weight": model.weights, "optimizer": model.optimizer.variables}
    return {f"{kind}_{k}": v for kind, group in groups.items() for k, v in enumerate(group)}


def _copied(variables: dict[str, Any]) -> dict[str, Any]:
    """Values as numpy; copies, since training continues in the same buffers."""
    return {name: keras.ops.convert_to_numpy(v).copy() for name, v in variables.items()}
