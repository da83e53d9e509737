"""Noise that corrupts clean images: from its spec to an object that applies it.

A spec is one kind with its numbers, `gaussian:0.5,0.5`, or several joined with `+` and applied in
turn: `gaussian:0.5,0.5+salt-pepper:0.1`. Any number may be a range that each image draws its own
number from: `gaussian:0..0.5,0..0.7`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from common.arrays import Floats
from training.errors import SettingsError
from training.noise.kinds import KINDS, Kind
from training.noise.ranges import EXAMPLE, Range, require_level

DEFAULT_NOISE = "gaussian:0.5,0.5"
PAIRS = "pairs"  # in place of a spec, for a run on clean images with their own noisy ones
FORMS = ", ".join(kind.form() for kind in KINDS.values())
HELP = (
    f"one of {FORMS}; several are joined with + and applied in turn; a number may be a range "
    "LOW..HIGH, drawn anew for each image"
)
JOINT = re.compile(r"(?<![0-9.][eE])\+")  # a plus, but not that of 1e+16


@dataclass(frozen=True)
class Noise:
    """Kinds of noise, applied in turn. `str(noise)` is its spec."""

    parts: tuple[Kind, ...]

    def apply(self, images: Floats, rng: np.random.Generator) -> Floats:
        """Corrupt float32 (N, H, W, C) in [0, 1]; returns a new array of the same kind."""
        for part in self.parts:
            images = part.apply(images, rng)
        return images

    def at(self, level: float) -> Noise:
        """One fixed strength: 1 is the strongest that this noise draws, 0 none."""
        require_level(level)
        return Noise(tuple(part.at(level) for part in self.parts))

    def describe(self) -> list[dict[str, Any]]:
        """As JSON: `{"kind": …, "parameters": {name: [low, high]}}` for each part."""
        return list(chain.from_iterable(part.describe() for part in self.parts))

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))


def parse_noise(spec: str) -> Noise:
    """The noise of a spec; a kind without numbers gets its default ones.

    Raises:
        SettingsError: an unknown kind, the wrong count of numbers, one outside its limits, or an
            empty part.
    """
    return Noise(tuple(_parse_part(part.strip(), spec) for part in JOINT.split(spec)))


def drawn_noise(spec: str | None) -> Noise | None:
    """The noise to draw for a run's `noise` setting; None for pairs and for no noise."""
    return None if spec is None or spec == PAIRS else parse_noise(spec)


def described(spec: str | None) -> list[dict[str, Any]]:
    """A run's `noise` setting as JSON for config.json and the bundle's manifest.

    As `Noise.describe`; the kind is `pairs`, without parameters, for pairs; [] for no noise.
    """
    if spec == PAIRS:
        return [{"kind": PAIRS, "parameters": {}}]
    noise = drawn_noise(spec)
    return noise.describe() if noise else []


def _parse_part(part: str, spec: str) -> Kind:
    name, colon, values = part.partition(":")
    if name not in KINDS:
        received = f"noise {part!r}" if part else f"noise {spec!r}"
        if not part and spec.strip():
            received += " with an empty part"
        expected = f"one of {FORMS}, or several joined with +"
        raise SettingsError(received, expected=expected, hint=EXAMPLE)
    kind = KINDS[name]
    texts = values.split(",") if colon else []
    count = kind.form().count(",") + 1
    if colon and len(texts) != count:
        raise SettingsError(
            f"noise {part!r} with {len(texts)} number{'s' * (len(texts) != 1)}",
            expected=f"{kind.form()}, {count} number{'s' * (count != 1)}",
            hint=EXAMPLE,
        )
    return kind(*(Range.parse(text) for text in texts))
