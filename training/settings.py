"""`FitSettings`: everything that decides the result of a run, in one frozen dataclass.

It is saved in the run's `config.json`; its fields are the options of `fit`, with their defaults and
help. What is not given follows from the preset, the task and the dataset: the small embedded digits
have so few batches in an epoch that they need a longer recipe than MNIST-like data.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from training.data.datasets import has_own_noise
from training.errors import SettingsError
from training.noise.spec import DEFAULT_NOISE, HELP, PAIRS, parse_noise

TASKS = ("denoise", "reconstruct")
SCHEDULES = ("constant", "cosine", "warm-cosine")
PRESET_NAMES = ("classic", "standard")  # training.model.PRESETS builds them; no TensorFlow here
NORMALISED = ("standard",)  # those with batch normalisation

# For about 1,700 batches an epoch.
CLASSIC = {
    "denoise": {"epochs": 10, "learning_rate": 1e-3, "schedule": "constant"},
    "reconstruct": {"epochs": 1, "learning_rate": 1e-3, "schedule": "constant"},
}
# For about 860 batches an epoch; measured in benchmarks/LOG.md.
STANDARD = {
    "epochs": 23,
    "learning_rate": 3e-3,
    "schedule": "warm-cosine",
    "batch_size": 64,
    "averaging": 0.98,
}
NORMALISED_SHARE = 0.6  # of `standard`'s epochs, before its batch normalisation is frozen
DIGITS = {  # 45 batches an epoch
    "denoise": {"epochs": 60, "learning_rate": 2e-3, "schedule": "cosine"},
    "reconstruct": {"epochs": 30, "learning_rate": 2e-3, "schedule": "cosine"},
}
PATIENCE = 10  # of `standard`: on MNIST its validation loss fell again after 2 epochs at most


def _filters(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not N,N such as 32,64") from exc


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH such as 28x28")
    return int(match[1]), int(match[2])


def _option(text: str, *, default: Any = MISSING, **argument: Any) -> Any:
    """A field, and the rest of argparse's `add_argument` for it."""
    return field(default=default, metadata={"help": text, **argument})


