"""What the latents know: how well the class of an image can be read from its few numbers.

Two classifiers are fitted on the latents of training images and scored on those of the test
images. The 5 nearest neighbours by Euclidean distance, on the latents as they are, say how well a
search among stored latents finds its like. The linear probe, a logistic regression on latents of
mean 0 and deviation 1, says how much can be read with one matrix (G. Alain and Y. Bengio,
"Understanding intermediate layers using linear classifier probes", 2016). Both are scored for
noisy images, which is what the service sees, and for clean ones, which is what the noise costs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from training.batches import Pair
from training.evaluation.heldout import EVALUATION_SEED, HeldOut

Flags = NDArray[np.bool_]

FITTED = 60_000  # training images at most: all of MNIST's, which take 10 s to encode and search
NEIGHBOURS = 5


class Readings(NamedTuple):
    """For each test image, bool (N,): was its class read rightly?"""

    neighbours: Flags
    probe: Flags


class Latents(NamedTuple):
    """What was read from one encoder's latents."""

    fitted: int  # training images that the classifiers were fitted on
    classes: int
    commonest: float  # the share of the commonest class: what guessing gets
    noisy: Readings | None  # None where the runs are measured without noise
    clean: Readings


def encode(encoder: Any, images: Floats) -> Floats:
    """Latents float32 (N, D) of float32 (N, H, W, C) in [0, 1]."""
    codes: Floats = encoder.predict(images, batch_size=256, verbose=0)
    return codes


def why_not(held: HeldOut) -> str | None:
    """Why the latents cannot be judged on these images; None if they can."""
    if held.dataset is None:
        return "training images and labels are not known: name the dataset with --dataset"
    if held.labels is None or held.dataset.train_labels is None:
        return f"{held.dataset.name} has no labels"
    if len(np.unique(held.dataset.train_labels)) < 2:
        return f"all training images of {held.dataset.name} have one label"
    return None


def read_latents(encoder: Any, held: HeldOut) -> Latents:
    """Fit both classifiers on training images, score them on the held-out ones."""
    assert held.dataset is not None and held.labels is not None
    labels = held.dataset.train_labels
    assert labels is not None
    rng = np.random.default_rng(EVALUATION_SEED)
    count = min(FITTED, len(labels))
    chosen = np.sort(rng.choice(len(labels), count, replace=False))
    known = labels[chosen]

    train = _encode_both(encoder, held.training_chunks(chosen))
    test = _encode_both(encoder, held.chunks())
    clean, noisy = (
        _read(fitted, known, scored, held.labels)
        for fitted, scored in zip(train, test, strict=True)
    )
    return Latents(
        fitted=count,
        classes=len(np.unique(known)),
        commonest=float(np.unique(held.labels, return_counts=True)[1].max() / len(held)),
        noisy=noisy if held.spec else None,
        clean=clean,
    )


def _encode_both(encoder: Any, pairs: Iterable[Pair]) -> tuple[Floats, Floats]:
    """The latents of the clean images, and of the noisy ones."""
    codes = [(encode(encoder, clean), encode(encoder, noisy)) for clean, noisy in pairs]
    clean, noisy = (np.concatenate(side) for side in zip(*codes, strict=True))
    return clean, noisy


def _read(
    train: Floats, train_labels: NDArray[np.int64], test: Floats, labels: NDArray[np.int64]
) -> Readings:
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(train))).fit(train, train_labels)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(train, train_labels)
    return Readings(neighbours.predict(test) == labels, probe.predict(test) == labels)
