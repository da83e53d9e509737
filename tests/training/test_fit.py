"""Fitting through the real code, on tiny images: whole, killed, interrupted, resumed."""

from __future__ import annotations

import csv
import logging
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.paths import ROOT
from tests.support.trained import evaluate
from training.backend import load_tensorflow

load_tensorflow()

from common.publishing import TargetExistsError, stage_of  # noqa: E402
from training import checkpoints, runs  # noqa: E402
from training import fit as fitting  # noqa: E402
from training.batches import NoisyBatches  # noqa: E402
from training.data.datasets import load_dataset  # noqa: E402
from training.errors import DatasetError, RunError  # noqa: E402
from training.evaluation.heldout import add_noise  # noqa: E402
from training.fit import fit  # noqa: E402
from training.noise.spec import parse_noise  # noqa: E402
from training.runs import Run  # noqa: E402
from training.settings import FitSettings  # noqa: E402

TINY = {"filters": (4,), "latent_size": 3, "batch_size": 8, "epochs": 3, "schedule": "cosine"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """96 smooth grey images of 8×8, with labels."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (96, 1, 1))
    rows, columns = np.mgrid[:8, :8]
    waves = np.sin(rows * rng.uniform(0, 1, (96, 1, 1)) + phase) * np.cos(columns * 0.5 + phase)
    np.savez(path, images=((waves + 1) / 2).astype(np.float32), labels=np.arange(96) % 3)
    return str(path)


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing disturbed."""
    return fit(settings(data), tmp_path_factory.mktemp("runs") / "whole", verbose=0)


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take half of the time of a tiny run."""
    monkeypatch.setattr(fitting, "_draw", lambda *args: None)


def settings(data: str, **changes: Any) -> FitSettings:
    return FitSettings.resolve(dataset=data, **TINY | changes)


def losses(run: Run) -> np.ndarray:
    with (run.path / "history.csv").open() as file:
        return np.array([[row["loss"], row["val_loss"]] for row in csv.DictReader(file)], float)


def same_outcome(one: Run, other: Run) -> bool:
    """The same losses in every epoch, and the same test error, but for rounding."""
    mine, theirs = (run.metrics["test"]["output"]["mse"] for run in (one, other))
    return np.allclose(losses(one), losses(other), rtol=1e-4) and abs(mine / theirs - 1) < 1e-3


def test_a_run_folder_has_all_its_parts(whole: Run, data: str) -> None:
    names = sorted(path.name for path in whole.path.iterdir())
    models = ["autoencoder.keras", "decoder.keras", "encoder.keras"]
    files = ["config.json", "figures", "history.csv", "metrics.json"]
    files += ["reference.npz", "samples.npz"]
    assert names == sorted(models + files)
    assert [path.name for path in whole.path.parent.iterdir()] == ["whole"]
    assert whole.config["settings"] == settings(data).saved()
    assert whole.config["data"]["counts"] == {"train": 77, "validation": 6, "test": 13}
    assert str(Path(data).parent) not in (whole.path / "config.json").read_text()
    assert set(whole.config["versions"]) == {"python", "tensorflow", "keras", "numpy"}
    figures = {path.stem for path in (whole.path / "figures").iterdir()} - {"model"}
    assert figures == {
        "reconstruction", "denoising", "noise_levels", "learning_curve", "latent_scatter",
    }  # fmt: skip
    assert whole.metrics["epochs"] == len(losses(whole)) == 3
    assert (np.diff(losses(whole)[:, 0]) < 0).all()  # it learns
    assert whole.metrics["test"]["n"] == whole.config["data"]["counts"]["test"]


def test_saved_models_and_samples_fit_together(whole: Run, data: str) -> None:
    clean, noisy = whole.samples()
    encoder, decoder, autoencoder = whole.models()
    output = autoencoder.predict(noisy, verbose=0)
    halves = decoder.predict(encoder.predict(noisy, verbose=0), verbose=0)
    np.testing.assert_allclose(output, halves, atol=1e-6)
    assert encoder.output_shape == (None, 3)
    assert whole.metrics["parameters"] == autoencoder.count_params()
    test = {image.tobytes() for image in load_dataset(data).test.images}
    assert {np.rint(image * 255).astype(np.uint8).tobytes() for image in clean} == test
    assert abs(clean - noisy).mean() > 0.1


@pytest.mark.usefixtures("without_figures")
def test_the_same_seed_gives_the_same_run(whole: Run, data: str, tmp_path: Path) -> None:
    assert same_outcome(fit(settings(data), tmp_path / "run", verbose=0), whole)


@pytest.mark.usefixtures("without_figures")
def test_the_test_split_has_no_say_in_training(whole: Run, data: str, tmp_path: Path) -> None:
    dataset = load_dataset(data)
    x_train = np.concatenate([dataset.validation.images, dataset.train.images])
    weights = []
    for name, x_test in (("one", dataset.test.images), ("two", 255 - dataset.test.images[:])):
        np.savez(tmp_path / f"{name}.npz", x_train=x_train, x_test=x_test)
        run = fit(settings(str(tmp_path / f"{name}.npz"), epochs=1), tmp_path / name, verbose=0)
        weights.append(run.models().autoencoder.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


KILLER = """
import os, signal, sys
from training.backend import load_tensorflow
load_tensorflow()
from training import checkpoints, fit, runs
from training.__main__ import main

checkpoints.MIN_SECONDS = 0
fit._draw = lambda *args: None
moment = sys.argv.pop(1)
writes = 0
savez = checkpoints.np.savez

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def half_a_checkpoint(file, **arrays):
    global writes
    writes += 1
    if writes < 2:
        return savez(file, **arrays)
    file.write(b"PK half a file")
    file.flush()
    die()

if moment == "checkpoint":
    checkpoints.np.savez = half_a_checkpoint
elif moment == "measure":
    fit.measure = die
else:
    fit.publishing.publish = die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("without_figures")
def test_killed_three_times_and_resumed_it_is_the_same_run(
    whole: Run, data: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ["fit", "--dataset", data, "--out", str(out), "--filters", "4", "--resume"]
    for name in ("latent_size", "batch_size", "epochs", "schedule"):
        options += [f"--{name.replace('_', '-')}", str(TINY[name])]
    output = {}
    for moment in ("checkpoint", "measure", "publish"):
        done = subprocess.run(
            [sys.executable, "-c", KILLER, moment, *options],
            cwd=ROOT, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not out.exists()
        output[moment] = done.stdout
        if moment == "checkpoint":  # the half one has not got a checkpoint's name
            written = checkpoints.written(stage_of(out) / runs.CHECKPOINTS)
            assert [path.stem for path in written] == ["epoch-00001"]
    assert "resuming" not in output["checkpoint"]
    assert "resuming after epoch 1 of 3" in output["measure"]
    assert "resuming after epoch 3 of 3" in output["publish"]
    run = fit(settings(data), out, resume=True, verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (out / runs.CHECKPOINTS).exists()
    assert same_outcome(run, whole)


def interrupt_at(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C as the epoch (from 0) begins."""
    begin = NoisyBatches.begin

    def interrupted(self: NoisyBatches, now: int) -> None:
        if now == epoch:
            raise KeyboardInterrupt
        begin(self, now)

    monkeypatch.setattr(NoisyBatches, "begin", interrupted)


@pytest.mark.usefixtures("without_figures")
def test_ctrl_c_keeps_the_last_finished_epoch(
    whole: Run,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "run"
    caplog.set_level(logging.INFO, "denoiser.training")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(2, patch)
        fit(settings(data), out, verbose=0)
    assert "stopped after epoch 2 of 3" in caplog.messages[-1]
    assert not out.exists()
    # A second fit neither loses that work nor mixes it with other settings.
    with pytest.raises(RunError, match=r"unfinished run .*epoch-00002.*--resume"):
        fit(settings(data), out, verbose=0)
    with pytest.raises(RunError, match=r"other settings: learning_rate \(0\.001 → 0\.5\)"):
        fit(settings(data, learning_rate=0.5), out, resume=True, verbose=0)
    run = fit(settings(data), out, resume=True, verbose=0)
    assert "resuming after epoch 2 of 3" in caplog.messages
    assert same_outcome(run, whole)


@pytest.mark.usefixtures("without_figures")
def test_patience_ends_training_and_keeps_the_best_weights(
    data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A rate this high makes the loss jump: some early epoch is the best, and soon nothing beats it.
    wild = settings(data, epochs=40, patience=2, learning_rate=0.02, schedule="constant")
    caplog.set_level(logging.INFO, "denoiser.training")
    run = fit(wild, tmp_path / "wild", verbose=0)
    history = losses(run)[:, 1]
    best = int(np.argmin(history))
    assert best == len(history) - 3 < 37, "it stopped two epochs after the best"
    assert f"weights of epoch {best + 1}, the best by validation" in caplog.messages
    dataset = load_dataset(data)
    clean, noisy = add_noise(dataset.validation.images, parse_noise("gaussian"), key=0)
    mse = np.mean((run.models().autoencoder.predict(noisy, verbose=0) - clean) ** 2)
    assert mse == pytest.approx(history[best], rel=1e-4)
    assert history[-1] > history[best] * 1.001, "else the last weights would do as well"


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("patience", [None, 9])
def test_averaged_weights_are_validated_kept_and_resumed(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None
) -> None:
    """Batches of two images and a high rate: the last weights are not their average."""
    jumpy = settings(data, averaging=0.9, patience=patience, learning_rate=0.02, batch_size=2)
    run = fit(jumpy, tmp_path / "run", verbose=0)
    dataset = load_dataset(data)
    clean, noisy = add_noise(dataset.validation.images, parse_noise("gaussian"), key=0)
    mse = np.mean((run.models().autoencoder.predict(noisy, verbose=0) - clean) ** 2)
    history = losses(run)[:, 1]
    assert mse == pytest.approx(history[-1] if patience is None else min(history), rel=1e-4)
    plain = fit(replace(jumpy, averaging=None), tmp_path / "plain", verbose=0)
    assert np.abs(losses(plain)[:, 0] - losses(run)[:, 0]).max() < 1e-4, "the same steps"
    assert not np.allclose(losses(plain)[:, 1], history, rtol=1e-3), "other weights validated"

    interrupt_at(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(jumpy, tmp_path / "again", verbose=0)
    monkeypatch.undo()
    again = fit(jumpy, tmp_path / "again", resume=True, verbose=0)
    assert same_outcome(again, run)


def test_frozen_normalisation_is_resumed_on_either_side_of_the_change(
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fitting, "_draw", lambda *args: None)
    changes = {"epochs": 4, "freeze_after": 2, "averaging": 0.9, "schedule": "warm-cosine"}
    frozen = settings(data, preset="standard", **changes)
    caplog.set_level(logging.INFO, "denoiser.training")
    run = fit(frozen, tmp_path / "run", verbose=0)
    assert "batch normalisation is frozen after epoch 2" in caplog.messages
    with (run.path / "history.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([2.85e-3, 1.83e-3, 1.125e-3, 0.0], rel=0.01, abs=1e-9)

    assert all(layer.trainable for layer in run.models().encoder.layers), "left as it was built"

    for last in (2, 3):  # epoch 2 is the last with a learning normalisation
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_at(last, patch)
            fit(frozen, tmp_path / "again", resume=True, verbose=0)
    again = fit(frozen, tmp_path / "again", resume=True, verbose=0)
    assert "resuming after epoch 3 of 4" in caplog.messages
    assert same_outcome(again, run)


@pytest.mark.usefixtures("without_figures")
def test_normalisation_frozen_from_the_start_keeps_what_it_began_with(
    data: str, tmp_path: Path
) -> None:
    first = settings(data, preset="standard", epochs=1, freeze_after=None)
    begun = fit(first, tmp_path / "begun", verbose=0)
    more = replace(first, epochs=2, freeze_after=0, start=str(begun.path))
    run = fit(more, tmp_path / "more", verbose=0)
    before, after = (one.models().encoder.weights for one in (begun, run))
    kept = [
        np.array_equal(old.numpy(), new.numpy())
        for old, new in zip(before, after, strict=True)
        if "normalization" in old.path
    ]
    assert kept == [True] * 16, "scale, shift, mean and variance of four"
    assert not np.allclose(before[0].numpy(), after[0].numpy()), "the first convolution learned"


def test_a_run_can_start_from_another(
    whole: Run, data: str, tmp_path: Path, without_figures: None
) -> None:
    # With a rate of almost nothing the weights stay what they were.
    still = settings(data, epochs=1, learning_rate=1e-12, start=str(whole.path))
    run = fit(still, tmp_path / "more", verbose=0)
    before, after = (r.models().autoencoder.get_weights() for r in (whole, run))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(before, after, strict=True))
    assert run.config["settings"]["start"] == whole.path.name
    wider = settings(data, epochs=1, start=str(whole.path), filters=(5,))
    with pytest.raises(RunError, match="its encoder is another network"):
        fit(wider, tmp_path / "wider", verbose=0)
    assert not (tmp_path / "wider").exists()


def test_best_and_exhausted() -> None:
    rows = [{"val_loss": loss} for loss in (3.0, 1.0, 2.0, 1.0)]
    assert [checkpoints.since_best(rows[:n]) for n in (1, 2, 3, 4)] == [0, 0, 1, 2]
    assert checkpoints.exhausted(rows, 2) and not checkpoints.exhausted(rows, 3)
    assert not checkpoints.exhausted(rows, None) and not checkpoints.exhausted([], 1)


def test_resume_refuses_other_images(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(data) as arrays:
        images = arrays["images"]
    np.savez(tmp_path / "tiny.npz", images=images)
    mine = settings(str(tmp_path / "tiny.npz"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(0, patch)
        fit(mine, tmp_path / "run", verbose=0)
    np.savez(tmp_path / "tiny.npz", images=1 - images)
    with pytest.raises(RunError, match="the images themselves"):
        fit(mine, tmp_path / "run", resume=True, verbose=0)


@pytest.mark.usefixtures("without_figures")
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(checkpoints, "MIN_SECONDS", 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(2, patch)
        fit(settings(data), tmp_path / "run", verbose=0)
    newest, older = checkpoints.written(tmp_path / ".run.partial" / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:900])
    caplog.set_level(logging.INFO, "denoiser.training")
    fit(settings(data), tmp_path / "run", resume=True, verbose=0)
    assert older.stem == "epoch-00001"
    assert "resuming after epoch 1 of 3" in caplog.messages


def test_a_finished_run_is_replaced_only_with_overwrite(data: str, tmp_path: Path) -> None:
    quick = settings(data, epochs=1, task="reconstruct")
    first = fit(quick, tmp_path / "run", verbose=0)
    with pytest.raises(TargetExistsError, match=r"run exists.*--overwrite"):
        fit(quick, tmp_path / "run", resume=True, verbose=0)
    second = fit(
        settings(data, epochs=2, task="reconstruct"),
        tmp_path / "run", overwrite=True, verbose=0,
    )  # fmt: skip
    assert (first.metrics["epochs"], second.metrics["epochs"]) == (1, 2)
    # The task reconstruct has no noise: not in the samples, the figures or the metrics.
    clean, noisy = second.samples()
    np.testing.assert_array_equal(clean, noisy)
    assert second.metrics["test"]["input"] is None
    assert not (second.path / "figures" / "denoising.png").exists()


def test_overwrite_keeps_what_is_no_run(data: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "other").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "notes.txt").write_text("precious")
    with pytest.raises(TargetExistsError, match="a folder that this command made"):
        fit(settings(data), tmp_path / "runs", overwrite=True, verbose=0)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "other", "notes.txt"]


def test_indivisible_images_are_refused_before_anything_is_written(
    data: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="that 16 divides"):
        fit(settings(data, filters=(2, 2, 2, 2)), tmp_path / "run", verbose=0)
    assert list(tmp_path.iterdir()) == []


def test_evaluate_repeats_the_metrics(whole: Run, data: str) -> None:
    again = evaluate(whole.path, dataset=data)
    for row in ("input", "output"):
        assert again[row] == pytest.approx(whole.metrics["test"][row], rel=1e-4)
    samples = evaluate(whole.path)
    assert "samples.npz" in samples["source"]
    assert samples["output"]["mse"] == pytest.approx(again["output"]["mse"], rel=0.2)
    mild = evaluate(whole.path, noise="gaussian:0,0.01")
    assert mild["input"]["mse"] < 0.001
    again = evaluate(whole.path, noise="gaussian:0,0.01")
    assert (again["output"], again["levels"]) == (mild["output"], mild["levels"])


def test_evaluate_refuses_images_of_another_shape(whole: Run) -> None:
    with pytest.raises(DatasetError, match=r"\(28, 28, 1\) from digits; expected \(8, 8, 1\)"):
        evaluate(whole.path, dataset="digits")


def test_a_reconstruction_that_fails_leaves_no_final_folder(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(fitting, "_draw", fail)
    with pytest.raises(OSError, match="no space"):
        fit(settings(data, epochs=1), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()
