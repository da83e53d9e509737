"""The command `compare`: several finished runs on the same images under the same noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.errors import SettingsError
from training.evaluation.assess import assess
from training.evaluation.evaluate import readings, rivals
from training.evaluation.summary import summarise

DIGITS = {"mse": 5, "psnr": 2, "ssim": 4}


def compare(
    paths: Sequence[str | Path],
    *,
    noise: str | None = None,
    dataset: str | None = None,
    levels: Iterable[float] | None = None,
    classical: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure runs together; as JSON, each run but the first with its difference to the first.

    All runs see the same noisy images: those of `hold_out`, with the first run's noise unless one
    is named.
    """
    require_several(paths)
    return summarise(
        assess(paths, noise=noise, dataset=dataset, levels=levels, classical=classical)
    )


def require_several(paths: Sequence[str | Path]) -> None:
    """Refuse to compare fewer than two runs, or one with itself."""
    if len({Path(path).resolve() for path in paths}) < max(2, len(paths)):
        raise SettingsError(
            f"compare with {' '.join(map(str, paths))}",
            expected="two or more different runs",
            hint="Name them, the one to compare the others with first.",
        )


def describe(result: dict[str, Any]) -> str:
    """A comparison for a person: means with intervals, then differences to the first run."""
    runs = result["runs"]
    first, *others = runs
    width = max(len(run["name"]) for run in runs) + 2
    lines = [
        f"{len(runs)} runs on the same {result['n']} images: {result['source']}",
        f"noise: {result['noise'] or 'none'}, the same in every image for each run",
        f"{'':{width}}" + "".join(f"{title:>28}" for title in ("MSE", "PSNR dB", "SSIM")),
    ]
    if result["input"] is not None:
        lines.append(f"{'input':{width}}" + _means(result["input"], result["input_intervals"]))
    for run in runs:
        lines.append(f"{run['name']:{width}}" + _means(run["output"], run["output_intervals"]))
    lines.append(f"less {first['name']}, image by image:")
    for run in others:
        cells = (_cell(run["difference"][name], f"+.{DIGITS[name]}f") for name in DIGITS)
        lines.append(f"{run['name']:{width}}" + "".join(f"{cell:>28}" for cell in cells))
    for run in runs:
        if not run["own_test_images"]:
            lines.append(f"not {run['name']}'s own test images: it may have trained on some")
    if result["no_latents"]:
        lines.append(f"latents not judged: {result['no_latents']}")
    else:
        lines += [f"{run['name']}: {line}" for run in runs for line in readings(run)]
    return "\n".join(lines + rivals(result))


def _means(means: dict[str, float | None], intervals: dict[str, list[float | None]]) -> str:
    ends = ("mean", "low", "high")
    found = (dict(zip(ends, (means[name], *intervals[name]), strict=True)) for name in DIGITS)
    forms = (f".{digits}f" for digits in DIGITS.values())
    return "".join(f"{_cell(*both):>28}" for both in zip(found, forms, strict=True))


def _cell(found: dict[str, float | None], form: str) -> str:
    mean, low, high = (found[end] for end in ("mean", "low", "high"))
    if mean is None:
        return "—"
    if low is None or high is None:
        return f"{mean:{form}}"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"
