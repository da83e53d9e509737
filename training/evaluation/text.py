"""The results of `evaluate` and `compare` as text for a terminal."""

from __future__ import annotations

from typing import Any

from training.evaluation.measure import DIGITS, cell, cells, table


def evaluation(result: dict[str, Any]) -> str:
    """The result of `summary.evaluation` in a few lines."""
    lines = [
        f"{result['run']} on {result['n']} images: {result['source']}",
        f"noise: {result['noise'] or 'none'}",
        table(result),
    ]
    if not result["own_test_images"]:
        lines.append("These are not the run's own test images: it may have trained on some.")
    for level in result["levels"]:
        lines.append(
            f"{level['level']:>6g} × the noise: {level['input']['psnr']['mean']:.2f} → "
            f"{level['output']['psnr']['mean']:.2f} dB   {level['noise']}"
        )
    return "\n".join(lines + _latents(result) + _classical(result))


def comparison(result: dict[str, Any]) -> str:
    """The result of `summary.summarise`: means with intervals, then differences to the first."""
    runs = result["runs"]
    first, *others = runs
    width = max(len(run["name"]) for run in runs) + 2
    lines = [
        f"{len(runs)} runs on the same {result['n']} images: {result['source']}",
        f"noise: {result['noise'] or 'none'}, the same in every image for each run",
        f"{'':{width}}" + "".join(f"{title:>28}" for title in ("MSE", "PSNR dB", "SSIM")),
    ]
    if result["input"] is not None:
        lines.append(f"{'input':{width}}{cells(result, 'input', 28)}")
    lines += [f"{run['name']:{width}}{cells(run, 'output', 28)}" for run in runs]
    lines.append(f"difference to {first['name']}, image by image:")
    for run in others:
        pairs = ((run["difference"][name], digits) for name, digits in DIGITS.items())
        differences = (cell(**estimate, digits=digits, sign="+") for estimate, digits in pairs)
        lines.append(f"{run['name']:{width}}" + "".join(f"{text:>28}" for text in differences))
    for run in runs:
        if not run["own_test_images"]:
            lines.append(f"not {run['name']}'s own test images: it may have trained on some")
    if result["no_latents"]:
        lines += _latents(result | {"latents": None})
    else:
        lines += [f"{run['name']}: {line}" for run in runs for line in _latents(run)]
    return "\n".join(lines + _classical(result))


def _latents(result: dict[str, Any]) -> list[str]:
    """Accuracies of classifiers on the latents, a line for noisy and one for clean images."""
    latents = result["latents"]
    if latents is None:
        return [f"latents not measured: {result['no_latents']}"]
    return [
        f"class from latents of {side} images: {accuracy['neighbours']['mean']:.1%} by "
        f"{latents['neighbours']} neighbours, {accuracy['probe']['mean']:.1%} by a linear probe"
        for side in ("noisy", "clean")
        if (accuracy := latents[side])
    ]


def _classical(summary: dict[str, Any]) -> list[str]:
    """PSNR of the classical denoisers and of the runs on the same images, best first."""
    classical = summary["classical"]
    if classical is None:
        return []
    rows = [(method["name"], method["psnr"]) for method in classical["methods"]]
    rows += [(name, estimates["psnr"]) for name, estimates in classical["runs"].items()]
    rows.sort(key=lambda row: -(row[1]["mean"] or 0))
    return [
        f"PSNR in dB on {classical['n']} of the images, with classical denoisers:",
        *(f"{name:24}{cell(**estimate, digits=2)}" for name, estimate in rows),
        *(f"{name:24}left out: {why}" for name, why in classical["left_out"].items()),
    ]
