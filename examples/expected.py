"""Clean images as an encoder of noisy ones expects them: each as the mean of its noisy copies.

The encoder has seen noisy images only. A clean one is new to it, and its latent lies off to the
side: with `bundles/mnist`, a noisy digit finds its clean original among 10,000 in the five nearest
in 62 % of cases. Encode the mean of the noisy copies instead (a tone curve, no randomness), and it
is 95 %. A Mahalanobis distance learned from noisy and clean pairs makes it 96 %, which we leave to
those who need it. `python -m benchmarks search --dataset path/to/mnist.npz` measures all three.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from service.bundle import Manifest

Array = np.ndarray[Any, np.dtype[Any]]

NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
GAUSSIAN = re.compile(rf"gaussian:({NUMBER}),({NUMBER})")


def expected(images: Array, *, mean: float, std: float) -> Array:
    """The mean of clip(image + N(mean, std²), 0, 1) over all draws of the noise.

    Args:
        images: uint8 of any shape, 0–255.
        mean, std: of the noise; std above 0.

    Returns:
        float32 of the same shape, in [0, 1].
    """
    curve = [_clipped_mean(level / 255 + mean, std) for level in range(256)]
    return np.array(curve, np.float32)[images]


def for_index(images: Array, manifest: Manifest) -> Array:
    """Clean uint8 images as that model's encoder is to see them.

    Where the model was trained on other noise than one fixed Gaussian, they stay as they are.
    """
    found = GAUSSIAN.fullmatch(str(manifest.training.get("settings", {}).get("noise")))
    if not found or float(found[2]) == 0:
        return images
    return expected(images, mean=float(found[1]), std=float(found[2]))


def _clipped_mean(mu: float, sigma: float) -> float:
    """E[min(max(X, 0), 1)] for X from N(mu, sigma²), by the normal distribution's own integrals."""

    def below(x: float) -> float:
        return 0.5 * math.erfc((mu - x) / sigma / math.sqrt(2))

    def density(x: float) -> float:
        return math.exp(-0.5 * ((x - mu) / sigma) ** 2) / math.sqrt(2 * math.pi)

    inside = mu * (below(1) - below(0)) + sigma * (density(0) - density(1))
    return min(max(inside + 1 - below(1), 0.0), 1.0)
