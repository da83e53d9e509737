"""How well the class of an image can be read from its latent.

Two classifiers are fitted on the latents of training images and scored on those of the test
images. The 5 nearest neighbours by Euclidean distance, on the latents as they are, measure a search
among stored latents. The linear probe, a logistic regression on latents of mean 0 and deviation 1,
measures what one matrix can read (G. Alain and Y. Bengio, "Understanding intermediate layers using
linear classifier probes", 2016). Both are scored for noisy images, which the service receives, and
for clean ones, which shows what the noise costs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from training.batches import Pair
from training.data.arrays import Labels
from training.evaluation.heldout import EVALUATION_SEED, HeldOut

Flags = NDArray[np.bool_]

MAX_FITTED = 60_000  # training images: all of MNIST's, which take 10 s to encode and search
NEIGHBOURS = 5


class Accuracy(NamedTuple):
    """For each test image, bool (N,): did the classifier name its class?"""

    neighbours: Flags
    probe: Flags


class Latents(NamedTuple):
    """The classifiers' results on one encoder's latents."""

    fitted: int  # training images that the classifiers were fitted on
    classes: int
    majority: float  # the share of the most frequent class: the accuracy of always guessing it
    noisy: Accuracy | None  # None where the runs are measured without noise
    clean: Accuracy


def encode(encoder: Any, images: Floats) -> Floats:
    """Latents float32 (N, D) of float32 (N, H, W, C) in [0, 1]."""
    latents: Floats = encoder.predict(images, batch_size=256, verbose=0)
    return latents


def why_not(held: HeldOut) -> str | None:
    """Why latents cannot be classified on these images; None if they can."""
    if held.dataset is None:
        return "training images and labels are not known; pass the dataset with --dataset"
    if held.labels is None or held.dataset.train.labels is None:
        return f"{held.dataset.name} has no labels"
    if len(np.unique(held.dataset.train.labels)) < 2:
        return f"all training images of {held.dataset.name} have one label"
    return None


def classify_latents(encoder: Any, held: HeldOut) -> Latents:
    """Fit both classifiers on training images, score them on the held-out ones."""
    assert held.dataset is not None and held.labels is not None
    labels = held.dataset.train.labels
    assert labels is not None
    rng = np.random.default_rng(EVALUATION_SEED)
    count = min(MAX_FITTED, len(labels))
    chosen = np.sort(rng.choice(len(labels), count, replace=False))
    known = labels[chosen]

    train = _encode_both(encoder, held.training_chunks(chosen))
    test = _encode_both(encoder, held.chunks())
    clean, noisy = (
        _score(fitted, known, scored, held.labels)
        for fitted, scored in zip(train, test, strict=True)
    )
    return Latents(
        fitted=count,
        classes=len(np.unique(known)),
        majority=float(np.unique(held.labels, return_counts=True)[1].max() / len(held)),
        noisy=noisy if held.spec else None,
        clean=clean,
    )


def _encode_both(encoder: Any, pairs: Iterable[Pair]) -> tuple[Floats, Floats]:
    """The latents of the clean images, and of the noisy ones."""
    latents = [(encode(encoder, clean), encode(encoder, noisy)) for clean, noisy in pairs]
    clean, noisy = (np.concatenate(side) for side in zip(*latents, strict=True))
    return clean, noisy


def _score(train: Floats, train_labels: Labels, test: Floats, labels: Labels) -> Accuracy:
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(train))).fit(train, train_labels)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(train, train_labels)
    return Accuracy(neighbours.predict(test) == labels, probe.predict(test) == labels)
