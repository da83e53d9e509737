"""The command `evaluate`: one finished run, measured again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.evaluation.assess import assess
from training.evaluation.measure import table
from training.evaluation.summary import summarise


def evaluate(
    path: str | Path,
    *,
    noise: str | None = None,
    dataset: str | None = None,
    levels: Iterable[float] | None = None,
    classical: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure a run on its own dataset's test split or on another's; as JSON.

    Without `noise` it is that of a dataset of pairs, or else the run's own. A run that was trained
    on a file or a folder knows only its name: without `dataset` it is measured on the pairs that
    it kept in samples.npz. `levels` and `classical` are those of `assess`.
    """
    return evaluation(
        summarise(assess([path], noise=noise, dataset=dataset, levels=levels, classical=classical))
    )


def evaluation(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary of one run, flat: its own entries beside those that runs would share."""
    (run,) = summary["runs"]
    levels = [
        {"level": level["level"], "noise": level["noise"], "input": given, "output": made}
        for level, given, made in (
            (level, {name: level[name] for name in ("psnr", "ssim")}, made)
            for level, made in zip(summary["levels"], run["levels"], strict=True)
        )
    ]
    shared = {name: value for name, value in summary.items() if name != "runs"}
    own = {name: value for name, value in run.items() if name != "difference"}
    return {"run": run["run"], **shared, **own, "levels": levels}


def describe(result: dict[str, Any]) -> str:
    """An evaluation for a person, in a few lines."""
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
    return "\n".join(lines + readings(result) + rivals(result))


def readings(result: dict[str, Any]) -> list[str]:
    """What was read from the latents, a line for each kind of images."""
    latents = result["latents"]
    if latents is None:
        return [f"latents not judged: {result['no_latents']}"]
    return [
        f"class from latents of {side} images: {_share(latents[side]['neighbours'])} by "
        f"{latents['neighbours']} neighbours, {_share(latents[side]['probe'])} by a linear probe"
        for side in ("noisy", "clean")
        if latents[side]
    ]


def rivals(summary: dict[str, Any]) -> list[str]:
    """The classical denoisers and the runs on the same images, best first."""
    classical = summary["classical"]
    if classical is None:
        return []
    rows = [(method["name"], method["psnr"]) for method in classical["methods"]]
    rows += [(name, found["psnr"]) for name, found in classical["runs"].items()]
    rows.sort(key=lambda row: -(row[1]["mean"] or 0))
    left_out = [f"{name:24} left out: {why}" for name, why in classical["left_out"].items()]
    return [
        f"on {classical['n']} of the images, beside classical denoisers:",
        *(f"{name:24}{_decibels(found)}" for name, found in rows),
        *left_out,
    ]


def _decibels(found: dict[str, float | None]) -> str:
    if found["mean"] is None or found["low"] is None:
        return "—"
    return f"{found['mean']:6.2f} dB [{found['low']:.2f}, {found['high']:.2f}]"


def _share(found: dict[str, float]) -> str:
    return f"{found['mean']:.1%}"
