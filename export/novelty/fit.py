"""Scores for a bundle: what is usual, learned from a run's own images, through the engine itself.

A score is fitted on training images and their contrasts (`contrasts.py`), spoiled as in
training, and calibrated on validation images, which neither the model nor the score has trained on.
Each precision has its own: int8 makes other latents. What was tried before this is in
`benchmarks/LOG.md`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from common.arrays import Array
from export import convert
from export.novelty import probes
from export.novelty.contrasts import contrasts
from export.novelty.graph import Residual, Scale, Surprise, features_model, novelty_model
from service.bundle import Bundle, novelty_file
from service.engine import Engine
from training.noise.spec import Noise, drawn_noise
from training.reference import Reference
from training.runs import Run

METHOD = (
    "Mahalanobis distance of latents and residual statistics from those of training images, plus "
    "the log-odds of a small network that tells training images from distorted ones; the score is "
    "the share of validation images with less of it"
)
THRESHOLD = 0.99  # one ordinary image in a hundred is called unusual
MIN_TRAIN = 200
MIN_VALIDATION = 100  # fewer do not tell where the last hundredth begins
SEED = 40_000

IMAGES = 30_000  # noisy training images to fit on, the same images again under other noise
DRAWS = 8  # times that an image is used at most
BATCH = 1000
BANDS = 32  # of brightness, in which the residual is measured
HIDDEN = (64, 64)
EPOCHS = 30
# An image that is a contrast with odds of e to 1 is as unusual as one whose squared distance is
# larger by 16. Of the weights tried, those from 4 to 8 found most (benchmarks/LOG.md).
WEIGHT = 8.0
KNOTS = 192  # places on the scale, beside each of the last ones:
LAST_KNOTS = 64


def add(stage: Path, sealed: Bundle, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """Write what scores images, for each precision of the bundle, and say how good it is.

    Returns:
        The manifest's novelty entry: facts by precision; {} where the run has too few images, or
        none because it is older than `reference.npz`.
    """
    reference = run.reference()
    if reference is None:
        say("scores: none, since the run has no reference.npz: train it again")
        return {}
    for images, name, least in (
        (reference.train, "training", MIN_TRAIN),
        (reference.validation, "validation", MIN_VALIDATION),
    ):
        if len(images) < least:
            say(f"scores: none, from {len(images)} {name} images where {least} are needed")
            return {}
    noise = drawn_noise(run.config["settings"]["noise"])
    add_noise = NoiseSource.of(reference, noise)
    found: dict[str, Any] = {}
    for precision in sealed.manifest.available:
        model = fit(Engine(sealed, precision=precision), reference, add_noise)
        (stage / novelty_file(precision)).write_bytes(convert.serialize(model))
        scored = replace(sealed.manifest, novelty={precision: {}})
        facts = judge(Engine(Bundle(stage, scored), precision=precision), reference, add_noise)
        found[precision] = facts
        say(f"scores, {precision}: {probes.line(facts)}")
    return found


@dataclass(frozen=True, eq=False)
class NoiseSource:
    """Makes noisy images of clean ones as the run's own were made.

    `noise` is drawn; where the data are pairs, `grain` is: noisy minus clean, float32 (N, H, W, C),
    of training images. With neither, clean images stay clean.
    """

    noise: Noise | None = None
    grain: Array | None = None

    @classmethod
    def of(cls, reference: Reference, noise: Noise | None) -> NoiseSource:
        """For a run with that reference and that noise to draw."""
        if noise is None and reference.train_noisy is not None:
            return cls(grain=_floats(reference.train_noisy) - _floats(reference.train))
        return cls(noise=noise)

    def __call__(self, images: Array, rng: np.random.Generator) -> Array:
        """uint8 (N, H, W, C) → float32 in [0, 1]."""
        clean = _floats(images)
        if self.noise is not None:
            return self.noise.apply(clean, rng)
        if self.grain is None:
            return clean
        grain = self.grain[rng.integers(0, len(self.grain), len(images))]
        return np.clip(clean + grain, 0, 1, out=grain)


def fit(engine: Engine, reference: Reference, add_noise: NoiseSource) -> onnx.ModelProto:
    """The model that scores images for one precision of one bundle."""
    shape, size = engine.manifest.image_shape, engine.manifest.latent_size
    rng = np.random.default_rng(SEED)
    residual = _residual(engine, reference, add_noise, rng)
    look = _Runner(engine, features_model(shape, size, residual))
    draws = int(np.clip(IMAGES // len(reference.train), 1, DRAWS))
    usual, distorted = [], []
    for _ in range(draws):
        usual.append(look(_noisy(reference.train, reference.train_noisy, add_noise, rng)))
        distorted.append(look(add_noise(contrasts(reference.train, rng), rng)))
    surprise = _surprise(np.concatenate(usual), np.concatenate(distorted))

    unscaled = _Runner(engine, novelty_model(shape, size, residual, surprise, None))
    found = unscaled(_validation(reference, add_noise))
    return novelty_model(shape, size, residual, surprise, scale_of(found))


def judge(engine: Engine, reference: Reference, add_noise: NoiseSource) -> dict[str, Any]:
    """What the manifest says of one precision's scores, by the engine that gives them."""
    scores = engine.score(_validation(reference, add_noise))
    return {
        "method": METHOD,
        "threshold": THRESHOLD,
        "share_above": float((scores > THRESHOLD).mean()),
        "train": len(reference.train),
        "validation": len(reference.validation),
        "probes": probes.judge(engine, scores, reference.validation, add_noise, THRESHOLD),
    }


