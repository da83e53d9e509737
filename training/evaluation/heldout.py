"""Held-out images under noise that is the same every time, on which models are measured.

`add_noise` draws the noise of a part of the images from a fixed seed and that part's place: a run
sees the same noisy images whenever and beside whichever runs it is measured. So comparisons can be
paired, image by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from common.arrays import Array, Floats, to_bytes, to_floats
from training.batches import Pair
from training.data.arrays import Labels, Part, Rows
from training.data.datasets import Dataset, load_dataset
from training.errors import DatasetError, RunError
from training.evaluation.metrics import chunk_size
from training.noise.spec import PAIRS, Noise, drawn_noise, parse_noise
from training.runs import Run, Samples

Images = Rows | Array
EVALUATION_SEED = 20_000  # one for all runs
MAX_SAMPLES = 1024
VALIDATION_BATCH = 128
TRAIN, VALIDATION = 1, 2  # random streams of their own, beside the test images'


def add_noise(
    images: Images, noise: Noise | None, *, key: int | Sequence[int], noisy: Images | None = None
) -> Pair:
    """Clean and noisy float32 (N, H, W, C) in [0, 1]; `key` identifies this part of the images.

    Without noise to draw, the noisy ones are `noisy`, uint8 like the images or float32 in [0, 1],
    or else the clean ones.
    """
    clean = _floats(images)
    if noise is None:
        return clean, clean if noisy is None else _floats(noisy)
    keys = [key] if isinstance(key, int) else [*key]
    return clean, noise.apply(clean, np.random.default_rng([EVALUATION_SEED, *keys]))


def _floats(images: Images) -> Floats:
    read: Array = images[:]
    return read if read.dtype == np.float32 else to_floats(read)


def draw_samples(dataset: Dataset, noise: Noise | None) -> tuple[Samples, Labels | None]:
    """Up to 1,024 random pairs of the test split, and their labels, int64 (N,) or None."""
    rng = np.random.default_rng(EVALUATION_SEED)
    chosen = dataset.test.sample(MAX_SAMPLES, rng, itemsize=4)  # they become float32
    pairs = add_noise(chosen.images, noise, key=len(dataset.test.images), noisy=chosen.noisy)
    return Samples(*pairs), chosen.labels


class ValidationBatches(keras.utils.PyDataset):
    """(input, target) batches of a split, float32 (B, H, W, C), with the same noise every time."""

    def __init__(self, part: Part, noise: Noise | None) -> None:
        super().__init__()
        self.part, self.noise = part, noise

    def __len__(self) -> int:
        return -(-len(self.part.images) // VALIDATION_BATCH)

    def __getitem__(self, index: int) -> Pair:
        start = index * VALIDATION_BATCH
        rows = slice(start, start + VALIDATION_BATCH)
        own = None if self.part.noisy is None else self.part.noisy[rows]
        clean, noisy = add_noise(self.part.images[rows], self.noise, key=start, noisy=own)
        return noisy, clean


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The images on which runs are measured, and their noise.

    `images` are uint8 (N, H, W, C). `noisy`, uint8 or float32 in [0, 1] of the same shape, are
    their own noisy images; without them `noise` is drawn. `dataset` is None for the pairs of a
    run's samples.npz.
    """

    source: str  # a description of the images, for messages
    spec: str | None  # the noise: a spec, "pairs" for own noisy images, None for clean ones
    noise: Noise | None
    images: Images
    noisy: Images | None = None
    labels: Labels | None = None
    dataset: Dataset | None = None
    key: int = 0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def _step(self) -> int:
        return chunk_size(self.images.shape)

    def chunks(self, noise: Noise | None = None) -> Iterator[Pair]:
        """All pairs, clean and noisy, chunk by chunk; under `noise`, or else their own."""
        for start in range(0, len(self), self._step):
            yield self._chunk(start, noise)

    def pairs(self, indices: Sequence[int]) -> Pair:
        """The pairs at `indices`, exactly as `chunks` has them."""
        step = self._step
        chunks = {start: self._chunk(start) for start in {k - k % step for k in indices}}
        both = [tuple(side[k % step] for side in chunks[k - k % step]) for k in indices]
        clean, noisy = (np.stack(side) for side in zip(*both, strict=True))
        return clean, noisy

    def training_chunks(self, indices: NDArray[np.int64]) -> Iterator[Pair]:
        """The dataset's training images at `indices` under this noise, chunk by chunk."""
        assert self.dataset is not None
        for start in range(0, len(indices), self._step):
            part = self.dataset.train.take(indices[start : start + self._step])
            yield self._under_this_noise(part, (start, 0, TRAIN))

    def validation_pairs(self, count: int) -> Pair:
        """The first `count` of the dataset's validation images under this noise."""
        assert self.dataset is not None
        count = min(count, len(self.dataset.validation.images))
        part = self.dataset.validation.take(np.arange(count))
        return self._under_this_noise(part, (0, 0, VALIDATION))

    def _under_this_noise(self, part: Part, key: tuple[int, ...]) -> Pair:
        noisy = part.noisy if self.spec == PAIRS else None
        return add_noise(part.images, self.noise, key=key, noisy=noisy)

    def _chunk(self, start: int, noise: Noise | None = None) -> Pair:
        part, key = slice(start, start + self._step), self.key + start
        if noise is None and self.noisy is not None:
            return add_noise(self.images[part], None, key=key, noisy=self.noisy[part])
        return add_noise(self.images[part], noise or self.noise, key=key)


