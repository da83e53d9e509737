"""The run folder: whole or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.publishing import stage_of
from training import runs
from training.errors import RunError
from training.runs import Run


def fake_run(path: Path, mark: str = "") -> Path:
    """A folder with every file of a run; the models are not real."""
    path.mkdir(parents=True)
    config = {"data": {"image_shape": [4, 4, 1], "name": mark}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.json").write_text("{}")
    (path / "history.csv").write_text("epoch\n1\n")
    for name in runs.MODELS:
        (path / f"{name}.keras").write_bytes(b"no model")
    clean = np.random.default_rng(0).random((5, 4, 4, 1), dtype=np.float32)
    np.savez(path / "samples.npz", clean=clean, noisy=1 - clean)
    return path


def test_a_whole_run_loads(tmp_path: Path) -> None:
    run = Run.load(str(fake_run(tmp_path / "run", "mine")))
    assert run.config["data"]["name"] == "mine"
    assert run.metrics == {}
    clean, noisy = run.samples()
    np.testing.assert_array_equal(noisy, 1 - clean)


@pytest.mark.parametrize(
    "name",
    ["config.json", "metrics.json", "history.csv", "samples.npz", "encoder.keras", "decoder.keras"],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = fake_run(tmp_path / "run")
    (path / name).unlink()
    with pytest.raises(RunError, match=f"without {name}"):
        Run.load(path)


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_unreadable_json_is_named(tmp_path: Path, name: str, content: str) -> None:
    path = fake_run(tmp_path / "run")
    (path / name).write_text(content)
    with pytest.raises(RunError, match=f"unreadable {name}"):
        Run.load(path)


def test_damaged_samples_are_refused(tmp_path: Path) -> None:
    path = fake_run(tmp_path / "run")
    whole = (path / "samples.npz").read_bytes()
    for damaged in (b"", whole[:-30]):
        (path / "samples.npz").write_bytes(damaged)
        with pytest.raises(RunError, match=r"unreadable samples\.npz"):
            Run.load(path).samples()
    x = np.zeros((5, 4, 4, 1), np.float32)
    for clean, noisy in ((x, x[:3]), (x.astype(np.float64), x), (x[:, :2], x[:, :2])):
        np.savez(path / "samples.npz", clean=clean, noisy=noisy)
        with pytest.raises(RunError, match=r"not float32 \(\d, 4, 4, 1\)"):
            Run.load(path).samples()


@pytest.mark.tensorflow
def test_damaged_models_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    with pytest.raises(RunError, match=r"unreadable encoder\.keras"):
        Run.load(fake_run(tmp_path / "run")).models()


def test_a_missing_run_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run folder .*fit --out \S*run\.$"):
        Run.load(tmp_path / "run")
    stage_of(tmp_path / "run").mkdir()
    with pytest.raises(RunError, match=r"there is an unfinished one.*--resume"):
        Run.load(tmp_path / "run")


def test_json_is_whole_or_absent(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="Out of range"):
        runs.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
