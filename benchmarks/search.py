"""Section `search`: does a noisy image find its own clean original among 10,000, by its latent?

The index holds one row for each test image, the queries are the same images under fresh noise, the
search is exact. Beside the ways of indexing that a user has, the section measures what bounds them:
the same search by pixels, which have lost nothing but what the noise took, and distances that are
whitened by what noise does to latents, learned from pairs of training images.

It needs data of the kind that the model was trained on: `--dataset path/to/mnist.npz`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks import machine, report
from benchmarks.settings import Settings
from common.arrays import Array
from examples.index import COPIES, index_latents
from service.engine import Engine
from training.data.datasets import load_dataset
from training.noise.spec import Noise, drawn_noise

DEPTHS = (1, 5, 10)


def run(settings: Settings, say: Callable[[str], None]) -> None:
    """Measure every index with the same queries; write search.json."""
    if settings.dataset is None:
        say("search: skipped, it needs --dataset (of the kind that the model was trained on)")
        return
    engine = Engine.load(settings.served)
    trained = engine.manifest.training.get("settings", {})
    noise = drawn_noise(trained.get("noise"))
    if noise is None:
        say(f"search: skipped, {engine.manifest.name} was trained without a noise to draw again")
        return
    dataset = load_dataset(settings.dataset, resize=engine.manifest.image_shape[:2])
    clean, train = dataset.test[: settings.images], dataset.train[: settings.images]
    recall = measure(engine, noise, clean=clean, train=train, seed=settings.seed)
    result = {
        "machine": machine.facts(),
        "model": engine.manifest.name,
        "fingerprint": engine.fingerprint,
        "dataset": dataset.name,
        "noise": str(noise),
        "images": len(clean),
        "recall": {name: dict(zip(map(str, DEPTHS), found, strict=True)) for name, found in recall},
    }
    report.write_json(settings.results / "search.json", result)
    head = [f"noisy query, clean original among {len(clean):,}", *(f"top {k}" for k in DEPTHS)]
    lines = [[name, *(f"{100 * share:.1f} %" for share in found)] for name, found in recall]
    say(f"### Search by a noisy image ({engine.manifest.name}, {noise})\n")
    say(report.table(head, lines))
    say(f"written: {settings.results / 'search.json'}")


def measure(
    engine: Engine, noise: Noise, *, clean: Array, train: Array, seed: int
) -> list[tuple[str, tuple[float, ...]]]:
    """Each way of indexing, and the shares of queries found at each of DEPTHS.

    Args:
        clean: uint8 (N, H, W, C), indexed and, under noise, the queries.
        train: uint8 (M, H, W, C), other images, to learn from what noise does to latents.
        seed: of all noise.
    """
    draws = iter(np.random.SeedSequence(seed).spawn(8))

    def noisy(images: Array) -> Array:
        """A fresh draw of the noise on uint8 images: float32 in [0, 1]."""
        return noise.apply(
            np.divide(images, 255, dtype=np.float32), np.random.default_rng(next(draws))
        )

    seen = noisy(clean)
    queries = engine.encode(seen)
    pair = engine.encode(noisy(train))
    plain = engine.encode(clean)
    several = index_latents(engine, clean, seed=seed)
    found = {
        "clean images": (plain, queries),
        "clean images, whitened": whitened(
            plain, queries, index_pair=engine.encode(train), query_pair=pair
        ),
        "other noisy copies": (engine.encode(noisy(clean)), queries),
        f"means over {COPIES} noisy copies (examples/index.py)": (several, queries),
        "pixels": (_rows(clean) / np.float32(255), _rows(seen)),
        "pixels, correlation": (_normal(_rows(clean)), _normal(_rows(seen))),
    }
    return [(name, recall(index=index, queries=asked)) for name, (index, asked) in found.items()]


def recall(*, index: Array, queries: Array) -> tuple[float, ...]:
    """Share of queries whose own row, that of the same number, is among the nearest DEPTHS.

    index, queries: float (N, D), by Euclidean distance.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import

    search = NearestNeighbors(n_neighbors=max(DEPTHS), algorithm="brute").fit(index)
    nearest = search.kneighbors(queries, return_distance=False)  # (N, 10)
    own = nearest == np.arange(len(queries))[:, None]
    return tuple(float(own[:, :depth].any(axis=1).mean()) for depth in DEPTHS)


def whitened(
    index: Array, queries: Array, *, index_pair: Array, query_pair: Array
) -> tuple[Array, Array]:
    """Index and queries in coordinates where noise moves a latent equally far in all directions.

    From pairs, float32 (M, D) both: the linear map that takes an index latent to the mean of its
    noisy ones, then the inverse root of the covariance of what remains. Euclidean distance there is
    the Mahalanobis distance of a Gaussian model of the noise.
    """
    ones = np.ones((len(index_pair), 1))
    affine, *_ = np.linalg.lstsq(np.hstack([index_pair, ones]), query_pair, rcond=None)
    rest = query_pair - np.hstack([index_pair, ones]) @ affine
    whiten = np.linalg.cholesky(np.linalg.inv(np.cov(rest.T)))
    return np.hstack([index, np.ones((len(index), 1))]) @ affine @ whiten, queries @ whiten


def _rows(images: Array) -> Array:
    """float32 (N, H·W·C)"""
    return images.reshape(len(images), -1).astype(np.float32)


def _normal(rows: Array) -> Array:
    """Each row less its mean and of length 1: Euclidean distance then ranks by correlation."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
