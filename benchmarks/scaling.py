"""Section `scaling`: from one image to a million; time, memory, and one image's latency."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from math import prod
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks import agreement, machine, memory, picture, report
from benchmarks.harness import Timing, latencies
from benchmarks.models import Models
from benchmarks.peers import OURS, PEERS
from benchmarks.settings import Settings

MODEL = "autoencoder"
# Calls in a block. After another runtime it can take 40 ms until the scheduler gives each of a
# runtime's threads a core of its own (LOG.md).
LATENCY_BLOCK = 250
ROUNDS = 3
MIN_IMAGES = 2_000  # in all timed calls of one process together
SINGLE_ROUND_IMAGES = 100_000  # calls of more images take a minute: one round of them


def run(settings: Settings, models: Models) -> dict[str, Any]:
    """Growth of our engine, then batch 1 beside every peer; write JSON and picture."""
    result = {
        "machine": machine.facts(),
        "weights": models.weights,
        "growth": _growth(settings, models),
        "latency": _latency(settings, models),
    }
    report.write_json(settings.results / "scaling.json", result)
    picture.growth(result, settings.results / "scaling.png")
    return result


def _growth(settings: Settings, models: Models) -> list[dict[str, Any]]:
    """Time and memory of one call of each size, in fresh processes, the sizes in turn."""
    row_bytes = 4 * prod(models.engine.manifest.image_shape)
    free = psutil.virtual_memory().available
    sizes = []
    for size in settings.sizes.calls:
        if 2.2 * size * row_bytes > free:
            print(f"{size:,} images: skipped, {report.size(2.2 * size * row_bytes)} needed")
        else:
            sizes.append(size)
    by_size: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    for turn in range(1 if settings.quick else ROUNDS):
        for size in sizes:
            if turn and size > SINGLE_ROUND_IMAGES:
                continue
            calls = min(200, 1 + MIN_IMAGES // size)
            facts = memory.in_subprocess(
                models.bundle, MODEL, images=size, calls=calls, seed=settings.seed
            )
            by_size[size].append(facts)
    growth, lines = [], []
    for size, measured in by_size.items():
        # The first of several calls is a warm-up.
        timing = Timing(tuple(median(one["seconds"][1:] or one["seconds"]) for one in measured))
        extra = max(one["extra_bytes"] for one in measured)
        rate = timing.rate(size)
        rates = {"seconds": timing.seconds, "images_per_second": asdict(rate)}
        growth.append({"images": size, **measured[0], **rates, "extra_bytes": extra})
        time = report.duration(median(timing.seconds))
        lines.append([f"{size:,}", time, report.rate(rate), report.size(extra)])
    head = ["images in one call", "time", "images/s (range)", "memory beyond input and output"]
    print(f"### One image to a million\n\n{report.table(head, lines)}\n")
    return growth


def _latency(settings: Settings, models: Models) -> dict[str, dict[str, Any]]:
    """One image per call, again and again: median and 99th percentile of each peer."""
    absent = {peer.name: why for peer in PEERS if (why := peer.absence(models))}
    opened = {peer: peer.open(models, MODEL) for peer in PEERS if peer.name not in absent}
    agreement.check(models, MODEL, opened)
    row, out = models.rows(MODEL, 1), models.output_buffer(MODEL, 1)
    block = 10 if settings.quick else LATENCY_BLOCK
    calls = {peer.name: partial(run, row, 1, out) for peer, run in opened.items()}
    timings = latencies(calls, rounds=settings.sizes.rounds, block=block, settle=settings.settle)
    result: dict[str, dict[str, Any]] = {}
    medians = {
        name: Timing(tuple(median(t.seconds) for t in blocks)) for name, blocks in timings.items()
    }
    for name, blocks in timings.items():
        seconds = [second for timing in blocks for second in timing.seconds]
        result[name] = {
            "median": median(seconds),
            "p99": float(np.quantile(seconds, 0.99, method="inverted_cdf")),
            "engine_speedup": asdict(medians[OURS].speed_over(medians[name])),
            "block_medians": medians[name].seconds,
        }
    head = ["runtime, one image", "median", "p99", "engine's speedup"]
    lines = [
        [
            name,
            *map(report.duration, (facts["median"], facts["p99"])),
            f"{facts['engine_speedup']['median']:.2f} ×",
        ]
        for name, facts in sorted(result.items(), key=lambda item: item[1]["median"])
    ]
    print(f"### One image\n\n{report.table(head, lines)}")
    report.print_absent(absent)
    return result
