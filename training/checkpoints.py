"""Checkpoints: weights, optimizer and history after an epoch, so that a killed run can go on.

A checkpoint is one `.npz`, written under a temporary name and then renamed; it costs about 10 ms
for the classic network. The last two are kept. Where epochs are short, at most one is written in
five seconds; a Ctrl-C still writes the last finished epoch through `flush`.
"""

import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

KEPT = 2
PAUSE = 5.0  # seconds between two checkpoints, at least

Row = dict[str, float]  # one epoch: epoch (from 1), loss, val_loss, learning_rate, seconds


class Checkpoints(keras.callbacks.Callback):
    """Keeps `history`, one row for each finished epoch, and writes checkpoints as it grows."""

    def __init__(self, folder: Path, history: list[Row], *, epochs: int) -> None:
        super().__init__()
        self.folder = folder
        self.history = history
        self.epochs = epochs
        self._unwritten: dict[str, Any] | None = None
        self._began = 0.0
        self._wrote = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.monotonic()
        row = {"epoch": epoch + 1, "loss": logs["loss"], "val_loss": logs["val_loss"]}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        self.history.append({**row, "seconds": round(now - self._began, 3)})
        self._unwritten = _state(self.model, self.history)
        if now - self._wrote >= PAUSE or epoch + 1 == self.epochs:
            self.flush()

    def flush(self) -> None:
        """Write the last finished epoch, unless it is written already."""
        if self._unwritten is None:
            return
        self.folder.mkdir(exist_ok=True)
        target = self.folder / f"epoch-{len(self.history):05d}.npz"
        temporary = self.folder / f".{target.name}.new"
        with temporary.open("wb") as file:
            np.savez(file, **self._unwritten)
        temporary.replace(target)
        for old in written(self.folder)[KEPT:]:
            old.unlink()
        self._unwritten = None
        self._wrote = time.monotonic()


def written(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted(folder.glob("epoch-*.npz"), reverse=True)


def restore(folder: Path, model: Any) -> list[Row]:
    """Bring a compiled model to the newest whole checkpoint; its history, [] where none is."""
    for path in written(folder):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                state = {name: arrays[name] for name in arrays.files}
            history: list[Row] = json.loads(str(state.pop("history")))
        except Exception:  # a damaged file, in whatever way: the one before it will do
            continue
        model.optimizer.build(model.trainable_variables)
        for name, variable in _variables(model).items():
            variable.assign(state[name])
        return history
    return []


def _variables(model: Any) -> dict[str, Any]:
    """Weights and optimizer variables (step count and moments), under stable names."""
    groups = {"weight": model.weights, "optimizer": model.optimizer.variables}
    return {f"{kind}_{k}": v for kind, group in groups.items() for k, v in enumerate(group)}


def _state(model: Any, history: list[Row]) -> dict[str, Any]:
    """A copy of all that a checkpoint holds."""
    state = {
        name: keras.ops.convert_to_numpy(variable).copy()  # training goes on in the same buffers
        for name, variable in _variables(model).items()
    }
    return {**state, "history": np.array(json.dumps(history))}
