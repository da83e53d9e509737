"""The numbers of a noise: fixed, or a range that each image draws its own number from.

Written `0.5` or `0..0.7`. A network trained on ranges is a blind denoiser: it does not know how
strong the noise is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from common.arrays import Floats
from training.errors import SettingsError

EXAMPLE = "Pass for example --noise gaussian:0.5,0.5."
LEVELS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the noise's own strength, for curves


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both finite; a fixed number where they are equal."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise _refusal(str(self))

    @classmethod
    def parse(cls, text: str) -> Range:
        """`0.5` or `0..0.7`; anything else is a SettingsError."""
        low, dots, high = text.partition("..")
        try:
            return cls(float(low), float(high if dots else low))
        except (ValueError, SettingsError) as exc:
            raise _refusal(text) from exc

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """One number for each of `count` images, uniform: float32 (N, 1, 1, 1).

        A fixed number is float32 () and draws nothing from the generator.
        """
        if self.low == self.high:
            return np.full((), self.low, np.float32)
        return rng.uniform(self.low, self.high, (count, 1, 1, 1)).astype(np.float32)

    def __str__(self) -> str:
        low, high = self.low + 0.0, self.high + 0.0  # one spelling for 0, 0.0 and -0.0
        return f"{low}" if low == high else f"{low}..{high}"


@dataclass(frozen=True)
class Limits:
    """The limits of a parameter, and how it follows the strength of its noise.

    Noise `level` times as strong has the parameter times level ** power: 1 for a standard
    deviation, 0 for what has no strength.
    """

    minimum: float
    maximum: float
    power: float

    def hold(self, numbers: Range) -> bool:
        """Whether all of the range is within the limits."""
        return self.minimum <= numbers.low and numbers.high <= self.maximum

    def at(self, numbers: Range, level: float) -> float:
        """The one value at a level, within the limits: 1 is the range's strong end, 0 no noise.

        With power 0 the value goes from the low end at level 0 to the high end at level 1.
        """
        if self.power == 0:
            return numbers.low + (numbers.high - numbers.low) * min(level, 1.0)
        if level == 0:
            return self.minimum if self.power > 0 else self.maximum
        strong = numbers.high if self.power > 0 else numbers.low
        return min(max(strong * math.pow(level, self.power), self.minimum), self.maximum)


def require_level(level: float) -> float:
    """The level, if it is finite and not negative."""
    if not (math.isfinite(level) and level >= 0):
        raise SettingsError(
            f"noise level {level}",
            expected="a finite number, 0 or more (1: as strong as the noise itself)",
        )
    return level


def _refusal(text: str) -> SettingsError:
    return SettingsError(
        f"noise with the number {text!r}",
        expected="a finite number, or LOW..HIGH with LOW not above HIGH",
        hint=EXAMPLE,
    )
