"""Two small runs on labelled images, for the tests that measure runs; `make_data` trained them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from common.arrays import Array, Floats
from tests.support.paths import DATA

RUNS = DATA / "runs"
NOISE = "gaussian:0.2,0.25"
COUNT = 210  # 30 for the test, 15 for validation, 165 to train with


class Trained(NamedTuple):
    """The images' file, and two runs that differ in their seed and their epochs."""

    data: str
    one: Path
    other: Path


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Runs of 12×8 images with three kinds of waves; only to be read."""
    return Trained(str(RUNS / "waves.npz"), RUNS / "one", RUNS / "other")


def waves() -> tuple[Floats, Array]:
    """float32 (210, 12, 8) in [0, 1] and their labels, the frequency of the waves."""
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 3
    phase = rng.uniform(0, 6, (COUNT, 1, 1))
    rows, columns = np.mgrid[:12, :8]
    images = np.sin(rows * (0.2 + 0.7 * labels[:, None, None]) + phase) * np.cos(columns * 0.3)
    return ((images + 1) / 2).astype(np.float32), labels


def evaluate(path: Path, **options: Any) -> dict[str, Any]:
    """One run as `python -m training evaluate --json` measures it; options as in `assess`."""
    from training.evaluation.assess import assess
    from training.evaluation.summary import evaluation, summarise

    return evaluation(summarise(assess([path], **options)))
