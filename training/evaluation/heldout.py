"""Held-out images under noise that is the same every time: what models are measured on.

`add_noise` draws the noise of a part of the images from a seed of its own and that part's place, so
that a run measured today, next year or beside other runs sees the same noisy images. Comparisons
can therefore be paired, image by image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import to_floats
from training.batches import Pair
from training.data.datasets import Dataset, load_dataset
from training.errors import DatasetError, RunError
from training.evaluation.metrics import CHUNK
from training.noise.spec import PAIRS, Noise, drawn_noise, parse_noise
from training.runs import Run, Samples

EVALUATION_SEED = 20_000  # one for all runs, so that they can be compared
SAMPLES = 1024
MAX_BYTES = 64 << 20  # as float32; of large images there are fewer
TRAIN, VALIDATION = 1, 2  # each a stream of its own, beside the test images'


def add_noise(
    images: NDArray[np.uint8],
    noise: Noise | None,
    *,
    key: int | Sequence[int],
    noisy: NDArray[Any] | None = None,
) -> Pair:
    """Clean and noisy float32 (N, H, W, C) in [0, 1]; `key` says which part of a set this is.

    Without noise to draw, the noisy ones are `noisy`, uint8 like the images or float32 in [0, 1],
    or else the clean ones.
    """
    clean = to_floats(images)
    if noise is None:
        if noisy is None:
            return clean, clean
        return clean, noisy if noisy.dtype == np.float32 else to_floats(noisy)
    keys = [key] if isinstance(key, int) else [*key]
    return clean, noise.apply(clean, np.random.default_rng([EVALUATION_SEED, *keys]))


def draw_samples(dataset: Dataset, noise: Noise | None) -> tuple[Samples, NDArray[np.int64] | None]:
    """Up to 1,024 pairs from all over the test split, and their labels, int64 (N,) or None."""
    fitting = max(1, MAX_BYTES // (4 * math.prod(dataset.image_shape)))
    count = min(SAMPLES, fitting, len(dataset.test))
    rng = np.random.default_rng(EVALUATION_SEED)
    chosen = np.sort(rng.choice(len(dataset.test), count, replace=False))
    labels = None if dataset.test_labels is None else dataset.test_labels[chosen]
    noisy = None if dataset.test_noisy is None else dataset.test_noisy[chosen]
    pairs = add_noise(dataset.test[chosen], noise, key=len(dataset.test), noisy=noisy)
    return Samples(*pairs), labels


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The images that runs are measured on, and their noise.

    `images` are uint8 (N, H, W, C). Where `noisy` is there, uint8 or float32 in [0, 1] of the same
    shape, the noisy images are given; else `noise` is drawn. `dataset` is None where all that is
    known are the pairs that a run kept in its samples.npz.
    """

    source: str  # where the images are from, for a person
    spec: str | None  # the noise: a spec, "pairs" for given noisy images, None for clean ones
    noise: Noise | None
    images: NDArray[np.uint8]
    noisy: NDArray[Any] | None = None
    labels: NDArray[np.int64] | None = None
    dataset: Dataset | None = None
    key: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def chunks(self, noise: Noise | None = None) -> Iterator[Pair]:
        """All pairs, clean and noisy, a thousand at a time; under another noise if one is named."""
        for start in range(0, len(self), CHUNK):
            yield self._chunk(start, noise)

    def pairs(self, indices: Sequence[int]) -> Pair:
        """Some of the pairs, exactly as `chunks` gives them, in the order of the indices."""
        made = {start: self._chunk(start, None) for start in {k - k % CHUNK for k in indices}}
        both = [tuple(side[k % CHUNK] for side in made[k - k % CHUNK]) for k in indices]
        clean, noisy = (np.stack(side) for side in zip(*both, strict=True))
        return clean, noisy

    def training_chunks(self, indices: NDArray[np.int64]) -> Iterator[Pair]:
        """Some of the dataset's training images under this noise, a thousand pairs at a time."""
        assert self.dataset is not None
        own = self.dataset.train_noisy if self.spec == PAIRS else None
        for start in range(0, len(indices), CHUNK):
            part = indices[start : start + CHUNK]
            noisy = None if own is None else own[part]
            yield add_noise(
                self.dataset.train[part], self.noise, key=(start, 0, TRAIN), noisy=noisy
            )

    def validation_pairs(self, count: int) -> Pair:
        """The first `count` of the dataset's validation images under this noise."""
        assert self.dataset is not None
        own = self.dataset.validation_noisy if self.spec == PAIRS else None
        return add_noise(
            self.dataset.validation[:count],
            self.noise,
            key=(0, 0, VALIDATION),
            noisy=None if own is None else own[:count],
        )

    def _chunk(self, start: int, noise: Noise | None) -> Pair:
        part = slice(start, start + CHUNK)
        given = noise is None and self.noisy is not None
        return add_noise(
            self.images[part],
            None if given else noise or self.noise,
            key=self.key + start,
            noisy=self.noisy[part] if given and self.noisy is not None else None,
        )


