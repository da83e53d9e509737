"""An assessment as plain JSON: every number of the report, means with their intervals.

Differences are paired: each image's figure of one run minus the same image's of the other, under
the very same noise, so that what makes an image hard for both falls out. Their intervals are much
narrower than two separate ones would suggest, and those must not be held side by side instead.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from training.evaluation import bootstrap
from training.evaluation.assess import Assessment, Score
from training.evaluation.bootstrap import estimate, estimates
from training.evaluation.classical import Classical
from training.evaluation.latents import NEIGHBOURS, Latents, Readings
from training.evaluation.metrics import DEFINITIONS, Quality

Json = dict[str, Any]


def summarise(assessment: Assessment) -> Json:
    """What all runs share, and `runs`, one entry each; with several, differences to the first."""
    held, first = assessment.held, assessment.scores[0]
    noisy = held.spec is not None
    images = None if held.dataset is None else held.dataset.facts()["sha256"]["test"]
    return {
        "source": held.source,
        "noise": held.spec,
        "n": len(held),
        **_means("input", assessment.input if noisy else None),
        "levels": [
            {
                "level": level.factor,
                "noise": str(level.noise),
                **_estimates(level.input, "psnr", "ssim"),
            }
            for level in assessment.levels
        ],
        "classical": _classical(assessment),
        "no_latents": assessment.no_latents,
        "runs": [_run(score, first, assessment, images) for score in assessment.scores],
        "bootstrap": bootstrap.ABOUT,
        "definitions": DEFINITIONS,
        "versions": _versions(),
        "finished": assessment.finished,
        "seconds": round(assessment.seconds, 1),
    }


def _run(score: Score, first: Score, assessment: Assessment, images: str | None) -> Json:
    """One run; `images` is the hash of the test split, where it is known."""
    config, metrics = score.run.config, score.run.metrics
    return {
        "run": str(score.run.path),
        "name": score.name,
        "own_test_images": images in (None, config["data"]["sha256"]["test"]),
        **_means("output", score.output),
        "gain": _differences(score.output, assessment.input) if assessment.held.spec else None,
        "difference": None if score is first else _differences(score.output, first.output),
        "levels": [_estimates(level, "psnr", "ssim") for level in score.levels],
        "latents": None if score.latents is None else _latents(score.latents, first.latents),
        "best": _cases(assessment.best, score, assessment),
        "worst": _cases(assessment.worst, score, assessment),
        "examples": _cases(assessment.examples, score, assessment),
        "training": {
            "settings": config["settings"],
            "data": config["data"],
            "versions": config["versions"],
            **{k: metrics[k] for k in ("epochs", "seconds", "parameters", "finished")},
        },
    }


def _means(side: str, quality: Quality | None) -> Json:
    """Means as `fit` keeps them, and their intervals beside."""
    if quality is None:
        return {side: None, f"{side}_intervals": None}
    found = _estimates(quality, *DEFINITIONS)
    return {
        side: quality.means(),
        f"{side}_intervals": {name: [value["low"], value["high"]] for name, value in found.items()},
    }


def _estimates(quality: Quality, *names: str) -> Json:
    found = estimates(getattr(quality, name) for name in names)
    return {name: value.as_json() for name, value in zip(names, found, strict=True)}


def _differences(one: Quality, other: Quality) -> Json:
    """One minus the other, image by image; None where both are infinite for some image."""
    pairs = ((getattr(side, name) for side in (one, other)) for name in DEFINITIONS)
    with np.errstate(invalid="ignore"):  # inf - inf: `estimates` answers None
        rows = [np.subtract(a, b, dtype=np.float64) for a, b in pairs]
    return {name: value.as_json() for name, value in zip(DEFINITIONS, estimates(rows), strict=True)}


def _latents(latents: Latents, first: Latents | None) -> Json:
    summary: Json = {
        "fitted": latents.fitted,
        "classes": latents.classes,
        "commonest": latents.commonest,
        "neighbours": NEIGHBOURS,
    }
    for side in ("noisy", "clean"):
        mine: Readings | None = getattr(latents, side)
        others: Readings | None = getattr(first, side) if first and first is not latents else None
        summary[side] = mine and {
            name: estimate(getattr(mine, name)).as_json() for name in Readings._fields
        }
        summary[f"{side}_difference"] = (
            mine
            and others
            and {
                name: estimate(getattr(mine, name).astype(float) - getattr(others, name)).as_json()
                for name in Readings._fields
            }
        )
    return summary


def _cases(indices: list[int], score: Score, assessment: Assessment) -> list[Json]:
    """Images by their place among the held-out ones, with label and PSNR."""
    labels = assessment.held.labels
    return [
        {
            "index": index,
            "label": None if labels is None else int(labels[index]),
            "psnr": bootstrap.number(score.output.psnr[index]),
        }
        for index in indices
    ]


def _classical(assessment: Assessment) -> Json | None:
    classical: Classical | None = assessment.classical
    if classical is None:
        return None
    chosen = classical.indices
    outputs = {score.name: score.output.take(chosen) for score in assessment.scores}
    return {
        "n": len(chosen),
        "validation": classical.validation,
        "deviation": classical.deviation,
        "input": _estimates(assessment.input.take(chosen), *DEFINITIONS),
        "runs": {name: _estimates(output, *DEFINITIONS) for name, output in outputs.items()},
        "methods": [
            {
                "name": result.method.title,
                "source": result.method.source,
                "setting": result.setting,
                "scale": result.scale,
                "shift": result.shift,
                "seconds": result.seconds,
                **_estimates(result.quality, *DEFINITIONS),
                "behind": {
                    name: _differences(output, result.quality) for name, output in outputs.items()
                },
            }
            for result in classical.results
        ],
        "left_out": classical.left_out,
    }


def _versions() -> dict[str, str]:
    import keras
    import scipy
    import sklearn
    import tensorflow

    modules = {
        "tensorflow": tensorflow, "keras": keras, "numpy": np, "scipy": scipy,
        "scikit-learn": sklearn,
    }  # fmt: skip
    named = {name: str(module.__version__) for name, module in modules.items()}
    return {"python": platform.python_version(), **named}
