"""Section `scaling`: from one image to a million; time, memory, and one image's latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from math import prod
from statistics import median
from typing import Any

from benchmarks import agreement, machine, memory, picture, report
from benchmarks.harness import Timing, latencies, percentile
from benchmarks.material import Material
from benchmarks.peers import OURS, PEERS
from benchmarks.settings import Settings

MODEL = "autoencoder"
# Calls in a block, whose first fifth does not count: after another runtime it can take 40 ms until
# the system's scheduler gives each of a runtime's threads a core of its own (LOG.md).
LATENCY_BLOCK = 250
ROUNDS = 3
AT_ONCE = 2_000  # images in a process's timed calls together, where one call has fewer
ONCE_IS_ENOUGH = 100_000  # calls of more images take a minute: one round of them


def run(settings: Settings, material: Material, say: Callable[[str], None]) -> dict[str, Any]:
    """Growth of our engine, then batch 1 beside every peer; write JSON and picture."""
    result = {
        "machine": machine.facts(),
        "weights": material.weights,
        "growth": _growth(settings, material, say),
        "latency": _latency(settings, material, say),
    }
    report.write_json(settings.results / "scaling.json", result)
    picture.growth(result, settings.results / "scaling.png")
    say(f"written: {settings.results / 'scaling.json'}, {settings.results / 'scaling.png'}")
    return result


def _growth(
    settings: Settings, material: Material, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Time and memory of one call of each size, in fresh processes, the sizes in turn."""
    row = 4 * int(prod(material.engine.manifest.image_shape))
    free = machine.free_memory()
    sizes = []
    for size in settings.sizes:
        if free is not None and 2.2 * size * row > free:
            say(f"{size:,} images: skipped, they need {report.size(2.2 * size * row)} of memory")
        else:
            sizes.append(size)
    found: dict[int, list[memory.Measured]] = {size: [] for size in sizes}
    for turn in range(1 if settings.quick else ROUNDS):
        for size in sizes:
            if turn and size > ONCE_IS_ENOUGH:
                continue
            calls = min(200, 1 + AT_ONCE // size)
            found[size].append(
                memory.in_subprocess(
                    material.bundle, MODEL, images=size, calls=calls, seed=settings.seed
                )
            )
    growth, lines = [], []
    for size, measured in found.items():
        # Of short calls the first is a warm-up; a long one is its own.
        timing = Timing(tuple(median(one.seconds[1:] or one.seconds) for one in measured))
        extra = max(one.extra for one in measured)
        rate = timing.rate(size)
        growth.append(
            {
                "images": size,
                "seconds": timing.seconds,
                "images_per_second": asdict(rate),
                "extra_bytes": extra,
                "input_bytes": measured[0].inputs,
                "answer_bytes": measured[0].answer,
            }
        )
        time = report.duration(median(timing.seconds))
        lines.append([f"{size:,}", time, report.rate(rate), report.size(extra)])
    head = ["images in one call", "time", "images/s (range)", "memory beyond input and answer"]
    say(f"### One image to a million\n\n{report.table(head, lines)}\n")
    return growth


def _latency(
    settings: Settings, material: Material, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """One image in one call, again and again: median and 99th percentile of each peer."""
    opened = {peer: peer.open(material, MODEL) for peer in PEERS if peer.runs(material)}
    agreement.check(material, MODEL, opened)
    one, out = material.rows(MODEL, 1), material.answer(MODEL, 1)
    block = 10 if settings.quick else LATENCY_BLOCK
    calls = {peer.name: partial(run, one, 1, out) for peer, run in opened.items()}
    timings = latencies(calls, rounds=settings.rounds, block=block, settle=settings.settle)
    ours = Timing(tuple(median(timing.seconds) for timing in timings[OURS]))
    found: dict[str, dict[str, Any]] = {}
    for name, blocks in timings.items():
        everything = [second for timing in blocks for second in timing.seconds]
        medians = Timing(tuple(median(timing.seconds) for timing in blocks))
        found[name] = {
            "median": median(everything),
            "p99": percentile(everything, 0.99),
            "ours_is_times_as_fast": asdict(ours.speed_over(medians)),
            "block_medians": medians.seconds,
        }
    head = ["runtime, one image", "median", "p99", "ours is faster by"]
    lines = [
        [
            name,
            report.duration(facts["median"]),
            report.duration(facts["p99"]),
            f"{facts['ours_is_times_as_fast']['median']:.2f} ×" if name != OURS else "",
        ]
        for name, facts in sorted(found.items(), key=lambda item: item[1]["median"])
    ]
    say(f"### One image\n\n{report.table(head, lines)}")
    for peer in PEERS:
        if why := peer.absence(material):
            say(f"{peer.name}: {why}")
    say("")
    return found
