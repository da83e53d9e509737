"""Measuring models: the means that `fit` keeps, and every image's figures for reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.heldout import HeldOut, add_noise
from training.evaluation.metrics import CHUNK, Quality, joined, quality
from training.noise.spec import Noise


def denoise(autoencoder: Any, noisy: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model's answer to float32 (N, H, W, C) in [0, 1], of the same kind."""
    answer: NDArray[np.float32] = autoencoder.predict(noisy, batch_size=128, verbose=0)
    return answer


def measure(
    autoencoder: Any,
    images: NDArray[np.uint8],
    noise: Noise | None,
    *,
    noisy: NDArray[np.uint8] | None = None,
) -> dict[str, Any]:
    """Mean MSE, PSNR and SSIM on uint8 (N, H, W, C): of the noisy input and of the output.

    `noisy` are the images' own noisy partners, for when there is no noise to draw.
    """
    inputs: list[Quality] = []
    outputs: list[Quality] = []
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        partners = None if noisy is None else noisy[part]
        clean, given = add_noise(images[part], noise, key=start, noisy=partners)
        inputs.append(quality(clean=clean, output=given))
        outputs.append(quality(clean=clean, output=denoise(autoencoder, given)))
    return {
        "n": len(images),
        "input": joined(inputs).means() if noise or noisy is not None else None,
        "output": joined(outputs).means(),
    }


def measure_each(
    autoencoders: Sequence[Any], held: HeldOut, noise: Noise | None = None
) -> tuple[Quality, list[Quality]]:
    """Every image's figures: of the noisy input, and of each model's answer to that same input."""
    inputs: list[Quality] = []
    outputs: list[list[Quality]] = [[] for _ in autoencoders]
    for clean, noisy in held.chunks(noise):
        inputs.append(quality(clean=clean, output=noisy))
        for autoencoder, parts in zip(autoencoders, outputs, strict=True):
            parts.append(quality(clean=clean, output=denoise(autoencoder, noisy)))
    return joined(inputs), [joined(parts) for parts in outputs]


def table(result: dict[str, Any]) -> str:
    """The result of `measure` or `evaluate` for a person; with intervals where it has them."""
    width = 26 if "output_intervals" in result else 10
    lines = [f"{'':10}{'MSE':>{width}}{'PSNR dB':>{width}}{'SSIM':>{width}}"]
    for row in ("input", "output"):
        if result[row] is not None:
            intervals = result.get(f"{row}_intervals", {})
            cells = (
                _cell(result[row][name], intervals.get(name), digits)
                for name, digits in (("mse", 5), ("psnr", 2), ("ssim", 4))
            )
            lines.append(f"{row:10}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def _cell(mean: float | None, interval: list[float | None] | None, digits: int) -> str:
    if mean is None:
        return "—"
    if interval is None or None in interval:
        return f"{mean:.{digits}f}"
    low, high = interval
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
