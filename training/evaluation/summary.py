"""An assessment as plain JSON: every number of the report, with its interval where it has one.

Differences are paired: each image's value from one run minus the same image's value from the other,
under the same noise, so that the difficulty of the image cancels out. Their intervals are much
narrower than two separate ones suggest; do not compare separate intervals instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from training.backend import versions
from training.evaluation import bootstrap
from training.evaluation.assess import Assessment, Score
from training.evaluation.bootstrap import estimate, estimates
from training.evaluation.latents import NEIGHBOURS, Accuracy, Latents
from training.evaluation.metrics import DEFINITIONS, Quality

Json = dict[str, Any]


def summarise(assessment: Assessment) -> Json:
    """What all runs share, and `runs`, one entry each, with differences to the first run."""
    held, first = assessment.held, assessment.scores[0]
    noisy = held.spec is not None
    test_hash = None if held.dataset is None else held.dataset.facts()["sha256"]["test"]
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
        "runs": [_run(score, first, assessment, test_hash) for score in assessment.scores],
        "bootstrap": bootstrap.ABOUT,
        "definitions": DEFINITIONS,
        "versions": versions("tensorflow", "keras", "numpy", "scipy", "scikit-learn"),
        "finished": assessment.finished,
        "seconds": round(assessment.seconds, 1),
    }


def evaluation(summary: Json) -> Json:
    """The summary of one run, flat: the run's entries beside the shared ones."""
    (run,) = summary["runs"]
    levels = [
        {
            "level": level["level"],
            "noise": level["noise"],
            "input": {name: level[name] for name in ("psnr", "ssim")},
            "output": output,
        }
        for level, output in zip(summary["levels"], run["levels"], strict=True)
    ]
    shared = {name: value for name, value in summary.items() if name != "runs"}
    own = {name: value for name, value in run.items() if name != "difference"}
    return {"run": run["run"], **shared, **own, "levels": levels}


def _run(score: Score, first: Score, assessment: Assessment, test_hash: str | None) -> Json:
    """One run; `test_hash` is that of the measured test split, if it is one."""
    config, metrics = score.run.config, score.run.metrics
    return {
        "run": str(score.run.path),
        "name": score.name,
        "own_test_images": test_hash in (None, config["data"]["sha256"]["test"]),
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
    """Means as `fit` keeps them, and their intervals."""
    if quality is None:
        return {side: None, f"{side}_intervals": None}
    values = _estimates(quality, *DEFINITIONS)
    intervals = {name: [value["low"], value["high"]] for name, value in values.items()}
    return {side: quality.means(), f"{side}_intervals": intervals}


def _estimates(quality: Quality, *names: str) -> Json:
    values = estimates(getattr(quality, name) for name in names)
    return {name: value._asdict() for name, value in zip(names, values, strict=True)}


def _differences(one: Quality, other: Quality) -> Json:
    """One minus the other, image by image; None where both are infinite for an image."""
    pairs = ((getattr(side, name) for side in (one, other)) for name in DEFINITIONS)
    with np.errstate(invalid="ignore"):  # inf - inf: `estimates` returns None
        values = estimates([np.subtract(a, b, dtype=np.float64) for a, b in pairs])
    return {name: value._asdict() for name, value in zip(DEFINITIONS, values, strict=True)}


def _latents(latents: Latents, first: Latents | None) -> Json:
    summary: Json = {
        "fitted": latents.fitted,
        "classes": latents.classes,
        "majority": latents.majority,
        "neighbours": NEIGHBOURS,
    }
    for side in ("noisy", "clean"):
        own: Accuracy | None = getattr(latents, side)
        base: Accuracy | None = getattr(first, side) if first and first is not latents else None
        summary[side] = own and {
            name: estimate(getattr(own, name))._asdict() for name in Accuracy._fields
        }
        summary[f"{side}_difference"] = (own and base) and {
            name: estimate(getattr(own, name).astype(float) - getattr(base, name))._asdict()
            for name in Accuracy._fields
        }
    return summary


def _cases(indices: list[int], score: Score, assessment: Assessment) -> list[Json]:
    """Held-out images by their index, with label and PSNR."""
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
    classical = assessment.classical
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
                "run_differences": {
                    name: _differences(output, result.quality) for name, output in outputs.items()
                },
            }
            for result in classical.results
        ],
        "left_out": classical.left_out,
    }
