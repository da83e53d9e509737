"""A few things that are surely unusual, to say in the manifest how well scores find them.

They are drawn for any image shape and cost a second. `benchmarks/novelty.py` has many more kinds,
for models of digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from common.arrays import Array
from service.engine import Engine

IMAGES = 500  # of each kind
SEED = 41_000

Spoil = Callable[[Array, np.random.Generator], Array]


def judge(
    engine: Engine, ordinary: Array, validation: Array, add_noise: Spoil, threshold: float
) -> dict[str, dict[str, float]]:
    """Each kind against validation images.

    Args:
        ordinary: scores of noisy validation images, float32 (N,).
        validation: those images before noise, uint8 (N, H, W, C).
        spoil: adds the run's noise.

    Returns:
        kind → `auroc` (0.5: no better than chance, 1: all found) and `share_above` the threshold.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    rng = np.random.default_rng(SEED)
    found = {}
    for kind, images in drawn(validation, add_noise, rng).items():
        scores = engine.score(images)
        truth = np.repeat([0, 1], [len(ordinary), len(scores)])
        found[kind] = {
            "auroc": float(roc_auc_score(truth, np.concatenate([ordinary, scores]))),
            "share_above": float((scores > threshold).mean()),
        }
    return found


def drawn(validation: Array, add_noise: Spoil, rng: np.random.Generator) -> dict[str, Array]:
    """Kind → images as the model would get them, float32 (n, H, W, C) in [0, 1]."""
    some = validation[:IMAGES]
    shape = (len(some), *validation.shape[1:])
    clean = {
        "black pages": np.zeros(shape, np.uint8),
        "white pages": np.full(shape, 255, np.uint8),
        "inverted": 255 - some,
        "upside down": np.ascontiguousarray(some[:, ::-1, ::-1]),
    }
    noisy = {kind: add_noise(images, rng) for kind, images in clean.items()}
    return {**noisy, "uniform noise": rng.random(shape, dtype=np.float32)}


def line(facts: Mapping[str, Any]) -> str:
    """The figures for a terminal."""
    figures = ", ".join(f"{kind} {probe['auroc']:.3f}" for kind, probe in facts["probes"].items())
    return f"{facts['share_above']:.2%} of validation above {facts['threshold']}; AUROC {figures}"