def scale_of(surprises: Array) -> Scale:
    """From validation images' surprise, float (N,), to the share of them that have less."""
    ranked = np.sort(surprises.astype(np.float64))
    last = len(ranked) - 1
    places = np.linspace(0, last, min(KNOTS, last + 1)).round().astype(int)
    places = np.union1d(places, np.arange(max(0, last - LAST_KNOTS), last + 1))
    knots, first = np.unique(ranked[places].astype(np.float32), return_index=True)
    spread = max(float(ranked[last] - np.median(ranked)), 1e-6)
    return Scale(knots.astype(np.float64), places[first] / len(ranked), spread)


class _Runner:
    """A graph of `novelty_graph` behind an engine: noisy images in, its output out."""

    def __init__(self, engine: Engine, model: onnx.ModelProto) -> None:
        self._engine = engine
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # one thread, one order of sums: the same bytes each time
        self._session = ort.InferenceSession(
            convert.serialize(model), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, noisy: Array) -> Array:
        """float32 (N, H, W, C) in [0, 1] → float32 (N, F), or (N,)."""
        made = []
        for start in range(0, len(noisy), BATCH):
            images = noisy[start : start + BATCH]
            latents = self._engine.encode(images)
            given = {
                "images": images,
                "latents": latents,
                "denoised": self._engine.decode(latents),
            }
            made.append(self._session.run(None, given)[0])
        return np.concatenate(made)


def _residual(
    engine: Engine, reference: Reference, add_noise: NoiseSource, rng: np.random.Generator
) -> Residual:
    """How inputs are spread where the answer has some brightness, on blocks of training images."""
    some = slice(0, 2 * BATCH)
    noisy = reference.train_noisy
    given = _noisy(reference.train[some], None if noisy is None else noisy[some], add_noise, rng)
    given, made = _halved(given), _halved(engine.decode(engine.encode(given)))
    band = np.minimum((made * BANDS).astype(np.int64), BANDS - 1).ravel()
    counts = np.bincount(band, minlength=BANDS)
    there = counts > 0
    values = given.ravel().astype(np.float64)
    means = np.bincount(band, values, BANDS)[there] / counts[there]
    squares = np.bincount(band, values**2, BANDS)[there] / counts[there]
    deviations = np.sqrt(np.maximum(squares - means**2, 1e-6))
    middles = (np.flatnonzero(there) + 0.5) / BANDS
    weights = np.sqrt(counts[there])
    degree = min(1, len(middles) - 1)
    lines = [np.polyfit(middles, values, degree, w=weights) for values in (means, 1 / deviations)]
    (slope, start), (gain, least) = (np.pad(line, (1 - degree, 0)) for line in lines)
    return Residual(mean=(slope, start), precision=(gain, least))


def _halved(images: Array) -> Array:
    """Means over blocks of 2×2 pixels: (N, H, W, C) → (N, H/2, W/2, C), as the graph has them."""
    count, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    blocks = even.reshape(count, height // 2, 2, width // 2, 2, channels)
    halved: Array = blocks.mean(axis=(2, 4))
    return halved


def _surprise(usual: Array, distorted: Array) -> Surprise:
    """Fit distance and log-odds on features, float32 (N, F) each."""
    from sklearn.covariance import LedoitWolf  # slow to import
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    spread = np.maximum(usual.std(axis=0, dtype=np.float64), 1e-6)  # a dead latent has none
    centre = usual.mean(axis=0, dtype=np.float64)
    covariance = LedoitWolf(assume_centered=True).fit((usual - centre) / spread)
    whiten = np.linalg.cholesky(covariance.precision_) / spread[:, None]
    both = (np.concatenate([usual, distorted]) - centre) @ whiten
    classes = np.repeat([0, 1], [len(usual), len(distorted)])
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
        warnings.simplefilter("ignore", ConvergenceWarning)  # as many epochs as are wanted
        network.fit(both.astype(np.float32), classes)
    layers = [*zip(network.coefs_, network.intercepts_, strict=True)]
    weights, bias = layers.pop()
    return Surprise(centre, whiten, (*layers, (WEIGHT * weights, WEIGHT * bias)))


def _noisy(
    clean: Array, noisy: Array | None, add_noise: NoiseSource, rng: np.random.Generator
) -> Array:
    """Their own noisy images where they have some, else newly spoiled ones; float32 in [0, 1]."""
    return add_noise(clean, rng) if noisy is None else _floats(noisy)


def _validation(reference: Reference, add_noise: NoiseSource) -> Array:
    """Noisy validation images, the same at each call; float32 in [0, 1]."""
    rng = np.random.default_rng([SEED, 1])
    return _noisy(reference.validation, reference.validation_noisy, add_noise, rng)


def _floats(images: Array) -> Array:
    """uint8 0..255 → float32 in [0, 1], as the engine does it."""
    return np.divide(images, np.float32(255), dtype=np.float32)
