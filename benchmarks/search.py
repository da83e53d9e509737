"""Section `search`: does a noisy image find its own clean original among 10,000, by its latent?

The index has one row per test image, the queries are the same images with fresh noise, the search
is exact. Beside the ways of indexing that a user has, two bounds are measured: the same search by
pixels, and by latents whitened by the effect of noise, which is learned from pairs of training
images.

It needs data of the kind that the model was trained on: `--dataset path/to/mnist.npz`.
"""

from __future__ import annotations

import numpy as np

from benchmarks import machine, report
from benchmarks.settings import Settings
from common.arrays import Array, Bytes, Floats, to_floats
from examples.index import COPIES, index_latents
from service.engine import Engine
from training.data.datasets import load_dataset
from training.noise.spec import Noise, drawn_noise

DEPTHS = (1, 5, 10)


def run(settings: Settings) -> None:
    """Measure every index with the same queries; write search.json."""
    if settings.dataset is None:
        print("search: skipped, it needs --dataset (of the kind that the model was trained on)")
        return
    engine = Engine.load(settings.served)
    noise = drawn_noise(engine.manifest.training.get("settings", {}).get("noise"))
    if noise is None:
        print(f"search: skipped, {engine.manifest.name} was trained without drawn noise")
        return
    dataset = load_dataset(settings.dataset, resize=engine.manifest.image_shape[:2])
    count = settings.sizes.images
    clean, train = dataset.test.images[:count], dataset.train.images[:count]
    results = measure(engine, noise, clean=clean, train=train, seed=settings.seed)
    head = [f"noisy query, clean original among {len(clean):,}", *(f"top {k}" for k in DEPTHS)]
    lines = [[name, *(f"{100 * share:.1f} %" for share in shares)] for name, shares in results]
    print(f"### Search by a noisy image ({engine.manifest.name}, {noise})\n")
    print(report.table(head, lines))
    depths = [*map(str, DEPTHS)]
    result = {
        "machine": machine.facts(),
        "model": engine.manifest.name,
        "fingerprint": engine.fingerprint,
        "dataset": dataset.name,
        "noise": str(noise),
        "images": len(clean),
        "recall": {name: dict(zip(depths, shares, strict=True)) for name, shares in results},
    }
    report.write_json(settings.results / "search.json", result)


def measure(
    engine: Engine, noise: Noise, *, clean: Bytes, train: Bytes, seed: int
) -> list[tuple[str, tuple[float, ...]]]:
    """Each way of indexing, and its recall at each of DEPTHS.

    Args:
        engine: makes the latents.
        noise: as in training.
        clean: uint8 (N, H, W, C) in 0..255: the index, and with noise the queries.
        train: uint8 (M, H, W, C): other images, for the effect of noise on latents.
        seed: of all noise.
    """
    seeds = iter(np.random.SeedSequence(seed).spawn(8))

    def noisy(images: Bytes) -> Floats:
        """A fresh draw of the noise: float32 in [0, 1]."""
        return noise.apply(to_floats(images), np.random.default_rng(next(seeds)))

    noisy_clean = noisy(clean)
    queries = engine.encode(noisy_clean)
    pair = engine.encode(noisy(train))
    plain = engine.encode(clean)
    means = index_latents(engine, clean, seed=seed)
    indexes = {
        "clean images": (plain, queries),
        "clean images, whitened": whitened(
            plain, queries, index_pair=engine.encode(train), query_pair=pair
        ),
        "other noisy copies": (engine.encode(noisy(clean)), queries),
        f"means over {COPIES} noisy copies (examples/index.py)": (means, queries),
        "pixels": (_rows(clean) / np.float32(255), _rows(noisy_clean)),
        "pixels, correlation": (_normalised(_rows(clean)), _normalised(_rows(noisy_clean))),
    }
    return [(name, recall(index=index, queries=rows)) for name, (index, rows) in indexes.items()]


def recall(*, index: Array, queries: Array) -> tuple[float, ...]:
    """Share of queries whose own row, the one of the same number, is among the nearest DEPTHS.

    Args:
        index: float (N, D).
        queries: float (N, D); the distance is Euclidean.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import

    search = NearestNeighbors(n_neighbors=max(DEPTHS), algorithm="brute").fit(index)
    nearest = search.kneighbors(queries, return_distance=False)  # (N, 10)
    own = nearest == np.arange(len(queries))[:, None]
    return tuple(float(own[:, :depth].any(axis=1).mean()) for depth in DEPTHS)


def whitened(
    index: Array, queries: Array, *, index_pair: Array, query_pair: Array
) -> tuple[Array, Array]:
    """Index and queries in coordinates where noise has unit covariance.

    From pairs of latents, float32 (M, D) each: the affine map from an index latent to the mean of
    its noisy ones, then the inverse root of the residuals' covariance. Euclidean distance there is
    the Mahalanobis distance of a Gaussian model of the noise.
    """
    ones = np.ones((len(index_pair), 1))
    affine, *_ = np.linalg.lstsq(np.hstack([index_pair, ones]), query_pair, rcond=None)
    residuals = query_pair - np.hstack([index_pair, ones]) @ affine
    whiten = np.linalg.cholesky(np.linalg.inv(np.cov(residuals.T)))
    return np.hstack([index, np.ones((len(index), 1))]) @ affine @ whiten, queries @ whiten


def _rows(images: Array) -> Floats:
    """Images as rows, float32 (N, H·W·C)."""
    return images.reshape(len(images), -1).astype(np.float32)


def _normalised(rows: Floats) -> Floats:
    """Each row minus its mean, of length 1: Euclidean distance then ranks by correlation."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    scaled: Floats = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    return scaled
