"""Out-of-distribution probes: how well the scores detect images that are surely novel.

They are drawn for any image shape in a second; the manifest holds the result.
`benchmarks/novelty.py` has many more kinds, for models of digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from common.arrays import Bytes, Floats
from export.chunks import chunks
from service.engine import Engine

IMAGES = 500  # of each kind
SEED = 41_000

AddNoise = Callable[[Bytes, np.random.Generator], Floats]  # uint8 in 0..255 → [0, 1], same shape
# Kind → a function of validation images, noise and generator; float32 (n, H, W, C) in [0, 1].
KINDS: dict[str, Callable[[Bytes, AddNoise, np.random.Generator], Floats]] = {
    "black images": lambda images, noise, rng: noise(np.zeros_like(images), rng),
    "white images": lambda images, noise, rng: noise(np.full_like(images, 255), rng),
    "inverted": lambda images, noise, rng: noise(255 - images, rng),
    "rotated by 180°": lambda images, noise, rng: noise(images[:, ::-1, ::-1].copy(), rng),
    "uniform noise": lambda images, noise, rng: rng.random(images.shape, dtype=np.float32),
}


def evaluate(
    engine: Engine,
    validation: Bytes,
    *,
    add_noise: AddNoise,
    typical_scores: Floats,
    threshold: float,
) -> dict[str, dict[str, float]]:
    """Detection of each kind of probe against validation images.

    Args:
        engine: has the novelty model.
        validation: clean validation images, uint8 (N, H, W, C) in 0..255.
        add_noise: the run's noise.
        typical_scores: of the noisy validation images, float32 (N,) in [0, 1].
        threshold: in [0, 1].

    Returns:
        kind → `auroc` (0.5: chance, 1: perfect) and `share_above` the threshold.
    """
    results = {}
    images, rng = validation[:IMAGES], np.random.default_rng(SEED)
    for kind, change in KINDS.items():
        scores = np.concatenate(
            [
                engine.score(change(images[chunk], add_noise, rng))
                for chunk in chunks(len(images), images.shape[1:])
            ]
        )
        results[kind] = detection(typical_scores, scores, threshold)
    return results


def detection(typical: Floats, novel: Floats, threshold: float) -> dict[str, float]:
    """From scores (N,): the probability that a novel image has the higher one; those above."""
    from sklearn.metrics import roc_auc_score  # slow to import

    truth = np.repeat([0, 1], [len(typical), len(novel)])
    auroc = float(roc_auc_score(truth, np.concatenate([typical, novel])))
    return {"auroc": auroc, "share_above": float((novel > threshold).mean())}


def line(facts: Mapping[str, Any]) -> str:
    """The figures of one precision on one line."""
    figures = ", ".join(f"{kind} {probe['auroc']:.3f}" for kind, probe in facts["probes"].items())
    above = f"{facts['share_above']:.2%} of validation images above {facts['threshold']}"
    return f"{above}; AUROC for {figures}"
