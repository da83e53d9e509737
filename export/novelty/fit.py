"""Fit the novelty score of a bundle on the images that its run has kept, through the engine itself.

The score is fitted on training images and negative samples (`negatives.py`), with noise as in
training, and calibrated on validation images, which neither the autoencoder nor the score has
trained on. Each precision has its own, because int8 gives other latents. `benchmarks/LOG.md` keeps
the alternatives that were tried.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from common.arrays import Array, Bytes, Floats, to_floats
from export import convert
from export.chunks import CHUNK_BYTES, chunks
from export.novelty import probes
from export.novelty.graph import Calibration, LogitWeights, Residual, novelty_model
from export.novelty.negatives import negative_samples
from export.novelty.probes import AddNoise
from service.bundle import Bundle, novelty_file
from service.engine import Engine
from training.noise.spec import Noise, drawn_noise
from training.reference import Reference
from training.runs import Run

METHOD = (
    "share of validation images with a lower novelty logit: half the squared Mahalanobis distance "
    "of latents and residual statistics from the training images', plus the log-odds of a small "
    "classifier that separates training images from distorted ones"
)
THRESHOLD = 0.99  # one validation image in a hundred is above it
MIN_TRAIN = 200
MIN_VALIDATION = 100  # the fewest that locate the last hundredth
SEED = 40_000

IMAGES = 30_000  # noisy training images to fit on: the same images under several draws of noise
MAX_DRAWS = 8
BATCH = 1000
SMALL, SMALL_CHUNK = 64 * 64, 32 << 20  # values; bytes: 10,000 images of 28×28×1 at once
BANDS = 32  # of brightness, in which the residual is measured
HIDDEN = (64, 64)
EPOCHS = 30
# Weight of the log-odds beside half the squared distance. Of the weights tried, those from 4 to 8
# detected most (benchmarks/LOG.md).
WEIGHT = 8.0
KNOTS = 192  # of the calibration, evenly over the ranks, and one at each of the last ranks:
LAST_KNOTS = 64

logger = logging.getLogger(__name__)


def add(bundle: Bundle, run: Run) -> dict[str, dict[str, Any]]:
    """Write the novelty models into the bundle's folder, one for each precision.

    Returns:
        The manifest's novelty entry: facts by precision; {} where the run has too few images, or
        none because it is older than `reference.npz`.
    """
    reference = run.reference()
    if reference is None:
        logger.info("scores: none, since the run has no reference.npz: train it again")
        return {}
    for images, name, least in (
        (reference.train, "training", MIN_TRAIN),
        (reference.validation, "validation", MIN_VALIDATION),
    ):
        if len(images) < least:
            logger.info("scores: none; %d %s images, at least %d needed", len(images), name, least)
            return {}
    add_noise = noise_model(reference, drawn_noise(run.config["settings"]["noise"]))
    entry: dict[str, dict[str, Any]] = {}
    for precision in bundle.manifest.available:
        model = fit(Engine(bundle, precision=precision), reference, add_noise)
        (bundle.path / novelty_file(precision)).write_bytes(convert.serialize(model))
        scored = replace(bundle, manifest=replace(bundle.manifest, novelty={precision: {}}))
        entry[precision] = evaluate(Engine(scored, precision=precision), reference, add_noise)
        logger.info("scores, %s: %s", precision, probes.line(entry[precision]))
    return entry


def noise_model(reference: Reference, noise: Noise | None) -> AddNoise:
    """A function that makes noisy images of clean ones, as the run's own were made.

    Pairs, which have no drawn noise, lend the residuals (noisy minus clean) of training images.
    """
    train, train_noisy = reference.train, reference.train_noisy

    def add_noise(images: Bytes, rng: np.random.Generator) -> Floats:
        clean = to_floats(images)
        if noise is not None:
            return noise.apply(clean, rng)
        if train_noisy is None:
            return clean
        drawn = rng.integers(0, len(train), len(images))
        residuals = to_floats(train_noisy[drawn]) - to_floats(train[drawn])
        return np.clip(clean + residuals, 0, 1, out=residuals)

    return add_noise


def fit(engine: Engine, reference: Reference, add_noise: AddNoise) -> onnx.ModelProto:
    """The model that scores images for one precision of one bundle."""
    shape, size = engine.manifest.image_shape, engine.manifest.latent_size
    train, train_noisy = reference.train, reference.train_noisy
    rng = np.random.default_rng(SEED)
    residual = _fit_residual(engine, reference, add_noise, rng)
    features = novelty_model(shape, size, residual)
    positives, negatives = [], []
    for _ in range(int(np.clip(IMAGES // len(train), 1, MAX_DRAWS))):
        images = _noisy(train, train_noisy, add_noise, rng)
        positives.append(_outputs(engine, features, images))
        images = (
            add_noise(negative_samples(train[chunk], rng), rng)
            for chunk in _chunks(len(train), shape)
        )
        negatives.append(_outputs(engine, features, images))
    weights = _fit_logit(np.concatenate(positives), np.concatenate(negatives))

    logit = novelty_model(shape, size, residual, weights)
    logits = _outputs(engine, logit, _noisy_validation(reference, add_noise))
    return novelty_model(shape, size, residual, weights, calibrate(logits))


def evaluate(engine: Engine, reference: Reference, add_noise: AddNoise) -> dict[str, Any]:
    """The manifest's facts on one precision's scores, as its engine computes them."""
    images = _noisy_validation(reference, add_noise)
    scores = np.concatenate([engine.score(chunk) for chunk in images])
    return {
        "method": METHOD,
        "threshold": THRESHOLD,
        "share_above": float((scores > THRESHOLD).mean()),
        "train": len(reference.train),
        "validation": len(reference.validation),
        "probes": probes.evaluate(
            engine,
            reference.validation,
            add_noise=add_noise,
            typical_scores=scores,
            threshold=THRESHOLD,
        ),
    }


def calibrate(logits: Array) -> Calibration:
    """From the logits of validation images, float (N,), to the share of them that are lower."""
    ranked = np.sort(logits.astype(np.float64))
    last = len(ranked) - 1
    ranks = np.linspace(0, last, min(KNOTS, last + 1)).round().astype(int)
    ranks = np.union1d(ranks, np.arange(max(0, last - LAST_KNOTS), last + 1))
    knots, first = np.unique(ranked[ranks].astype(np.float32), return_index=True)
    spread = max(float(ranked[last] - np.median(ranked)), 1e-6)
    return Calibration(knots.astype(np.float64), ranks[first] / len(ranked), spread)


def _outputs(engine: Engine, model: onnx.ModelProto, noisy: Iterable[Floats]) -> Floats:
    """A graph of `graph.py` after the engine: chunks of images → float32 (N, F) or (N,)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # one thread, one order of sums: the same bytes each time
    data, providers = convert.serialize(model), ["CPUExecutionProvider"]
    session = ort.InferenceSession(data, options, providers=providers)
    outputs = []
    for images in (chunk[at : at + BATCH] for chunk in noisy for at in range(0, len(chunk), BATCH)):
        latents = engine.encode(images)
        inputs = {"images": images, "latents": latents, "denoised": engine.decode(latents)}
        outputs.append(session.run(None, inputs)[0])
    return np.concatenate(outputs)


