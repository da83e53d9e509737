"""The settings of one benchmark run, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from benchmarks.harness import SETTLE


@dataclass(frozen=True)
class Sizes:
    """Amounts of work.

    Attributes:
        images: in the headline comparison.
        rounds: of the headline comparison.
        sweep_images: in one timing of the sweep over batch sizes, for batches that are no larger.
        sweep_rounds: of the sweep, where many candidates share the time.
        batches: batch sizes of the sweep.
        calls: images in one call, for the growth of time and memory.
        wire_rounds: of the comparison over HTTP.
        gemm_flops: in one timing of one matrix product.
        settle: seconds of quiet before each timed call.
        epochs: on the embedded digits, where no run is given; enough to measure int8's loss.
    """

    images: int = 10_000
    rounds: int = 11
    sweep_images: int = 1_024
    sweep_rounds: int = 3
    batches: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    calls: tuple[int, ...] = (1, 10, 100, 1_000, 10_000, 100_000, 200_000, 1_000_000)
    wire_rounds: int = 4
    gemm_flops: float = 4e9
    settle: float = SETTLE
    epochs: int = 12


FULL = Sizes()
LARGE_IMAGES = Sizes(
    images=1_000,
    rounds=5,
    sweep_images=256,
    batches=(1, 4, 16, 64, 256),
    calls=(1, 10, 100, 1_000, 10_000),
)
QUICK = Sizes(256, 2, 64, 2, (1, 32), (1, 100, 1_000), 1, 5e7, 0.0, 1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one run; the amounts of work follow from `quick` and `image_shape`.

    Attributes:
        bundle: its network (image shape, filters, latent size) is measured, not its weights. Where
            it does not exist: the preset's default network for 28×28×1 images.
        served: the bundle whose output quality is measured.
        run: a run folder whose weights every runtime gets; None for a network of the bundle's
            shape, trained briefly on the embedded digits.
        image_shape: (H, W, C) of that network, instead of the bundle's; results then go to a
            folder of that name below `out`.
        dataset: test images, as `training` names them; None skips the sections that need them.
        out: folder of JSON and pictures.
        quick: a few seconds and small numbers, to see that everything works.
        seed: of weights and images.
    """

    bundle: Path = Path("bundles/classic")
    served: Path = Path("bundles/mnist")
    run: Path | None = None
    image_shape: tuple[int, int, int] | None = None
    dataset: str | None = None
    out: Path = Path("benchmarks/results")
    quick: bool = False
    seed: int = 0

    @property
    def results(self) -> Path:
        """Folder of this run's JSON and pictures."""
        return self.out / "x".join(map(str, self.image_shape)) if self.image_shape else self.out

    @property
    def sizes(self) -> Sizes:
        """The amounts of work."""
        if self.quick:
            return QUICK
        large = self.image_shape is not None and prod(self.image_shape) > 4 * 28 * 28
        return LARGE_IMAGES if large else FULL

    @property
    def settle(self) -> float:
        """Seconds of quiet before each timed call."""
        return self.sizes.settle
