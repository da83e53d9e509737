"""Trainings that learn nothing end with an error, at once."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.paths import ROOT
from training.backend import load_tensorflow

load_tensorflow()

import keras  # noqa: E402

from training.errors import LearningError, SettingsError  # noqa: E402
from training.settings import FitSettings  # noqa: E402
from training.watch import Watch  # noqa: E402

PROBE = np.random.default_rng(0).random((9, 8, 8, 1), dtype=np.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rate", "1e20"], "error: the loss is nan in epoch 1; expected a finite"),
        (["--learning-rate", "1"], "error: a network collapsed to one output for every input"),
        (["--learning-rate", "1", "--preset", "standard"], "error: a network collapsed to one"),
        (["--kernel-size", "1"], "error: kernel size 1; expected a whole number, 2 or more"),
    ],
)
def test_fit_stops_with_advice(tmp_path: Path, options: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training", "fit", "--out", str(tmp_path / "run"), "--epochs", "3",
         *options],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert "Epoch 2" not in done.stdout
    assert not (tmp_path / "run").exists()
    if "rate" in options[0]:
        assert "a --learning-rate below" in done.stderr


def scaled(factor: float) -> keras.Model:
    images = keras.Input((8, 8, 1))
    return keras.Model(images, keras.layers.Rescaling(factor, offset=0.9)(images))


def test_only_outputs_that_are_all_the_same_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch(PROBE, 0.1)
    for factor in (1e-9, 0.0, np.nan):
        with pytest.raises(LearningError, match="collapsed to one output"):
            watch.require_varying(scaled(factor))
    watch.require_varying(scaled(1e-4))
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        watch.require_varying(scaled(1e-4), last=True)
    assert "outputs differ by" in caplog.text
    Watch(None, 0.1).require_varying(scaled(0.0))


def test_a_loss_that_is_not_finite_is_refused_within_the_epoch() -> None:
    watch = Watch(PROBE, 0.1)
    watch.on_epoch_begin(4)
    watch.on_train_batch_end(0, {"loss": 0.3})
    with pytest.raises(LearningError, match="the loss is nan in epoch 5"):
        watch.on_train_batch_end(1, {"loss": float("nan")})
    with pytest.raises(LearningError, match="the val_loss is inf in epoch 5"):
        watch.on_epoch_end(4, {"loss": 0.1, "val_loss": float("inf")})


def test_a_network_too_large_for_onnx_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import fit

    monkeypatch.setattr(fit, "MAX_EXPORTED", 4000)
    with pytest.raises(
        SettingsError, match=r"parameters; expected fewer than 1,000, since an ONNX"
    ):
        fit.fit(FitSettings.resolve(epochs=1), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()
