"""Section `novelty`: how well novelty scores detect out-of-distribution images, and their cost.

Test digits, with the noise that the model was trained on, against each kind of outlier
(`benchmarks/outliers.py`) with the same noise. Neither these digits nor these kinds were used to
fit the scores. Some outliers stay digits (0, 1 and 8 rotated by 180°), which no score can detect.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks import machine, outliers, report
from benchmarks.harness import interleave
from benchmarks.settings import Settings
from common.arrays import Floats, to_floats
from export.novelty.probes import detection
from service.bundle import Bundle
from service.engine import Engine
from training.data.datasets import Dataset, load_dataset
from training.noise.spec import Noise, drawn_noise

SEED = 50_000
Groups = dict[str, dict[str, Floats]]  # "noise" and "no noise" → kind → images


def run(settings: Settings) -> dict[str, Any]:
    """Score everything in each precision, time it, write JSON; {} if something is missing."""
    if settings.dataset is None:
        print("novelty: skipped, it needs --dataset, whose test images are scored")
        return {}
    path = settings.served
    if not path.exists() or not Bundle.open(path).manifest.novelty:
        print(f"novelty: skipped, {path} has no scores: export its run again")
        return {}
    manifest = Bundle.open(path).manifest
    dataset = load_dataset(settings.dataset)
    if dataset.image_shape != manifest.image_shape:
        print(f"novelty: skipped, {dataset.name} has images of another shape than {path}")
        return {}
    noise = drawn_noise(manifest.training["settings"].get("noise"))
    groups = _images(settings, dataset, noise)
    precisions: dict[str, Any] = {
        precision: _measure(settings, Engine.load(path, precision=precision), groups)
        for precision in manifest.available
    }
    for group in groups:
        print(f"### {group}\n\n{_table(groups, precisions, group)}\n")
    for precision, facts in precisions.items():
        cost = facts["cost"]
        print(
            f"{precision}: a score takes {cost['median']:.1%} of the time of denoise "
            f"({cost['low']:.1%} to {cost['high']:.1%})"
        )
    result = {
        "machine": machine.facts(),
        "bundle": manifest.name,
        "dataset": dataset.name,
        "noise": str(noise),
        "precisions": precisions,
    }
    report.write_json(settings.results / "novelty.json", result)
    return result


def _images(settings: Settings, dataset: Dataset, noise: Noise | None) -> Groups:
    """The images to score, float32 (n, H, W, C) in [0, 1], the digits first in each group."""
    rng = np.random.default_rng(SEED)
    count = 100 if settings.quick else 2_000
    digits, shape = dataset.test.images[: 5 * count], dataset.image_shape
    clean = {"digits": digits}
    clean |= {kind: draw(count, shape, rng) for kind, draw in outliers.DRAWN.items()}
    clean |= {kind: change(digits[:count]) for kind, change in outliers.CHANGED.items()}
    plain = {kind: to_floats(images) for kind, images in clean.items()}
    noisy = {kind: noise.apply(x, rng) if noise else x for kind, x in plain.items()}
    pure = {kind: to_floats(draw(count, shape, rng)) for kind, draw in outliers.PURE_NOISE.items()}
    return {"noise": {**noisy, **pure}, "no noise": plain}


def _measure(settings: Settings, engine: Engine, groups: Groups) -> dict[str, Any]:
    """The figures of one precision, for each kind, and the cost."""
    threshold = engine.manifest.novelty[engine.precision]["threshold"]
    typical = engine.score(groups["noise"]["digits"])
    facts: dict[str, Any] = {"threshold": threshold}
    for group, kinds in groups.items():
        facts[group] = {
            kind: {"n": len(images), **detection(typical, engine.score(images), threshold)}
            for kind, images in kinds.items()
        }
    facts["noise"]["digits"]["auroc"] = None  # the reference of all others
    batch = groups["noise"]["digits"][:1_024]
    timings = interleave(
        {
            "denoise": lambda: engine.denoise(batch),
            "denoise_scored": lambda: engine.run(("denoised", "scores"), images=batch),
        },
        rounds=3 * settings.sizes.rounds,
        warmup=2,
        settle=0,
        clock=time.process_time,  # of all threads, without the time spent waiting for a core
    )
    ratio = timings["denoise"].speed_over(timings["denoise_scored"])
    facts["cost"] = {name: value - 1 for name, value in asdict(ratio).items()}
    return facts


def _table(groups: Groups, precisions: dict[str, Any], group: str) -> str:
    """One row per kind: AUROC and share above the threshold in each precision."""
    head = [f"against test digits with noise; {group}"]
    for precision in precisions:
        head += [f"{precision} AUROC", "above"]
    rows = []
    for kind in groups[group]:
        row = [kind]
        for facts in precisions.values():
            auroc = facts[group][kind]["auroc"]
            row.append("" if auroc is None else f"{auroc:.4f}")
            row.append(f"{facts[group][kind]['share_above']:.1%}")
        rows.append(row)
    return report.table(head, rows)