def hold_out(
    runs: Sequence[Run], *, noise: str | None = None, dataset: str | None = None
) -> HeldOut:
    """What to measure these runs on: one set of images and one noise for all of them.

    `dataset`'s test split if it is given, else the runs' own, which must be the same. A run that
    was trained on a file or a folder knows only its name: without `dataset` the pairs of the first
    run's samples.npz are taken. Without `noise` it is that of a dataset of pairs, or else the first
    run's.
    """
    first = runs[0]
    shape = tuple(first.config["data"]["image_shape"])
    for run in runs[1:]:
        _require_alike(first, run, also_images=dataset is None)
    spec = noise if noise is not None else first.config["settings"]["noise"]
    kind = parse_noise(noise) if noise is not None else drawn_noise(spec)
    if dataset is None and first.config["data"]["source"] != "builtin":
        return _from_samples(first, kind, spec, given=noise is None)
    resize = first.config["settings"]["resize"]
    data = load_dataset(
        dataset or first.config["data"]["name"], resize=tuple(resize) if resize else None
    )
    if data.image_shape != shape:
        raise DatasetError(
            f"images of the shape {data.image_shape} from {data.name}",
            expected=f"{shape}, as the run was trained with",
            hint="Pass another --dataset.",
        )
    if noise is None and data.test_noisy is not None:
        spec, kind = PAIRS, None
    elif noise is None and spec == PAIRS:
        raise DatasetError(
            f"the dataset {data.name} without noisy images, for a run trained on pairs",
            expected="pairs of clean and noisy images, or a noise to draw",
            hint="Pass another --dataset, or for example --noise gaussian:0.5,0.5.",
        )
    return HeldOut(
        source=f"the test split of {data.name}",
        spec=spec,
        noise=kind,
        images=data.test,
        noisy=data.test_noisy if spec == PAIRS else None,
        labels=data.test_labels,
        dataset=data,
    )


def _from_samples(run: Run, kind: Noise | None, spec: str | None, *, given: bool) -> HeldOut:
    """The pairs that the run kept; other noise is drawn with the key that theirs was drawn with."""
    clean, noisy = run.samples()
    return HeldOut(
        source=f"samples.npz, from the test split of {run.config['data']['name']}",
        spec=spec,
        noise=kind,
        images=np.rint(clean * 255).astype(np.uint8),  # exact: they were uint8
        noisy=noisy if given and spec is not None else None,
        key=run.config["data"]["counts"]["test"],
    )


def _require_alike(first: Run, other: Run, *, also_images: bool) -> None:
    """Refuse to compare runs on images that do not suit both."""
    one, two = (run.config["data"] for run in (first, other))
    if one["image_shape"] != two["image_shape"]:
        raise RunError(
            f"{other.path} for images {tuple(two['image_shape'])} beside {first.path} for images "
            f"{tuple(one['image_shape'])}",
            expected="runs with one image shape",
            hint="Compare others.",
        )
    if also_images and one["sha256"]["test"] != two["sha256"]["test"]:
        raise RunError(
            f"{other.path} trained on {two['name']} beside {first.path} trained on {one['name']}",
            expected="runs with the same test images",
            hint="Name the images to measure both on with --dataset.",
        )
