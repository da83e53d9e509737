"""Noise that spoils clean images, in plain numpy.

A kind of noise is a frozen dataclass with `apply` and a `__str__` that gives its spec back;
it joins by a line in `KINDS`. The classic noise is N(0.5, 0.5) added and clipped: it lifts the
black ground to grey as much as it scatters it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.errors import SettingsError

Floats = NDArray[np.float32]


class Noise(Protocol):
    """What every kind of noise can do; `str(noise)` is a spec that `parse_noise` reads."""

    def apply(self, images: Floats, rng: np.random.Generator) -> Floats:
        """Spoil float32 (N, H, W, C) in [0, 1]; a new array of the same kind comes back."""
        ...

    def scaled(self, factor: float) -> "Noise":
        """The same kind, weaker (factor < 1) or stronger (factor > 1)."""
        ...


@dataclass(frozen=True)
class GaussianNoise:
    """Independent N(mean, std) added to every value, then clipped to [0, 1]."""

    mean: float = 0.5
    std: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std >= 0):
            raise SettingsError(
                f"noise {self}",
                expected="a finite mean and a finite deviation that is not negative",
                do=f"pass for example --noise {DEFAULT_NOISE}",
            )

    def apply(self, images: Floats, rng: np.random.Generator) -> Floats:
        """Spoil float32 (N, H, W, C) in [0, 1]; the input is left as it is."""
        noisy = rng.standard_normal(images.shape, dtype=np.float32)
        noisy *= np.float32(self.std)
        noisy += np.float32(self.mean)
        noisy += images
        return np.clip(noisy, 0.0, 1.0, out=noisy)

    def scaled(self, factor: float) -> "GaussianNoise":
        """The deviation times factor, the mean as it is."""
        return GaussianNoise(self.mean, self.std * factor)

    def __str__(self) -> str:
        return f"gaussian:{self.mean},{self.std}"


KINDS: dict[str, Callable[..., Noise]] = {"gaussian": GaussianNoise}
DEFAULT_NOISE = "gaussian:0.5,0.5"


def parse_noise(spec: str) -> Noise:
    """The noise that a spec such as `gaussian:0.5,0.5` names; `gaussian` alone is the classic."""
    kind, _, values = spec.strip().partition(":")
    try:
        return KINDS[kind](*(float(value) for value in values.split(",") if values))
    except (KeyError, ValueError, TypeError) as exc:
        raise SettingsError(
            f"noise {spec!r}",
            expected="gaussian:MEAN,STD with two numbers",
            do=f"pass for example --noise {DEFAULT_NOISE}",
        ) from exc
