"""Section `novelty`: how well scores tell digits from what is none, and what a score costs.

Test digits, spoiled with the noise that the model was trained on, against each kind of outlier
(`benchmarks/outliers.py`) under the same noise. Neither the digits nor the kinds were used to fit
the scores; among the kinds are some that stay digits (0, 1 and 8 upside down), so that no score can
find all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, outliers, report
from benchmarks.harness import interleave
from benchmarks.settings import Settings
from common.arrays import Array
from service.bundle import Bundle
from service.engine import Engine
from training.data.datasets import Dataset, load_dataset
from training.noise.spec import Noise, drawn_noise

SEED = 50_000
FILE = "novelty.json"


def run(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Score everything in each precision, time it, write JSON; {} where something is missing."""
    path = settings.served
    reason, dataset = _missing(settings, path)
    if dataset is None:
        say(f"novelty: skipped, {reason}")
        return {}
    bundle = Bundle.open(path)
    noise = drawn_noise(bundle.manifest.training["settings"].get("noise"))
    groups = _images(settings, dataset, noise)
    precisions: dict[str, Any] = {
        precision: _measure(settings, Engine.load(path, precision=precision), groups)
        for precision in bundle.manifest.available
    }
    for under in ("noise", "no noise"):
        say(f"### {under}\n\n{_table(groups, precisions, under)}\n")
    for precision, found in precisions.items():
        cost = found["cost"]
        say(
            f"{precision}: a score takes {cost['median']:.1%} of the time of denoise "
            f"({cost['low']:.1%} to {cost['high']:.1%})"
        )
    result = {
        "machine": machine.facts(),
        "bundle": bundle.manifest.name,
        "dataset": dataset.name,
        "noise": str(noise),
        "precisions": precisions,
    }
    report.write_json(settings.results / FILE, result)
    say(f"written: {settings.results / FILE}")
    return result


def _missing(settings: Settings, path: Path) -> tuple[str, Dataset | None]:
    """The dataset, or why there is nothing to measure."""
    if settings.dataset is None:
        return "no --dataset whose test images could be scored", None
    if not path.exists() or not Bundle.open(path).manifest.novelty:
        return f"{path} has no scores: export its run again", None
    dataset = load_dataset(settings.dataset)
    if dataset.image_shape != Bundle.open(path).manifest.image_shape:
        return f"{dataset.name} has images of another shape than {path}", None
    return "", dataset


def _images(
    settings: Settings, dataset: Dataset, noise: Noise | None
) -> dict[str, dict[str, Array]]:
    """What is scored: "noise" and "no noise" → kind → float32 (n, H, W, C) in [0, 1].

    The digits come first in each group.
    """
    rng = np.random.default_rng(SEED)
    count = 100 if settings.quick else 2_000
    digits = dataset.test[: 5 * count]
    clean = {"digits": digits}
    clean |= {kind: draw(count, dataset.image_shape, rng) for kind, draw in outliers.DRAWN.items()}
    clean |= {kind: turn(digits[:count]) for kind, turn in outliers.TURNED.items()}
    plain = {kind: _floats(images) for kind, images in clean.items()}
    noisy = {kind: noise.apply(x, rng) if noise else x for kind, x in plain.items()}
    pure = {
        kind: _floats(draw(count, dataset.image_shape, rng))
        for kind, draw in outliers.PURE_NOISE.items()
    }
    return {"noise": {**noisy, **pure}, "no noise": plain}


def _measure(
    settings: Settings, engine: Engine, groups: dict[str, dict[str, Array]]
) -> dict[str, Any]:
    """Figures of one precision: for each kind, and the cost."""
    threshold = engine.manifest.novelty[engine.precision]["threshold"]
    ordinary = engine.score(groups["noise"]["digits"])
    found: dict[str, Any] = {"threshold": threshold}
    for under, kinds in groups.items():
        found[under] = {}
        for kind, images in kinds.items():
            scores = engine.score(images)
            found[under][kind] = {
                "n": len(scores),
                "auroc": _auroc(ordinary, scores),
                "share_above": float((scores > threshold).mean()),
            }
    found["noise"]["digits"]["auroc"] = None  # they are what the others are held against
    some = groups["noise"]["digits"][:1_024]
    timings = interleave(
        {
            "denoise": lambda: engine.denoise(some),
            "denoise_scored": lambda: engine.run(("denoised", "scores"), images=some),
        },
        rounds=3 * settings.rounds,
        warmup=2,
        settle=0,
        clock=time.process_time,  # of all threads: waiting for a core is no part of the cost
    )
    ratio = timings["denoise"].speed_over(timings["denoise_scored"])
    found["cost"] = {name: value - 1 for name, value in asdict(ratio).items()}
    return found


def _auroc(ordinary: Array, unusual: Array) -> float:
    """The chance that one of the unusual has a higher score than one of the ordinary."""
    from sklearn.metrics import roc_auc_score  # slow to import

    truth = np.repeat([0, 1], [len(ordinary), len(unusual)])
    return float(roc_auc_score(truth, np.concatenate([ordinary, unusual])))


def _table(groups: dict[str, Any], precisions: dict[str, Any], under: str) -> str:
    """One row for each kind, AUROC and share above the threshold in each precision."""
    head = [f"against test digits under noise; {under}"]
    for precision in precisions:
        head += [f"{precision} AUROC", "above"]
    rows = []
    for kind in groups[under]:
        row = [kind]
        for found in precisions.values():
            figures = found[under][kind]
            auroc = figures["auroc"]
            row += ["" if auroc is None else f"{auroc:.4f}", f"{figures['share_above']:.1%}"]
        rows.append(row)
    return report.table(head, rows)


def _floats(images: Array) -> Array:
    """uint8 0..255 → float32 in [0, 1]."""
    return np.divide(images, np.float32(255), dtype=np.float32)
