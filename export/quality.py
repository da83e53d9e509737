"""What a reduced precision costs in image quality, and how much of that is allowed.

Measured on held-out pairs that the calibration has not seen, through the engines that will serve:
PSNR and SSIM of the answers against the clean images, float32 minus reduced.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from common.arrays import Array
from service.engine import Engine
from training.evaluation import metrics

LIMITS = {"psnr": 0.05, "ssim": 0.002}  # dB and a number; means over images
MIN_IMAGES = 64  # fewer cannot tell a loss of that size from chance
NO_ERROR = 100.0  # dB for an image without any error, so that means stay finite
_UNITS = {"psnr": " dB", "ssim": ""}


def losses(full: Engine, reduced: Engine, *, clean: Array, noisy: Array) -> dict[str, Any]:
    """How much quality each model loses when it alone, or all of them, are reduced.

    The encoder is judged by the float32 decoder's images of its latents, the decoder by its images
    of float32 latents.

    Args:
        full, reduced: engines on the same bundle.
        clean, noisy: held-out pairs, float32 (N, H, W, C) in [0, 1].

    Returns:
        `images`, `limits`, `float32` figures, and in `loss` a figure each for PSNR (dB) and SSIM
        by model; negative where the reduced model happens to be better.
    """
    latents = full.encode(noisy)
    answers = {
        "encoder": full.decode(reduced.encode(noisy)),
        "decoder": reduced.decode(latents),
        "autoencoder": reduced.denoise(noisy),
        "decoder(encoder)": reduced.decode(reduced.encode(noisy)),
    }
    before = _means(clean, full.denoise(noisy))
    loss = {}
    for name, images in answers.items():
        after = _means(clean, images)
        loss[name] = {figure: before[figure] - after[figure] for figure in LIMITS}
    return {"images": len(clean), "limits": LIMITS, "float32": before, "loss": loss}


def refusal(figures: dict[str, Any]) -> str:
    """Why these figures may not ship: the worst that breaks its limit, in words; "" if none."""
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
    said = max(broken)[1]
    limits = " and ".join(f"{limit}{_UNITS[figure]}" for figure, limit in LIMITS.items())
    return f"{said}, where {limits} (PSNR, SSIM) are allowed"


def table(figures: dict[str, Any]) -> str:
    """The losses as a table, a line for each model."""
    lines = [f"{'int8 instead of float32':<26}{'PSNR loss':>13}{'SSIM loss':>11}"]
    lines += [
        f"{name:<26}{loss['psnr']:>10.4f} dB{loss['ssim']:>11.5f}"
        for name, loss in figures["loss"].items()
    ]
    return "\n".join(lines)


def _means(clean: Array, images: Array) -> dict[str, float]:
    found = metrics.quality(clean=clean, output=images)
    psnr = np.minimum(found.psnr, NO_ERROR)
    return {"psnr": float(np.mean(psnr)), "ssim": float(np.mean(found.ssim))}
