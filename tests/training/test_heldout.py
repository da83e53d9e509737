"""What runs are measured on: the same images and the same noise, every time and for every run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.trained import NOISE, Trained, trained  # noqa: F401
from training.backend import load_tensorflow

load_tensorflow()

from training.errors import DatasetError, RunError, SettingsError  # noqa: E402
from training.evaluation import heldout, metrics  # noqa: E402
from training.evaluation.heldout import hold_out  # noqa: E402
from training.runs import Run  # noqa: E402


def joined(held: heldout.HeldOut) -> tuple[np.ndarray, np.ndarray]:
    clean, noisy = (np.concatenate(side) for side in zip(*held.chunks(), strict=True))
    return clean, noisy


def test_pairs_are_those_of_the_chunks(
    trained: Trained,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 7)
    held = hold_out([Run.load(trained.one)], dataset=trained.data)
    clean, noisy = joined(held)
    assert clean.shape == noisy.shape == (30, 12, 8, 1)
    for chosen in ([29, 3, 3, 14], list(range(30))):
        some = held.pairs(chosen)
        np.testing.assert_array_equal(some[0], clean[chosen])
        np.testing.assert_array_equal(some[1], noisy[chosen])


def test_every_part_has_noise_of_its_own(
    trained: Trained,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 10)
    held = hold_out([Run.load(trained.one)], dataset=trained.data, noise="gaussian:0.0,0.05")
    parts = [*held.chunks(), *held.training_chunks(np.arange(20)), held.validation_pairs(10)]
    drawn = [(noisy - clean).ravel() for clean, noisy in parts]
    alike = np.corrcoef(np.stack(drawn)) - np.eye(len(drawn))
    assert len(drawn) == 6
    assert abs(alike).max() < 0.15


def test_samples_are_the_recorded_pairs_and_their_noise_can_be_drawn_again(
    trained: Trained,  # noqa: F811
) -> None:
    run = Run.load(trained.one)
    held = hold_out([run])
    assert held.source == "samples.npz, from the test split of waves.npz"
    assert held.spec == NOISE and held.dataset is None and held.labels is None
    clean, noisy = joined(held)
    np.testing.assert_array_equal(clean, run.samples().clean)
    np.testing.assert_array_equal(noisy, run.samples().noisy)
    again = np.concatenate([pair[1] for pair in held.chunks(held.noise)])
    np.testing.assert_array_equal(again, noisy)
    named = joined(hold_out([run], noise="gaussian:0.2,0.5"))[1]
    assert not np.array_equal(named, noisy)


def test_pairs_of_a_dataset_are_taken_as_they_are(
    trained: Trained,  # noqa: F811
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    clean, noisy = rng.integers(0, 256, (2, 40, 12, 8), dtype=np.uint8)
    np.savez(tmp_path / "pairs.npz", clean=clean, noisy=noisy)
    held = hold_out([Run.load(trained.one)], dataset=str(tmp_path / "pairs.npz"))
    assert held.spec == "pairs" and held.noise is None
    pixels = {image.tobytes(): k for k, image in enumerate(clean)}
    for pair in (joined(held), held.validation_pairs(9), *held.training_chunks(np.arange(9))):
        for one, other in zip(
            *(np.rint(side * 255).astype(np.uint8) for side in pair), strict=True
        ):
            assert other.tobytes() == noisy[pixels[one.tobytes()]].tobytes()
    drawn = hold_out([Run.load(trained.one)], dataset=str(tmp_path / "pairs.npz"), noise="gaussian")
    assert drawn.spec == "gaussian" and drawn.noisy is None


def test_runs_that_cannot_be_measured_together_are_refused(
    trained: Trained,  # noqa: F811
    tmp_path: Path,
) -> None:
    def altered(name: str, change: str, value: object) -> Run:
        folder = Path(shutil.copytree(trained.one, tmp_path / name))
        config = json.loads((folder / "config.json").read_text())
        config["data"][change] = value
        (folder / "config.json").write_text(json.dumps(config))
        return Run.load(folder)

    run = Run.load(trained.one)
    wide = altered("wide", "image_shape", [12, 12, 1])
    with pytest.raises(RunError, match=r"wide for images \(12, 12, 1\) beside .*\(12, 8, 1\)"):
        hold_out([run, wide], dataset=trained.data)
    elsewhere = altered("elsewhere", "sha256", {"test": "0" * 64})
    with pytest.raises(RunError, match=r"the same test images\. Pass the images .* --dataset"):
        hold_out([run, elsewhere])
    assert len(hold_out([run, elsewhere], dataset=trained.data)) == 30


def test_what_does_not_fit_the_run_is_refused(trained: Trained) -> None:  # noqa: F811
    run = Run.load(trained.one)
    with pytest.raises(DatasetError, match=r"\(28, 28, 1\) from digits; expected \(12, 8, 1\)"):
        hold_out([run], dataset="digits")
    with pytest.raises(SettingsError, match="noise 'pairs'"):
        hold_out([run], noise="pairs")
