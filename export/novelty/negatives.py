"""Negative samples: near misses of a data set, which a classifier learns to tell from its images.

An autoencoder with a small bottleneck makes a digit of anything, so the latents alone say little
about the input. A negative sample is made of real images; it keeps their ink, grain and scale, but
not their shape: mirrored on any axis, warped, or spliced from two images. `benchmarks/outliers.py`
evaluates the scores on other kinds, which are used nowhere here.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from common.arrays import Array, Bytes

SPLICE_OFFSET = 1 / 7  # of the side: largest distance of the seam from the middle
WARP_STD = 1 / 7  # of the side: standard deviation of the displacement, 4 pixels in MNIST
WARP_SMOOTHING = 1 / 7  # of the side: sigma of the Gaussian filter over the displacements


def negative_samples(images: Bytes, rng: np.random.Generator) -> Bytes:
    """One negative sample per image: half of them mirrored, a quarter each warped and spliced.

    Args:
        images: uint8 (N, H, W, C) in 0..255; not modified.
        rng: source of all randomness.

    Returns:
        uint8 (N, H, W, C); sample k is made from image k, and may hold half of another.
    """
    half, quarter = len(images) // 2, len(images) // 4
    others = images[rng.permutation(len(images))]
    return np.concatenate(
        [
            mirrored(images[:half], rng),
            warped(images[half : half + quarter], rng),
            spliced(images[half + quarter :], others[half + quarter :], rng),
        ]
    )


def mirrored(images: Bytes, rng: np.random.Generator) -> Bytes:
    """Mirror each image, uint8 (N, H, W, C), on a line through its middle, at any angle.

    A reflection is never a rotation: no angle gives an upright or a rotated digit back, unless the
    digit is its own mirror image.
    """
    y, x = _centred_grid(images)
    double = 2 * rng.uniform(0, np.pi, (len(images), 1, 1))
    cos, sin = np.cos(double), np.sin(double)
    return _resampled(images, rows=sin * x - cos * y, columns=cos * x + sin * y)


def warped(images: Bytes, rng: np.random.Generator) -> Bytes:
    """Displace the pixels of each image, uint8 (N, H, W, C), by a smooth random field."""
    y, x = _centred_grid(images)
    side = min(images.shape[1:3])
    fields = rng.standard_normal((2, *images.shape[:3]), dtype=np.float32)
    sigma = WARP_SMOOTHING * side
    fields = gaussian_filter(fields, (0, 0, sigma, sigma))
    fields *= WARP_STD * side / np.maximum(fields.std(axis=(2, 3), keepdims=True), 1e-6)
    return _resampled(images, rows=y + fields[0], columns=x + fields[1])


def spliced(images: Bytes, others: Bytes, rng: np.random.Generator) -> Bytes:
    """Each image on one side of a random line, another one on the other; uint8 (N, H, W, C)."""
    y, x = _centred_grid(images)
    angle = rng.uniform(0, 2 * np.pi, (len(images), 1, 1))
    reach = SPLICE_OFFSET * min(images.shape[1:3])
    offset = rng.uniform(-reach, reach, (len(images), 1, 1))
    first = np.cos(angle) * x + np.sin(angle) * y > offset
    return np.where(first[..., None], images, others)


def _centred_grid(images: Bytes) -> tuple[Array, Array]:
    """Row and column numbers from the images' middle, float64 (H, 1) and (1, W)."""
    height, width = images.shape[1:3]
    return (
        np.arange(height)[:, None] - (height - 1) / 2,
        np.arange(width)[None] - (width - 1) / 2,
    )


def _resampled(images: Bytes, *, rows: Array, columns: Array) -> Bytes:
    """Images at positions (N, H, W) from their middle: linear interpolation, mirrored edges."""
    height, width = images.shape[1:3]
    result = np.empty_like(images)
    for image, row, column, target in zip(images, rows, columns, result, strict=True):
        positions = [row + (height - 1) / 2, column + (width - 1) / 2]
        for channel in range(images.shape[3]):
            plane = image[..., channel].astype(np.float32)
            values = map_coordinates(plane, positions, order=1, mode="mirror")
            target[..., channel] = np.rint(values)
    return result
