"""One or more finished runs, measured on the same images under the same noise.

The result has one value per image, so that differences between runs can be paired; `summary` turns
it into JSON, `report` into a page.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from training.errors import SettingsError
from training.evaluation.classical import Classical, chosen_methods, run_classical
from training.evaluation.heldout import HeldOut, hold_out
from training.evaluation.latents import Latents, classify_latents, encode, why_not
from training.evaluation.measure import denoise, measure_each
from training.evaluation.metrics import Quality
from training.noise.ranges import LEVELS, require_level
from training.noise.spec import Noise
from training.runs import Run

MAX_MAPPED = 1024  # latents in a scatter plot
EXAMPLES = 12  # images shown, evenly spread
EXTREMES = 8  # of the best, and of the worst


@dataclass(frozen=True, eq=False)
class Level:
    """The noise at one strength, and the quality of its noisy images."""

    factor: float
    noise: Noise
    input: Quality


@dataclass(frozen=True, eq=False)
class Score:
    """One run: the quality of its outputs, its latents, and its outputs for the images shown."""

    run: Run
    name: str  # its folder's, unique among the runs
    output: Quality
    levels: list[Quality]
    latents: Latents | None
    denoised: Floats  # outputs for Assessment.noisy
    mapped: Floats  # (M, D), latents of the noisy images at Assessment.mapped


@dataclass(frozen=True, eq=False)
class Assessment:
    """Everything that was measured; the first run is the baseline of differences."""

    held: HeldOut
    input: Quality
    levels: list[Level]
    scores: list[Score]
    classical: Classical | None
    no_latents: str | None  # why latents were not classified
    examples: list[int]
    best: list[int]  # by the first run's PSNR, best first
    worst: list[int]  # worst first
    shown: list[int]  # the indices of `clean`, `noisy` and `denoised`: all of these, once each
    clean: Floats
    noisy: Floats
    mapped: NDArray[np.int64]  # indices among the held-out images
    finished: str
    seconds: float


def assess(
    paths: Sequence[str | Path],
    *,
    noise: str | None = None,
    dataset: str | None = None,
    levels: Iterable[float] | None = None,
    classical: Sequence[str] | None = None,
) -> Assessment:
    """Measure finished runs; `hold_out` chooses the images and the noise.

    `levels` are factors of the noise's strength, for a curve; images with their own noise have
    none. `classical` names classical denoisers to measure as well, [] for all of them.
    """
    began = time.perf_counter()
    factors = sorted({require_level(level) for level in (LEVELS if levels is None else levels)})
    methods = None if classical is None else chosen_methods(classical)
    runs = [Run.load(path) for path in paths]
    held = hold_out(runs, noise=noise, dataset=dataset)
    models = [run.models() for run in runs]
    autoencoders = [model.autoencoder for model in models]

    inputs, outputs = measure_each(autoencoders, held)
    curve = _levels(factors, held, autoencoders, inputs, outputs)
    no_latents = why_not(held)
    examples = _spread(EXAMPLES, len(held)).tolist()
    order = np.argsort(outputs[0].mse, kind="stable").tolist()  # least error, highest PSNR
    best, worst = order[:EXTREMES], order[::-1][:EXTREMES]
    shown = sorted({*examples, *best, *worst})
    clean, noisy = held.pairs(shown)
    mapped = _spread(MAX_MAPPED, len(held))
    to_map = held.pairs(mapped.tolist())[1]
    scores = [
        Score(
            run=run,
            name=name,
            output=output,
            levels=[outputs_at[k] for _, outputs_at in curve],
            latents=None if no_latents else classify_latents(model.encoder, held),
            denoised=denoise(model.autoencoder, noisy),
            mapped=encode(model.encoder, to_map),
        )
        for k, (run, name, model, output) in enumerate(
            zip(runs, _names(runs), models, outputs, strict=True)
        )
    ]
    return Assessment(
        held=held,
        input=inputs,
        levels=[level for level, _ in curve],
        scores=scores,
        classical=None if methods is None else run_classical(held, methods),
        no_latents=no_latents,
        examples=examples,
        best=best,
        worst=worst,
        shown=shown,
        clean=clean,
        noisy=noisy,
        mapped=mapped,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - began,
    )


def require_several(paths: Sequence[str | Path]) -> None:
    """Refuse to compare fewer than two runs, or one with itself."""
    if len({Path(path).resolve() for path in paths}) < max(2, len(paths)):
        raise SettingsError(
            f"compare with {' '.join(map(str, paths))}", expected="two or more different runs"
        )


def _levels(
    factors: Sequence[float],
    held: HeldOut,
    autoencoders: Sequence[Any],
    inputs: Quality,
    outputs: list[Quality],
) -> list[tuple[Level, list[Quality]]]:
    """The input and every model's output at each strength; none where no noise is drawn."""
    if held.noise is None:
        return []
    curve = []
    for factor in factors:
        noise = held.noise.at(factor)
        known = str(noise) == str(held.noise)  # these very images are measured already
        measured = (inputs, outputs) if known else measure_each(autoencoders, held, noise)
        curve.append((Level(factor, noise, measured[0]), measured[1]))
    return curve


def _spread(count: int, total: int) -> NDArray[np.int64]:
    """At most `count` indices, evenly over 0..total-1."""
    count = min(count, total)
    return np.arange(count, dtype=np.int64) * total // count


def _names(runs: Sequence[Run]) -> list[str]:
    """Each run's folder name, with a number where two are the same."""
    names: list[str] = []
    for run in runs:
        name, number = run.path.resolve().name, 2
        while name in names:
            name, number = f"{run.path.resolve().name} ({number})", number + 1
        names.append(name)
    return names
