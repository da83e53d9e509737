"""`tests/data` is what `python -m tests.support.make_data` writes today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.paths import DATA
from training.runs import Run

make_data = pytest.importorskip("tests.support.make_data", reason="no onnx: make env")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["bundles", "models"])
def test_bundles_and_models_are_made_again_with_the_same_bytes(name: str, tmp_path: Path) -> None:
    getattr(make_data, f"write_{name}")(tmp_path / name)
    assert contents(tmp_path / name) == contents(DATA / name)


def plan(run: Run) -> dict[str, Any]:
    """What of a run does not depend on the machine."""
    return {name: value for name, value in run.config.items() if name != "versions"}


@pytest.mark.tensorflow
def test_runs_are_trained_again_on_the_same_data(tmp_path: Path) -> None:
    make_data.write_runs(tmp_path / "runs")
    assert contents(tmp_path / "runs").keys() == contents(DATA / "runs").keys()
    for name in ("tiny", "one", "other"):
        stored, trained = Run.load(DATA / "runs" / name), Run.load(tmp_path / "runs" / name)
        assert plan(trained) == plan(stored)
        assert trained.metrics.keys() == stored.metrics.keys()
        for one, two in zip(trained.samples(), stored.samples(), strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)
        loss, wanted = (run.metrics["test"]["output"]["mse"] for run in (trained, stored))
        assert loss == pytest.approx(wanted, rel=0.1)
