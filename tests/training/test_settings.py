"""FitSettings: defaults by task and dataset, refusals, and what is saved."""

from __future__ import annotations

import json
from typing import Any

import pytest

from training.errors import SettingsError
from training.settings import PRESET_NAMES, FitSettings


@pytest.mark.parametrize(
    ("dataset", "task", "expected"),
    [
        ("mnist", "denoise", (10, 0.001, "constant")),
        ("mnist", "reconstruct", (1, 0.001, "constant")),
        ("digits", "denoise", (60, 0.002, "cosine")),
        ("digits", "reconstruct", (30, 0.002, "cosine")),
    ],
)
def test_defaults_follow_task_and_dataset(
    dataset: str, task: str, expected: tuple[int, float, str]
) -> None:
    settings = FitSettings.resolve(dataset=dataset, task=task)
    assert (settings.epochs, settings.learning_rate, settings.schedule) == expected
    assert settings.batch_size == 32
    assert settings.noise == ("gaussian:0.5,0.5" if task == "denoise" else None)


def test_what_is_given_wins_and_none_is_not_given() -> None:
    settings = FitSettings.resolve(epochs=3, filters=(8,), seed=None, schedule="constant")
    assert (settings.epochs, settings.filters, settings.seed) == (3, (8,), 0)
    assert settings.schedule == "constant"
    assert settings.stride == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "paint"}, "task 'paint'"),
        ({"preset": "huge"}, "preset 'huge'"),
        ({"schedule": "steps"}, "schedule 'steps'"),
        ({"epochs": 0}, "epochs 0"),
        ({"batch_size": -1}, "batch size -1"),
        ({"latent_size": 0}, "latent size 0"),
        ({"kernel_size": 0}, "kernel size 0"),
        ({"filters": ()}, "no filters"),
        ({"filters": (8, 0)}, "filters 0"),
        ({"resize": (0, 8)}, "resize 0"),
        ({"seed": -1}, "seed -1"),
        ({"learning_rate": 0.0}, "learning rate 0.0"),
        ({"preset": "standard", "freeze_after": -1}, "freeze after -1"),
        ({"freeze_after": 1}, "freeze after 1 with the preset classic"),
        ({"averaging": 0.0}, "averaging 0.0"),
        ({"averaging": 1.0}, "averaging 1.0"),
        ({"learning_rate": float("nan")}, "learning rate nan"),
        ({"noise": "rain"}, "noise 'rain'"),
        ({"task": "reconstruct", "noise": "gaussian"}, "with the task reconstruct"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FitSettings.resolve(**given)


def test_standard_freezes_its_normalisation_late() -> None:
    def after(**given: Any) -> int | None:
        return FitSettings.resolve(preset="standard", **given).freeze_after

    whole = FitSettings.resolve(preset="standard", dataset="mnist")
    assert whole.freeze_after is not None
    assert 0.5 * whole.epochs < whole.freeze_after < whole.epochs
    assert after(dataset="mnist", epochs=10) == 6
    assert after(dataset="mnist", epochs=1) == 1, "one epoch leaves nothing to freeze for"
    assert after(dataset="mnist", epochs=10, freeze_after=0) == 0
    assert after(dataset="digits") is None
    assert FitSettings.resolve(dataset="mnist").freeze_after is None


def test_saved_settings_are_json_without_a_path() -> None:
    settings = FitSettings.resolve(dataset="/home/someone/mnist.npz", resize=(28, 28))
    saved = json.loads(json.dumps(settings.saved()))
    assert saved["dataset"] == "mnist.npz"
    assert settings.differences(saved) == []


def test_differences_name_the_setting_and_both_values() -> None:
    saved = FitSettings.resolve(epochs=3).saved()
    assert FitSettings.resolve(epochs=4).differences(saved) == ["epochs (3 → 4)"]


@pytest.mark.tensorflow
def test_every_preset_name_has_a_network() -> None:
    from training.model import PRESETS

    assert set(PRESETS) == set(PRESET_NAMES)
