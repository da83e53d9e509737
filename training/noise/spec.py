"""Noise that corrupts clean images: from its spec to what can be applied.

A spec is one kind with its numbers, `gaussian:0.5,0.5`, or several joined with `+`, each applied
to what the one before it left: `gaussian:0.5,0.5+salt-pepper:0.1`. Any number may be a range that
each image draws its own from: `gaussian:0..0.5,0..0.7`. What the kinds do is in `noises`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np

from common.arrays import Floats
from training.errors import SettingsError
from training.noise.kinds import KINDS
from training.noise.ranges import EXAMPLE, Range

DEFAULT_NOISE = "gaussian:0.5,0.5"
PAIRS = "pairs"  # stands where a spec would, in a run whose data have noise of their own
FORMS = ", ".join(kind.form() for kind in KINDS.values())
HELP = (
    f"one of {FORMS}; several are joined with + and applied in turn; a number may be a range "
    "LOW..HIGH, drawn anew for each image"
)
JOINT = re.compile(r"(?<![0-9.][eE])\+")  # a plus, but not that of 1e+16


class Noise(Protocol):
    """What every noise can do; `str(noise)` is a spec that `parse_noise` reads as an equal one."""

    def apply(self, images: Floats, rng: np.random.Generator) -> Floats:
        """Add noise to float32 (N, H, W, C) in [0, 1]; a new array of the same kind comes back."""
        ...

    def scaled(self, factor: float) -> Noise:
        """The same noise, weaker (factor < 1) or stronger (factor > 1); ranges stay ranges."""
        ...

    def at(self, level: float) -> Noise:
        """One fixed strength: 1 is the strongest that this noise draws, 0 leaves the least."""
        ...

    def describe(self) -> list[dict[str, Any]]:
        """As JSON, in the order of application: kind and ranges, `[low, high]` by name."""
        ...


@dataclass(frozen=True)
class Blend:
    """Several noises, each applied to what the one before it left."""

    parts: tuple[Noise, ...]

    def apply(self, images: Floats, rng: np.random.Generator) -> Floats:
        """Add noise to float32 (N, H, W, C) in [0, 1]; the input is left as it is."""
        for part in self.parts:
            images = part.apply(images, rng)
        return images

    def scaled(self, factor: float) -> Blend:
        """Every part scaled."""
        return Blend(tuple(part.scaled(factor) for part in self.parts))

    def at(self, level: float) -> Blend:
        """Every part at that level."""
        return Blend(tuple(part.at(level) for part in self.parts))

    def describe(self) -> list[dict[str, Any]]:
        """One entry for each part."""
        return list(chain.from_iterable(part.describe() for part in self.parts))

    def __str__(self) -> str:
        return "+".join(str(part) for part in self.parts)


def parse_noise(spec: str) -> Noise:
    """The noise that a spec names; a kind without numbers takes its usual ones.

    A kind that is unknown, numbers too few, too many or out of their limits, and a part that is
    empty are SettingsErrors.
    """
    parts = [_parse_part(part.strip(), spec) for part in JOINT.split(spec)]
    return parts[0] if len(parts) == 1 else Blend(tuple(parts))


def drawn_noise(spec: str | None) -> Noise | None:
    """The noise to draw for what a run's settings say; None where its data are to be as given."""
    return None if spec is None or spec == PAIRS else parse_noise(spec)


def described(spec: str | None) -> list[dict[str, Any]]:
    """What a run's settings say of its noise, as JSON for config.json and the bundle's manifest.

    One entry for each kind, `{"kind": "gaussian", "parameters": {"mean": [0.5, 0.5], …}}`; the
    kind is `pairs`, without parameters, where the data have noise of their own; [] for none.
    """
    if spec == PAIRS:
        return [{"kind": PAIRS, "parameters": {}}]
    noise = drawn_noise(spec)
    return noise.describe() if noise else []


def _parse_part(part: str, spec: str) -> Noise:
    name, colon, values = part.partition(":")
    if not part:
        raise SettingsError(
            f"noise {spec!r}" + " with an empty part" * bool(spec.strip()),
            expected=f"one of {FORMS}, or several joined with +",
            hint=EXAMPLE,
        )
    if name not in KINDS:
        raise SettingsError(f"noise {part!r}", expected=f"one of {FORMS}", hint=EXAMPLE)
    kind = KINDS[name]
    texts = values.split(",") if colon else []
    wanted = kind.form().count(",") + 1
    if colon and len(texts) != wanted:
        raise SettingsError(
            f"noise {part!r} with {len(texts)} number{'s' * (len(texts) != 1)}",
            expected=f"{kind.form()}, {wanted} number{'s' * (wanted != 1)}",
            hint=EXAMPLE,
        )
    return kind(*(Range.parse(text) for text in texts))
