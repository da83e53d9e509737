"""The loss of image quality in a reduced precision, and its limits.

Measured on held-out pairs that were not used for calibration, through the engines that will serve:
PSNR and SSIM of the output against the clean images, float32 minus reduced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.arrays import Array
from export.chunks import chunks
from service.engine import Engine
from training.evaluation import metrics

LIMITS = {"psnr": 0.05, "ssim": 0.002}  # dB and a number; means over images
MIN_IMAGES = 64  # with fewer, a loss of that size may be chance
MIN_SPREAD = 1 / 255  # between outputs: a constant one loses nothing, whatever the weights are
MAX_PSNR = 100.0  # dB, so that the mean stays finite when an image has no error
_UNITS = {"psnr": " dB", "ssim": ""}


def losses(full: Engine, reduced: Engine, *, clean: Array, noisy: Array) -> dict[str, Any]:
    """The loss of quality when one model, or all of them, are reduced.

    For the encoder, the float32 decoder makes images of its latents; the decoder gets float32
    latents.

    Args:
        full: float32 engine on the bundle.
        reduced: engine on the same bundle in the reduced precision.
        clean: held-out images, float32 (N, H, W, C) in [0, 1].
        noisy: the same images with the run's noise.

    Returns:
        `images`, `limits`, `float32` figures, and in `loss` PSNR (dB) and SSIM by model; negative
        where the reduced model happens to be better.
    """
    outputs: dict[str, Callable[[Array], Array]] = {
        "float32": full.denoise,
        "encoder": lambda images: full.decode(reduced.encode(images)),
        "decoder": lambda images: reduced.decode(full.encode(images)),
        "autoencoder": reduced.denoise,
        "decoder(encoder)": lambda images: reduced.decode(reduced.encode(images)),
    }
    means = {name: _means(clean, noisy, output) for name, output in outputs.items()}
    before = means.pop("float32")
    loss = {
        name: {figure: before[figure] - after[figure] for figure in LIMITS}
        for name, after in means.items()
    }
    return {"images": len(clean), "limits": LIMITS, "float32": before, "loss": loss}


def refusal(figures: dict[str, Any]) -> str:
    """Why these models may not ship: the worst figure beyond its limit; "" if there is none."""
    broken = [
        (
            loss[figure] / limit,
            f"{name} loses {loss[figure]:.4f}{_UNITS[figure]} of {figure.upper()}",
        )
        for name, loss in figures["loss"].items()
        for figure, limit in LIMITS.items()
        if not loss[figure] <= limit
    ]
    if not broken:
        return ""
    limits = " and ".join(f"{limit}{_UNITS[figure]}" for figure, limit in LIMITS.items())
    return f"{max(broken)[1]}; the limits are {limits} (PSNR, SSIM)"


def table(figures: dict[str, Any]) -> str:
    """The losses as a table, a line per model."""
    lines = [f"{'int8 instead of float32':<26}{'PSNR loss':>13}{'SSIM loss':>11}"]
    lines += [
        f"{name:<26}{loss['psnr']:>10.4f} dB{loss['ssim']:>11.5f}"
        for name, loss in figures["loss"].items()
    ]
    return "\n".join(lines)


def _means(clean: Array, noisy: Array, output: Callable[[Array], Array]) -> dict[str, float]:
    """Quality of `output(noisy)`; in chunks, since SSIM makes many copies."""
    parts = chunks(len(clean), clean.shape[1:])
    values = metrics.joined(
        [metrics.quality(clean=clean[part], output=output(noisy[part])) for part in parts]
    )
    psnr = np.minimum(values.psnr, MAX_PSNR)
    return {"psnr": float(np.mean(psnr)), "ssim": float(np.mean(values.ssim))}
