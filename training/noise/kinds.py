"""The kinds of noise, in plain numpy. A new kind is a class here and a place in `ALL`.

Each kind is a frozen dataclass whose fields are the numbers of its spec, in that order. With
`x` a value of the clean image, all return new float32 (N, H, W, C), clipped to [0, 1]. A number
that is a range is drawn anew for each image: first all numbers in the order of the spec, then the
values; a fixed number draws nothing from the generator.

Sources: R. C. Gonzalez and R. E. Woods, Digital Image Processing, 4th ed., 2018, sections 5.2
(additive Gaussian, salt and pepper) and 3.5 (Gaussian filter); J. W. Goodman, "Some fundamental
properties of speckle", J. Opt. Soc. Am. 66, 1976 (multiplicative); A. Foi et al., "Practical
Poissonian-Gaussian noise modeling and fitting for single-image raw-data", IEEE Trans. Image
Processing 17, 2008 (shot noise); P. Vincent et al., "Extracting and composing robust features
with denoising autoencoders", ICML 2008 (masking).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from common.arrays import Floats
from training.errors import SettingsError
from training.noise.ranges import EXAMPLE, Limits, Range

MAX_NUMBER = 1e6  # far more than changes an image, far less than float32 holds


def number(default: float, *, minimum: float, maximum: float = MAX_NUMBER, power: float = 1) -> Any:
    """A field for one number of a spec."""
    limits = Limits(minimum, maximum, power)
    return field(default=Range(default, default), metadata={"limits": limits})


@dataclass(frozen=True)
class Kind(ABC):
    """What all kinds share: checked numbers, strength, spec and description."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for name, numbers, limits in self._numbers():
            if not limits.hold(numbers):
                raise SettingsError(
                    f"noise '{self}', whose {name} is {numbers}",
                    expected=f"a {name} from {limits.minimum:.7g} to {limits.maximum:.7g}",
                    hint=EXAMPLE,
                )

    def apply(self, images: Floats, rng: np.random.Generator) -> Floats:
        """Corrupt float32 (N, H, W, C) in [0, 1]; returns a new array of the same kind."""
        drawn = [numbers.draw(rng, len(images)) for _, numbers, _ in self._numbers()]
        noisy = self._corrupt(images, drawn, rng)
        return np.clip(noisy, 0.0, 1.0, out=noisy)

    @abstractmethod
    def _corrupt(self, images: Floats, drawn: list[Floats], rng: np.random.Generator) -> Floats:
        """A new array, not yet clipped; `drawn` are the numbers, as from `Range.draw`."""

    def at(self, level: float) -> Self:
        """One fixed strength, for a curve: `level` times the strong ends of all ranges.

        Standard deviations, probabilities and the blur's sigma are multiplied; Poisson's peak is
        divided by level², since its deviation is proportional to 1 / sqrt(peak); a mean that is a
        range goes from its low end at level 0 to its high end at level 1.
        """
        values = (limits.at(numbers, level) for _, numbers, limits in self._numbers())
        return type(self)(*(Range(value, value) for value in values))

    def describe(self) -> list[dict[str, Any]]:
        """As JSON: one entry, `{"kind": …, "parameters": {name: [low, high]}}`."""
        ranges = {name: [numbers.low, numbers.high] for name, numbers, _ in self._numbers()}
        return [{"kind": self.name, "parameters": ranges}]

    @classmethod
    def form(cls) -> str:
        """How its spec is written, such as `gaussian:MEAN,STD`."""
        return f"{cls.name}:{','.join(part.name.upper() for part in fields(cls))}"

    def __str__(self) -> str:
        return f"{self.name}:{','.join(str(numbers) for _, numbers, _ in self._numbers())}"

    def _numbers(self) -> Iterator[tuple[str, Range, Limits]]:
        for part in fields(self):
            yield part.name, getattr(self, part.name), part.metadata["limits"]


@dataclass(frozen=True)
class GaussianNoise(Kind):
    """x + N(mean, std²), independent for every value.

    The default is N(0.5, 0.5²), of the preset `classic`: its mean lifts black to grey.
    """

    name = "gaussian"
    mean: Range = number(0.5, minimum=-MAX_NUMBER, power=0)
    std: Range = number(0.5, minimum=0)

    def _corrupt(self, images: Floats, drawn: list[Floats], rng: np.random.Generator) -> Floats:
        mean, std = drawn
        noisy = rng.standard_normal(images.shape, dtype=np.float32)
        noisy *= std
        noisy += mean
        noisy += images
        return noisy


@dataclass(frozen=True)
class SaltPepperNoise(Kind):
    """Each value becomes 0 with probability p / 2 and 1 with probability p / 2."""

    name = "salt-pepper"
    p: Range = number(0.1, minimum=0, maximum=1)

    def _corrupt(self, images: Floats, drawn: list[Floats], rng: np.random.Generator) -> Floats:
        (p,) = drawn
        uniform = rng.random(images.shape, dtype=np.float32)
        salted = np.where(uniform < p, np.float32(1), images)
        return np.where(uniform < p / 2, np.float32(0), salted)


@dataclass(frozen=True)
class SpeckleNoise(Kind):
    """x + x · N(0, std²), independent for every value: black stays black."""

    name = "speckle"
    std: Range = number(0.5, minimum=0)

    def _corrupt(self, images: Floats, drawn: list[Floats], rng: np.random.Generator) -> Floats:
        (std,) = drawn
        noisy = rng.standard_normal(images.shape, dtype=np.float32)
        noisy *= std
        noisy += 1
        noisy *= images
        return noisy


@dataclass(frozen=True)
class PoissonNoise(Kind):
    """Poisson(x · peak) / peak: a count of photons, `peak` on average where x is 1."""

    name = "poisson"
    peak: Range = number(8.0, minimum=1e-3, power=-2)

    def _corrupt(self, images: Floats, drawn: list[Floats], rng: np.random.Generator) -> Floats:
        (peak,) = drawn
        noisy = rng.poisson(images * peak).astype(np.float32)
        noisy /= peak
        return noisy


@dataclass(frozen=True)
class MaskNoise(Kind):
    """Each pixel becomes 0, in all its channels, with probability p."""

    name = "mask"
    p: Range = number(0.5, minimum=0, maximum=1)

    def _corrupt(self, images: Floats, drawn: list[Floats], rng: np.random.Generator) -> Floats:
        (p,) = drawn
        kept = rng.random((*images.shape[:3], 1), dtype=np.float32) >= p
        return images * kept


@dataclass(frozen=True)
class BlurNoise(Kind):
    """A Gaussian filter of `sigma` pixels over height and width, edges mirrored."""

    name = "blur"
    sigma: Range = number(1.0, minimum=0, maximum=100)

    def _corrupt(self, images: Floats, drawn: list[Floats], rng: np.random.Generator) -> Floats:
        from scipy.ndimage import gaussian_filter  # slow to import

        (sigma,) = drawn
        blurred = np.empty_like(images)
        if sigma.ndim == 0:
            gaussian_filter(images, float(sigma), axes=(1, 2), output=blurred)
        else:
            for image, width, place in zip(images, sigma.ravel(), blurred, strict=True):
                gaussian_filter(image, float(width), axes=(0, 1), output=place)
        return blurred


ALL = (GaussianNoise, SaltPepperNoise, SpeckleNoise, PoissonNoise, MaskNoise, BlurNoise)
KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in ALL}
