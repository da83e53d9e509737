"""`FitSettings`: everything that decides how a run comes out, in one frozen dataclass.

It is saved in the run's `config.json`. What is not given is filled in from the task and the
dataset: MNIST-like data takes the classic recipe (Adam 1e-3, 1 epoch to reconstruct, 10 to
denoise); the small embedded digits see so few batches in an epoch that they need a longer one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from training.data.datasets import has_own_noise
from training.errors import SettingsError
from training.noise.spec import DEFAULT_NOISE, PAIRS, parse_noise

TASKS = ("denoise", "reconstruct")
SCHEDULES = ("constant", "cosine", "warm-cosine")
PRESET_NAMES = ("classic", "standard")  # training.model.PRESETS builds them; no TensorFlow here
NORMALISED = ("standard",)  # those with batch normalisation

CLASSIC = {
    "denoise": {"epochs": 10, "learning_rate": 1e-3, "schedule": "constant"},
    "reconstruct": {"epochs": 1, "learning_rate": 1e-3, "schedule": "constant"},
}
# 860 batches an epoch.
STANDARD = {
    "epochs": 23,
    "learning_rate": 3e-3,
    "schedule": "warm-cosine",
    "batch_size": 64,
    "averaging": 0.98,
}
NORMALISED_SHARE = 0.6  # of `standard`'s epochs, before its batch normalisation is frozen
DIGITS = {  # 45 batches an epoch, against MNIST's 1,719
    "denoise": {"epochs": 60, "learning_rate": 2e-3, "schedule": "cosine"},
    "reconstruct": {"epochs": 30, "learning_rate": 2e-3, "schedule": "cosine"},
}
PATIENCE = 10  # of `standard`: on MNIST its validation loss fell again after 2 epochs at most


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Validated settings of one run; make it with `FitSettings.resolve`.

    `dataset` is a name or a path; `saved` keeps only a path's last part (of `start` too), so that
    a run folder says nothing of the machine that made it. `noise` is None for the task
    `reconstruct`, and "pairs" where the dataset has its own noisy images.
    """

    dataset: str
    task: str
    preset: str
    filters: tuple[int, ...]
    latent_size: int
    kernel_size: int
    batch_size: int
    epochs: int
    learning_rate: float
    schedule: str
    averaging: float | None  # momentum of the weights' moving average, which is kept; None: none
    freeze_after: int | None  # epochs until batch normalisation is frozen; None: never
    patience: int | None  # epochs without a better validation loss; None: all, and the last weights
    noise: str | None
    start: str | None  # a run folder whose weights are the first ones; None: random ones
    resize: tuple[int, int] | None  # height, width
    seed: int

    def __post_init__(self) -> None:
        _choice("task", self.task, TASKS)
        _choice("preset", self.preset, PRESET_NAMES)
        _choice("schedule", self.schedule, SCHEDULES)
        if not self.filters:
            raise SettingsError("no filters", expected="at least one", hint="Pass --filters 32,64.")
        for filters in self.filters:
            _whole("filters", filters, least=1)
        for name in ("latent_size", "kernel_size", "batch_size", "epochs"):
            _whole(name, getattr(self, name), least=1)
        for side in self.resize or ():
            _whole("resize", side, least=1)
        if self.freeze_after is not None:
            _whole("freeze_after", self.freeze_after, least=0)
            if self.preset not in NORMALISED:
                raise SettingsError(
                    f"freeze after {self.freeze_after} with the preset {self.preset}",
                    expected="a preset with batch normalisation",
                    hint=f"Leave --freeze-after out, or pass --preset {NORMALISED[0]}.",
                )
        if self.patience is not None:
            _whole("patience", self.patience, least=1)
        _whole("seed", self.seed, least=0, most=2**32 - 1)
        if self.averaging is not None and not 0 < self.averaging < 1:
            raise SettingsError(
                f"averaging {self.averaging}",
                expected="a momentum between 0 and 1",
                hint="Pass for example --averaging 0.99, or leave it out.",
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SettingsError(
                f"learning rate {self.learning_rate}",
                expected="a positive number",
                hint="Pass for example --learning-rate 0.001.",
            )
        if self.task == "reconstruct" and self.noise is not None:
            raise SettingsError(
                f"noise {self.noise!r} with the task reconstruct",
                expected="no noise, since input and target are the same images",
                hint="Leave --noise out, or pass --task denoise.",
            )
        if self.noise is not None and self.noise != PAIRS:
            parse_noise(self.noise)

    @classmethod
    def resolve(cls, **given: Any) -> FitSettings:
        """Settings from what was given (None counts as not given), the rest from the defaults."""
        given = {name: value for name, value in given.items() if value is not None}
        task = given.get("task", "denoise")
        dataset = given.get("dataset", "digits")
        _choice("task", task, TASKS)
        pairs = has_own_noise(dataset)
        if pairs:
            _require_own_noise(task, given.get("noise"))
        preset = given.get("preset", "classic")
        _choice("preset", preset, PRESET_NAMES)
        recipe: dict[str, Any] = (DIGITS if dataset == "digits" else CLASSIC)[task]
        if preset == "standard":
            recipe = {**recipe, **(STANDARD if dataset != "digits" else {}), "patience": PATIENCE}
        defaults: dict[str, Any] = {
            "dataset": dataset,
            "task": task,
            "preset": preset,
            "averaging": None,
            "freeze_after": None,
            "patience": None,
            "filters": (32, 64),
            "latent_size": 16,
            "kernel_size": 3,
            "batch_size": 32,
            "noise": DEFAULT_NOISE if task == "denoise" else None,
            "start": None,
            "resize": None,
            "seed": 0,
        }
        settings = defaults | recipe | given
        if preset == "standard" and dataset != "digits" and "freeze_after" not in given:
            settings["freeze_after"] = round(NORMALISED_SHARE * settings["epochs"])
        if pairs:
            settings["noise"] = PAIRS
        elif settings["noise"] is not None:
            settings["noise"] = str(parse_noise(settings["noise"]))  # one spelling in the config
        return cls(**settings)

    @property
    def stride(self) -> int:
        """The factor by which the encoder shrinks height and width."""
        return int(2 ** len(self.filters))

    def saved(self) -> dict[str, Any]:
        """As JSON for config.json; a path is cut to its last part."""
        state = asdict(self)
        state["dataset"] = Path(self.dataset).name
        state["start"] = Path(self.start).name if self.start else None
        state["filters"] = list(self.filters)
        state["resize"] = list(self.resize) if self.resize else None
        return state

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """Where these settings and saved ones differ, as `name (saved → now)`."""
        mine = self.saved()
        return [
            f"{field.name} ({saved.get(field.name)} → {mine[field.name]})"
            for field in fields(self)
            if saved.get(field.name) != mine[field.name]
        ]


def _require_own_noise(task: str, noise: str | None) -> None:
    """Refuse what does not go with a dataset of pairs."""
    if noise is not None:
        raise SettingsError(
            f"noise {noise!r} with a dataset of pairs",
            expected="no noise, since each image has its own noisy one",
            hint="Leave --noise out, or pass the clean images alone.",
        )
    if task != "denoise":
        raise SettingsError(
            f"task {task!r} with a dataset of pairs",
            expected="the task denoise, from each noisy image to its clean one",
            hint="Leave --task out, or pass the clean images alone.",
        )


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(
            f"{name} {value!r}",
            expected=f"one of {', '.join(known)}",
            hint=f"Choose a known {name}.",
        )


def _whole(name: str, value: int, *, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"{least} to {most}"
        option = name.replace("_", "-")
        raise SettingsError(
            f"{name.replace('_', ' ')} {value}",
            expected=f"a whole number, {limits}",
            hint=f"Change --{option}.",
        )