def _fit_residual(
    engine: Engine, reference: Reference, add_noise: AddNoise, rng: np.random.Generator
) -> Residual:
    """Mean and deviation of input values by the output's brightness, on 2×2 block means."""
    counts, sums, squares = np.zeros((3, BANDS))
    for images in _noisy(reference.train[: 2 * BATCH], reference.train_noisy, add_noise, rng):
        source, output = _block_means(images), _block_means(engine.decode(engine.encode(images)))
        band = np.minimum((output * BANDS).astype(np.int64), BANDS - 1).ravel()
        values = source.ravel().astype(np.float64)
        counts += np.bincount(band, minlength=BANDS)
        sums += np.bincount(band, values, BANDS)
        squares += np.bincount(band, values**2, BANDS)
    filled = counts > 0
    means, squares = (total[filled] / counts[filled] for total in (sums, squares))
    deviations = np.sqrt(np.maximum(squares - means**2, 1e-6))
    centres = (np.flatnonzero(filled) + 0.5) / BANDS
    weights = np.sqrt(counts[filled])
    degree = min(1, len(centres) - 1)
    lines = [np.polyfit(centres, values, degree, w=weights) for values in (means, 1 / deviations)]
    mean, precision = ((line[0] * degree, line[-1]) for line in lines)  # (slope, intercept)
    return Residual(mean=mean, precision=precision)


def _block_means(images: Floats) -> Floats:
    """Means over 2×2 blocks, as in the graph: (N, H, W, C) → (N, H/2, W/2, C)."""
    count, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    blocks = even.reshape(count, height // 2, 2, width // 2, 2, channels)
    means: Floats = blocks.mean(axis=(2, 4))
    return means


def _fit_logit(positives: Array, negatives: Array) -> LogitWeights:
    """Fit distance and classifier on the features of each, float32 (N, F)."""
    from sklearn.covariance import LedoitWolf  # slow to import
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    spread = np.maximum(positives.std(axis=0, dtype=np.float64), 1e-6)  # 0 for a dead latent
    centre = positives.mean(axis=0, dtype=np.float64)
    covariance = LedoitWolf(assume_centered=True).fit((positives - centre) / spread)
    whiten = np.linalg.cholesky(covariance.precision_) / spread[:, None]
    both = (np.concatenate([positives, negatives]) - centre) @ whiten
    classes = np.repeat([0, 1], [len(positives), len(negatives)])
    network = MLPClassifier(
        HIDDEN,
        batch_size=min(512, len(both)),
        learning_rate_init=2e-3,
        alpha=0.1,
        max_iter=EPOCHS,
        n_iter_no_change=EPOCHS,
        random_state=SEED,
    )
    # One thread for one order of sums; these products are too small to share anyway.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed
        network.fit(both.astype(np.float32), classes)
    layers = [*zip(network.coefs_, network.intercepts_, strict=True)]
    weights, bias = layers.pop()
    return LogitWeights(centre, whiten, (*layers, (WEIGHT * weights, WEIGHT * bias)))


def _chunks(count: int, shape: tuple[int, ...]) -> Iterator[slice]:
    """Chunks of one draw each; the larger, the more images can be spliced with each other."""
    return chunks(count, shape, limit=SMALL_CHUNK if prod(shape) <= SMALL else CHUNK_BYTES)


def _noisy(
    clean: Bytes, noisy: Bytes | None, add_noise: AddNoise, rng: np.random.Generator
) -> Iterator[Floats]:
    """The data's own noisy images, or a new draw of the noise: chunks, float32 in [0, 1]."""
    for chunk in _chunks(len(clean), clean.shape[1:]):
        yield add_noise(clean[chunk], rng) if noisy is None else to_floats(noisy[chunk])


def _noisy_validation(reference: Reference, add_noise: AddNoise) -> Iterator[Floats]:
    """Noisy validation images, the same at each call; chunks, float32 in [0, 1]."""
    rng = np.random.default_rng([SEED, 1])
    return _noisy(reference.validation, reference.validation_noisy, add_noise, rng)
