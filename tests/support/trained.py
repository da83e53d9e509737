"""Two small runs on labelled images, trained once for all the tests that measure runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

NOISE = "gaussian:0.2,0.25"
COUNT = 210  # 30 for the test, 15 for validation, 165 to train with


class Trained(NamedTuple):
    """The images' file, and two runs that differ in their seed and their epochs."""

    data: str
    one: Path
    other: Path


_made: list[Trained] = []


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Runs of 12×8 images with three kinds of waves; only to be read."""
    if not _made:  # imported by several modules, each of which counts it as a fixture of its own
        _made.append(_train(tmp_path_factory.mktemp("trained")))
    return _made[0]


def waves() -> tuple[np.ndarray, np.ndarray]:
    """float32 (210, 12, 8) in [0, 1] and their labels: how fast the waves go."""
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 3
    phase = rng.uniform(0, 6, (COUNT, 1, 1))
    rows, columns = np.mgrid[:12, :8]
    images = np.sin(rows * (0.2 + 0.7 * labels[:, None, None]) + phase) * np.cos(columns * 0.3)
    return ((images + 1) / 2).astype(np.float32), labels


def _train(folder: Path) -> Trained:
    from training.fit import fit
    from training.settings import FitSettings

    images, labels = waves()
    np.savez(folder / "waves.npz", images=images, labels=labels)
    data = str(folder / "waves.npz")
    for name, epochs, seed in (("one", 3, 0), ("other", 12, 1)):
        settings = FitSettings.resolve(
            dataset=data, noise=NOISE, filters=(6,), latent_size=5, batch_size=16,
            epochs=epochs, learning_rate=0.01, seed=seed,
        )  # fmt: skip
        fit(settings, folder / name, verbose=0, say=lambda _: None)
    return Trained(data, folder / "one", folder / "other")
