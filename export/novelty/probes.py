"""Out-of-distribution probes: how well the scores detect images that are surely novel.

They are drawn for any image shape in a second; the manifest holds the result.
`benchmarks/novelty.py` has many more kinds, for models of digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from common.arrays import Bytes, Floats
from service.engine import Engine

IMAGES = 500  # of each kind
SEED = 41_000

AddNoise = Callable[[Bytes, np.random.Generator], Floats]


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
    from sklearn.metrics import roc_auc_score  # slow to import

    results = {}
    for kind, images in draw(validation, add_noise, np.random.default_rng(SEED)).items():
        scores = engine.score(images)
        novel = np.repeat([0, 1], [len(typical_scores), len(scores)])
        results[kind] = {
            "auroc": float(roc_auc_score(novel, np.concatenate([typical_scores, scores]))),
            "share_above": float((scores > threshold).mean()),
        }
    return results


def draw(validation: Bytes, add_noise: AddNoise, rng: np.random.Generator) -> dict[str, Floats]:
    """Kind → images with the run's noise, float32 (n, H, W, C) in [0, 1]."""
    images = validation[:IMAGES]
    clean = {
        "black images": np.zeros_like(images),
        "white images": np.full_like(images, 255),
        "inverted": 255 - images,
        "rotated by 180°": np.ascontiguousarray(images[:, ::-1, ::-1]),
    }
    noisy = {kind: add_noise(images, rng) for kind, images in clean.items()}
    return {**noisy, "uniform noise": rng.random(images.shape, dtype=np.float32)}


def line(facts: Mapping[str, Any]) -> str:
    """The figures of one precision on one line."""
    figures = ", ".join(f"{kind} {probe['auroc']:.3f}" for kind, probe in facts["probes"].items())
    return f"{facts['share_above']:.2%} of validation above {facts['threshold']}; AUROC {figures}"
