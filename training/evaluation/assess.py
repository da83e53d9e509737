"""One look at one or more finished runs, on the same images under the same noise.

What is measured is kept as figures of every image, so that differences between runs can be paired;
`summary` turns it into numbers for people and programs, `report` into a page.
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

from training.evaluation.classical import Classical, chosen_methods, run_classical
from training.evaluation.heldout import HeldOut, hold_out
from training.evaluation.latents import Latents, encode, read_latents, why_not
from training.evaluation.measure import denoise, measure_each
from training.evaluation.metrics import Quality
from training.noise.ranges import require_level
from training.noise.spec import Noise
from training.runs import Run

LEVELS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the noise's own strength
MAPPED = 1024  # latents in a scatter plot
EXAMPLES = 12  # images shown as they come
EXTREMES = 8  # of the best, and of the worst


@dataclass(frozen=True, eq=False)
class Level:
    """The noise at one strength, and what it leaves of the images."""

    factor: float
    noise: Noise
    input: Quality


@dataclass(frozen=True, eq=False)
class Score:
    """One run: the figures of every image, its latents, and its answers to those that are shown."""

    run: Run
    name: str  # its folder's, made unique
    output: Quality
    levels: list[Quality]
    latents: Latents | None
    answers: NDArray[np.float32]  # to Assessment.noisy
    codes: NDArray[np.float32]  # (M, D), latents of the noisy images at Assessment.mapped


@dataclass(frozen=True, eq=False)
class Assessment:
    """Everything that was measured; the first run is what others are compared with."""

    held: HeldOut
    input: Quality
    levels: list[Level]
    scores: list[Score]
    classical: Classical | None
    no_latents: str | None  # why they were not judged
    examples: list[int]
    best: list[int]  # by the first run's PSNR, from the best down
    worst: list[int]  # from the worst up
    shown: list[int]  # all of these, once each: the places in `clean`, `noisy` and `answers`
    clean: NDArray[np.float32]
    noisy: NDArray[np.float32]
    mapped: NDArray[np.int64]  # places among the held-out images
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
    """Measure finished runs; see `hold_out` for which images and which noise are taken.

    `levels` are factors of the noise's strength, for a curve; images with noise of their own
    have none. `classical` names classical denoisers to run beside, [] for all of them.
    """
    began = time.perf_counter()
    factors = sorted({require_level(level) for level in (LEVELS if levels is None else levels)})
    methods = None if classical is None else chosen_methods(classical)
    runs = [Run.load(path) for path in paths]
    held = hold_out(runs, noise=noise, dataset=dataset)
    models = [run.models() for run in runs]
    autoencoders = [model.autoencoder for model in models]

    whole, outputs = measure_each(autoencoders, held)
    found = _levels(factors, held, autoencoders, whole, outputs)
    no_latents = why_not(held)
    examples = _spread(EXAMPLES, len(held)).tolist()
    order = np.argsort(outputs[0].mse, kind="stable").tolist()  # least error, highest PSNR
    best, worst = order[:EXTREMES], order[::-1][:EXTREMES]
    shown = sorted({*examples, *best, *worst})
    clean, noisy = held.pairs(shown)
    mapped = _spread(MAPPED, len(held))
    mapped_noisy = held.pairs(mapped.tolist())[1]
    scores = [
        Score(
            run=run,
            name=name,
            output=output,
            levels=[answers[k] for _, answers in found],
            latents=None if no_latents else read_latents(model.encoder, held),
            answers=denoise(model.autoencoder, noisy),
            codes=encode(model.encoder, mapped_noisy),
        )
        for k, (run, name, model, output) in enumerate(
            zip(runs, _names(runs), models, outputs, strict=True)
        )
    ]
    return Assessment(
        held=held,
        input=whole,
        levels=[level for level, _ in found],
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


def _levels(
    factors: Sequence[float],
    held: HeldOut,
    autoencoders: Sequence[Any],
    whole: Quality,
    outputs: list[Quality],
) -> list[tuple[Level, list[Quality]]]:
    """The input and every model's output at each strength; none where no noise is drawn."""
    found = []
    for factor in factors if held.noise is not None else ():
        assert held.noise is not None
        noise = held.noise.at(factor)
        if str(noise) == str(held.noise):
            measured = whole, outputs  # of these very images
        else:
            measured = measure_each(autoencoders, held, noise)
        found.append((Level(factor, noise, measured[0]), measured[1]))
    return found


def _spread(count: int, total: int) -> NDArray[np.int64]:
    """At most `count` places, evenly over 0..total-1."""
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
