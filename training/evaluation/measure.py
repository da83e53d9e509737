"""Measuring models: the means that `fit` keeps, and one value per image for reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.arrays import Floats
from training.data.arrays import Part
from training.evaluation.heldout import HeldOut
from training.evaluation.metrics import Quality, joined, quality
from training.noise.spec import Noise

DIGITS = {"mse": 5, "psnr": 2, "ssim": 4}


def denoise(autoencoder: Any, noisy: Floats) -> Floats:
    """The model's output for float32 (N, H, W, C) in [0, 1], of the same kind."""
    output: Floats = autoencoder.predict(noisy, batch_size=128, verbose=0)
    return output


def measure(autoencoder: Any, split: Part, noise: Noise | None) -> dict[str, Any]:
    """Mean MSE, PSNR and SSIM on a split: of the noisy input and of the output."""
    own = split.noisy if noise is None else None
    held = HeldOut("", None, noise, split.images, own)
    inputs, (outputs,) = measure_each([autoencoder], held)
    return {
        "n": len(held),
        "input": inputs.means() if noise or own is not None else None,
        "output": outputs.means(),
    }


def measure_each(
    autoencoders: Sequence[Any], held: HeldOut, noise: Noise | None = None
) -> tuple[Quality, list[Quality]]:
    """Values per image: of the noisy input, and of each model's output for that same input."""
    inputs: list[Quality] = []
    outputs: list[list[Quality]] = [[] for _ in autoencoders]
    for clean, noisy in held.chunks(noise):
        inputs.append(quality(clean=clean, output=noisy))
        for autoencoder, parts in zip(autoencoders, outputs, strict=True):
            parts.append(quality(clean=clean, output=denoise(autoencoder, noisy)))
    return joined(inputs), [joined(parts) for parts in outputs]


def table(result: dict[str, Any]) -> str:
    """The result of `measure` or of an evaluation as text, with intervals where it has them."""
    width = 26 if "output_intervals" in result else 10
    lines = [f"{'':10}{'MSE':>{width}}{'PSNR dB':>{width}}{'SSIM':>{width}}"]
    lines += [f"{row:10}{cells(result, row, width)}" for row in ("input", "output") if result[row]]
    return "\n".join(lines)


def cells(result: dict[str, Any], row: str, width: int) -> str:
    """One row of a table: MSE, PSNR and SSIM of "input" or "output", right-aligned."""
    intervals = result.get(f"{row}_intervals") or {}
    estimates = [
        cell(result[row][name], *intervals.get(name, (None, None)), digits=digits)
        for name, digits in DIGITS.items()
    ]
    return "".join(f"{estimate:>{width}}" for estimate in estimates)


def cell(
    mean: float | None, low: float | None, high: float | None, *, digits: int, sign: str = ""
) -> str:
    """A mean with its interval, "21.30 [21.10, 21.50]"; `sign` "+" shows that of positive ones."""
    form = f"{sign}.{digits}f"
    if mean is None:
        return "—"
    if low is None or high is None:
        return f"{mean:{form}}"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"
