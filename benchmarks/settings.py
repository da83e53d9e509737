"""What one benchmark run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from benchmarks.harness import SETTLE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one run; the numbers of images and rounds follow from `quick`.

    Attributes:
        bundle: whose network (image shape, filters, latent size) is measured. Where it does not
            exist, the preset's default network for 28×28×1 images.
        served: the bundle whose answers are judged, not its speed.
        run: a run folder whose weights every runtime gets; None for a network of the bundle's
            shape, trained for a moment on the embedded digits.
        image_shape: (H, W, C) of that network, instead of the bundle's; results then go to a
            folder of that name below `out`.
        dataset: images that a model's answers are judged by, as `training` names them; None skips
            the sections that need some.
        out: folder of JSON and pictures.
        quick: a few seconds and small numbers, to see that everything works.
        seed: of weights and images.
    """

    bundle: Path
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
    def large(self) -> bool:
        """Whether images are several times MNIST's size, so that fewer of them must do."""
        return self.image_shape is not None and prod(self.image_shape) > 4 * 28 * 28

    @property
    def images(self) -> int:
        """Images in the headline comparison."""
        if self.quick:
            return 256
        return 1_000 if self.large else 10_000

    @property
    def rounds(self) -> int:
        """Rounds of the headline comparison."""
        if self.quick:
            return 2
        return 5 if self.large else 11

    @property
    def sweep_rounds(self) -> int:
        """Rounds of the sweep over batch sizes, where many candidates share the time."""
        return 2 if self.quick else 3

    @property
    def sweep_images(self) -> int:
        """Images in one timing of the sweep, for batches that are no larger."""
        if self.quick:
            return 64
        return 256 if self.large else 1_024

    @property
    def wire_rounds(self) -> int:
        """Rounds of the comparison over HTTP."""
        return 1 if self.quick else 4

    @property
    def settle(self) -> float:
        """Seconds of quiet before each timed call."""
        return 0.0 if self.quick else SETTLE

    @property
    def gemm_flops(self) -> float:
        """FLOPs in one timing of one matrix product."""
        return 5e7 if self.quick else 4e9

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes of the sweep."""
        if self.quick:
            return (1, 32)
        return (1, 4, 16, 64, 256) if self.large else (1, 4, 16, 64, 256, 1024)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images in one call, for the growth of time and memory."""
        if self.quick:
            return (1, 100, 1_000)
        if self.large:
            return (1, 10, 100, 1_000, 10_000)
        return (1, 10, 100, 1_000, 10_000, 100_000, 200_000, 1_000_000)

    @property
    def epochs(self) -> int:
        """Epochs on the embedded digits, where no run is given: enough to judge int8 by."""
        return 1 if self.quick else 12