def hold_out(
    runs: Sequence[Run], *, noise: str | None = None, dataset: str | None = None
) -> HeldOut:
    """The images and the noise for measuring these runs, one set for all of them.

    The images are `dataset`'s test split, or else the runs' own, which must be the same. A run
    that was trained on a file or a folder keeps only its name: without `dataset` it is measured on
    the pairs of the first run's samples.npz. Without `noise` it is that of a dataset of pairs, or
    else the first run's.
    """
    first = runs[0]
    shape = tuple(first.config["data"]["image_shape"])
    for run in runs[1:]:
        _require_comparable(first, run, also_images=dataset is None)
    spec = noise if noise is not None else first.config["settings"]["noise"]
    drawn = parse_noise(noise) if noise is not None else drawn_noise(spec)
    if dataset is None and first.config["data"]["source"] != "builtin":
        clean, own = first.samples()
        return HeldOut(
            source=f"samples.npz, from the test split of {first.config['data']['name']}",
            spec=spec,
            noise=drawn,
            images=to_bytes(clean),  # exact: they were uint8
            noisy=own if noise is None and spec is not None else None,
            key=first.config["data"]["counts"]["test"],  # as in `draw_samples`
        )
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
    if noise is None and data.test.noisy is not None:
        spec, drawn = PAIRS, None
    elif noise is None and spec == PAIRS:
        raise DatasetError(
            f"the dataset {data.name} without noisy images, for a run trained on pairs",
            expected="pairs of clean and noisy images, or a noise to draw",
            hint="Pass another --dataset, or for example --noise gaussian:0.5,0.5.",
        )
    return HeldOut(
        source=f"the test split of {data.name}",
        spec=spec,
        noise=drawn,
        images=data.test.images,
        noisy=data.test.noisy if spec == PAIRS else None,
        labels=data.test.labels,
        dataset=data,
    )


def _require_comparable(first: Run, other: Run, *, also_images: bool) -> None:
    """Refuse runs that cannot be measured on the same images."""
    one, two = (run.config["data"] for run in (first, other))
    if one["image_shape"] != two["image_shape"]:
        raise RunError(
            f"{other.path} for images {tuple(two['image_shape'])} beside {first.path} for images "
            f"{tuple(one['image_shape'])}",
            expected="runs with one image shape",
        )
    if also_images and one["sha256"]["test"] != two["sha256"]["test"]:
        raise RunError(
            f"{other.path} trained on {two['name']} beside {first.path} trained on {one['name']}",
            expected="runs with the same test images",
            hint="Pass the images to measure both on with --dataset.",
        )