def _count(text: str, **default: Any) -> Any:
    return _option(text, type=int, metavar="N", **default)


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Validated settings of one run; create it with `FitSettings.resolve`.

    `saved` keeps only the last part of the paths `dataset` and `start`, so that a run folder names
    no path of its machine. `noise` is None for the task `reconstruct`, and "pairs" where the
    dataset has its own noisy images. None stands for: no averaging, never frozen, all epochs and
    the last weights, random weights, images as they are.
    """

    dataset: str = _option(
        "digits, mnist, fashion-mnist, a .npz or .npy file, or a folder of image files or of pairs "
        "in clean/ and noisy/ (default: digits, which needs no network)"
    )
    task: str = _option("what to learn (default: denoise)", choices=TASKS)
    preset: str = _option("the network and its recipe (default: classic)", choices=PRESET_NAMES)
    filters: tuple[int, ...] = _option(
        "of each stride-2 layer (default: 32,64)", default=(32, 64), type=_filters, metavar="N,N"
    )
    latent_size: int = _count("numbers per latent (default: 16)", default=16)
    kernel_size: int = _count("of every convolution, 2 or more (default: 3)", default=3)
    batch_size: int = _count("images a step (default: 32; 64 for standard)", default=32)
    epochs: int = _count(
        "(default: 10 to denoise, 1 to reconstruct, 23 for standard; for digits 60 and 30)"
    )
    learning_rate: float = _option(
        "Adam's (default: 0.001, for standard 0.003, for digits 0.002)", type=float, metavar="X"
    )
    schedule: str = _option(
        "of the learning rate (default: constant, for standard warm-cosine, for digits cosine)",
        choices=SCHEDULES,
    )
    averaging: float | None = _option(
        "validate and keep a moving average of the weights with this momentum a step "
        "(default: 0.98 for standard; none for classic and for digits)",
        default=None,
        type=float,
        metavar="X",
    )
    freeze_after: int | None = _count(
        "freeze batch normalisation at its averages after N epochs "
        "(default: 0.6 of them for standard; never for digits)",
        default=None,
    )
    patience: int | None = _count(
        "stop after N epochs without a lower validation loss, and keep the best epoch's weights "
        "(default: 10 for standard; for classic the last weights)",
        default=None,
    )
    noise: str | None = _option(f"{HELP} (default: {DEFAULT_NOISE})", metavar="SPEC")
    start: str | None = _option(
        "start from a finished run's weights (default: random)", default=None, metavar="RUN"
    )
    resize: tuple[int, int] | None = _option(
        "resize every image (default: as they are)", default=None, type=_size, metavar="HxW"
    )
    seed: int = _count("of weights, order and noise (default: 0)", default=0)

    def __post_init__(self) -> None:
        _choice("task", self.task, TASKS)
        _choice("preset", self.preset, PRESET_NAMES)
        _choice("schedule", self.schedule, SCHEDULES)
        if not self.filters:
            raise SettingsError("no filters", expected="at least one", hint="Pass --filters 32,64.")
        for filters in self.filters:
            _whole("filters", filters)
        for name in ("latent_size", "batch_size", "epochs"):
            _whole(name, getattr(self, name))
        # Below its stride a transposed convolution has negative padding, which ONNX lacks.
        _whole("kernel_size", self.kernel_size, minimum=2)
        for side in self.resize or ():
            _whole("resize", side)
        if self.freeze_after is not None:
            _whole("freeze_after", self.freeze_after, minimum=0)
            if self.preset not in NORMALISED:
                raise SettingsError(
                    f"freeze after {self.freeze_after} with the preset {self.preset}",
                    expected="a preset with batch normalisation",
                    hint=f"Leave --freeze-after out, or pass --preset {NORMALISED[0]}.",
                )
        if self.patience is not None:
            _whole("patience", self.patience)
        _whole("seed", self.seed, minimum=0, maximum=2**32 - 1)
        if self.averaging is not None and not 0 < self.averaging < 1:
            raise SettingsError(
                f"averaging {self.averaging}",
                expected="a momentum between 0 and 1",
                hint="Pass for example --averaging 0.99, or leave it out.",
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SettingsError(f"learning rate {self.learning_rate}", expected="a positive number")
        if self.task == "reconstruct" and self.noise is not None:
            raise SettingsError(
                f"noise {self.noise!r} with the task reconstruct",
                expected="no noise, since input and target are the same images",
                hint="Leave --noise out, or pass --task denoise.",
            )
        if self.noise is not None and self.noise != PAIRS:
            parse_noise(self.noise)

    @classmethod
    def resolve(cls, **options: Any) -> FitSettings:
        """Settings from options (None counts as not given), the rest from the defaults."""
        given = {name: value for name, value in options.items() if value is not None}
        settings: dict[str, Any] = {"dataset": "digits", "task": "denoise", "preset": "classic"}
        settings |= given
        dataset, task, preset = (settings[name] for name in ("dataset", "task", "preset"))
        _choice("task", task, TASKS)
        _choice("preset", preset, PRESET_NAMES)
        digits = dataset == "digits"
        recipe: dict[str, Any] = dict((DIGITS if digits else CLASSIC)[task])
        if preset == "standard":
            recipe |= ({} if digits else STANDARD) | {"patience": PATIENCE}
        settings = recipe | settings
        if preset == "standard" and not digits:
            settings.setdefault("freeze_after", round(NORMALISED_SHARE * settings["epochs"]))
        if has_own_noise(dataset):
            _require_own_noise(task, given.get("noise"))
            settings["noise"] = PAIRS
        else:
            spec = settings.get("noise", DEFAULT_NOISE if task == "denoise" else None)
            settings["noise"] = spec and str(parse_noise(spec))  # one spelling in the config
        return cls(**settings)

    @property
    def stride(self) -> int:
        """The factor by which the encoder shrinks height and width."""
        return int(2 ** len(self.filters))

    def saved(self) -> dict[str, Any]:
        """As JSON for config.json; of a path only its last part."""
        state = asdict(self)
        state["dataset"] = Path(self.dataset).name
        state["start"] = Path(self.start).name if self.start else None
        state["filters"] = list(self.filters)
        state["resize"] = list(self.resize) if self.resize else None
        return state

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """Where saved settings differ from these, as `name (saved → these)`."""
        current = self.saved()
        return [
            f"{part.name} ({saved.get(part.name)} → {current[part.name]})"
            for part in fields(self)
            if saved.get(part.name) != current[part.name]
        ]


def _require_own_noise(task: str, noise: str | None) -> None:
    """Refuse options that contradict a dataset of pairs."""
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
        raise SettingsError(f"{name} {value!r}", expected=f"one of {', '.join(known)}")


def _whole(name: str, value: int, *, minimum: int = 1, maximum: int | None = None) -> None:
    if value < minimum or (maximum is not None and value > maximum):
        limits = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum}"
        received = f"{name.replace('_', ' ')} {value}"
        raise SettingsError(received, expected=f"a whole number, {limits}")
