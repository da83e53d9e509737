"""Section `engine`: encode, decode and denoise beside every peer, each at its best batch size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks import agreement, limits, machine, picture, report
from benchmarks.harness import Spread, Timing, interleave
from benchmarks.models import Models
from benchmarks.peers import OURS, OURS_INT8, PEERS, Peer, Run
from benchmarks.settings import Settings, Sizes
from common.arrays import Array
from export.rewrite import cost
from service.bundle import MODELS

TITLES = {"encoder": "encode", "decoder": "decode", "autoencoder": "denoise"}
DEFAULT_SESSION = "ONNX Runtime"
PEAK = "GEMM peak"  # the fastest matrix product, for the FLOPs that the images need


def run(settings: Settings, models: Models) -> dict[str, Any]:
    """Check, sweep the batch sizes, compare at the best of them; write JSON and picture."""
    sizes, facts = settings.sizes, machine.facts()
    print(f"{facts['cpu']}, {facts['cores']} cores; {models.weights}\n")
    absent = {peer.name: why for peer in PEERS if (why := peer.absence(models))}
    counted = _count(models)
    print(_counts_table(counted))

    layers = [
        layer
        for model in MODELS
        for path in (models.plain_path(model), models.bundle / f"{model}.onnx")
        for layer in cost.layers(path)
    ]
    gemm, peak = limits.gemm_peak(
        layers, rounds=sizes.sweep_rounds, flops=sizes.gemm_flops, settle=sizes.settle
    )
    print(
        f"GEMM peak {peak.median / 1e9:,.0f} GFLOP/s "
        f"({peak.low / 1e9:,.0f}–{peak.high / 1e9:,.0f}; {gemm.name}, all cores)\n"
    )

    results = {}
    for model in reversed(MODELS):
        opened = {peer: peer.open(models, model) for peer in PEERS if peer.name not in absent}
        differences = agreement.check(models, model, opened)
        sweep = _sweep(sizes, models, model, opened)
        needed = 2.0 * counted[model]["needed"] * sizes.images
        peers, table = _final(sizes, models, model, opened, sweep, gemm=gemm, needed=needed)
        print(f"### {TITLES[model]}, {sizes.images:,} images\n\n{table}")
        report.print_absent(absent)
        results[TITLES[model]] = {"differences": differences, "sweep": sweep, "peers": peers}

    result = {
        "machine": facts,
        "weights": models.weights,
        "images": sizes.images,
        "absent": absent,
        "multiply_adds": {TITLES[model]: counts for model, counts in counted.items()},
        "limits": {"gemm": gemm.name, "gemm_flops_per_second": asdict(peak)},
        "results": results,
    }
    report.write_json(settings.results / "engine.json", result)
    picture.rates(result, settings.results / "engine.png")
    return result


def _count(models: Models) -> dict[str, dict[str, int]]:
    """Multiply-adds for one image: plain graph, its folded form, our graph, the fewest of them."""
    counted = {}
    for model in MODELS:
        plain, ours = models.plain_path(model), models.bundle / f"{model}.onnx"
        counts = [cost.macs(plain), cost.folded_macs(plain), cost.macs(ours)]
        names = ("plain", "folded", "ours", "needed")
        counted[model] = dict(zip(names, [*counts, min(counts)], strict=True))
    return counted


def _counts_table(counted: dict[str, dict[str, int]]) -> str:
    head = ["MFLOP per image", "plain graph", "linear layers merged", "our graph", "fewest"]
    rows = [
        [TITLES[model], *(f"{2 * value / 1e6:.2f}" for value in counts.values())]
        for model, counts in counted.items()
    ]
    return report.table(head, rows) + "\n"


def _sweep(
    sizes: Sizes, models: Models, model: str, opened: dict[Peer, Run]
) -> dict[str, dict[int, dict[str, Any]]]:
    """Images/s of each peer by batch size: peer → batch → rate and all rounds."""
    amounts: dict[tuple[str, int], int] = {}
    calls: dict[str, Callable[[], Array]] = {}
    longest = max(sizes.images, sizes.sweep_images, *sizes.batches)
    rows, out = models.rows(model, longest), models.output_buffer(model, longest)
    for peer, runner in opened.items():
        batches = peer.batches or sizes.batches
        if peer.name == DEFAULT_SESSION and model == "autoencoder":
            batches = (*batches, sizes.images)  # everything in one call
        for batch in batches:
            if batch > longest:
                continue
            # Batches of one are slow everywhere; fewer images show it as well.
            amount = max(batch, sizes.sweep_images // (8 if batch < 4 else 1))
            amount -= amount % batch
            amounts[peer.name, batch] = amount
            calls[f"{peer.name}\n{batch}"] = partial(runner, rows[:amount], batch, out[:amount])
    timings = interleave(calls, rounds=sizes.sweep_rounds, settle=sizes.settle)
    sweep: dict[str, dict[int, dict[str, Any]]] = {}
    for (name, batch), amount in amounts.items():
        timing = timings[f"{name}\n{batch}"]
        sweep.setdefault(name, {})[batch] = {
            "images": amount,
            "images_per_second": asdict(timing.rate(amount)),
            "seconds": timing.seconds,
        }
    return sweep


def _final(
    sizes: Sizes,
    models: Models,
    model: str,
    opened: dict[Peer, Run],
    sweep: dict[str, dict[int, dict[str, Any]]],
    *,
    gemm: limits.Gemm,
    needed: float,
) -> tuple[dict[str, Any], str]:
    """All images, each peer at its best batch size, and beside them the limit; facts and table."""
    rows, out = models.rows(model, sizes.images), models.output_buffer(model, sizes.images)
    best = {
        name: max(by_batch, key=lambda batch: by_batch[batch]["images_per_second"]["median"])
        for name, by_batch in sweep.items()
    }
    # Our engine gets all images in one call: it chooses its own chunks.
    best |= dict.fromkeys({OURS, OURS_INT8} & set(best), sizes.images)
    calls: dict[str, Callable[[], Any]] = {
        peer.name: partial(runner, rows, best[peer.name], out) for peer, runner in opened.items()
    }
    count = gemm.count_for(needed)
    calls[PEAK] = lambda: gemm.run(count)
    timings = interleave(calls, rounds=sizes.rounds, settle=sizes.settle)
    # The product runs a whole number of times: scale to the exact FLOPs.
    exact = needed / gemm.flops(count)
    timings[PEAK] = Timing(tuple(seconds * exact for seconds in timings[PEAK].seconds))

    peers: dict[str, Any] = {}
    lines = []
    for name, timing in sorted(timings.items(), key=lambda item: -item[1].rate(1).median):
        rate, speedup = timing.rate(sizes.images), timings[OURS].speed_over(timing)
        peers[name] = {
            "batch": best.get(name),
            "images_per_second": asdict(rate),
            "engine_speedup": asdict(speedup),
            "seconds": timing.seconds,
        }
        batch = "–" if name == PEAK else "one call" if best[name] == len(rows) else str(best[name])
        of_limit: Spread = timing.speed_over(timings[PEAK]).times(100)
        ratio = "" if name == OURS else report.ratio(speedup)
        lines.append([name, batch, report.rate(rate), f"{of_limit.median:.0f} %", ratio])
    head = ["runtime", "best batch", "images/s (range)", "of limit", "engine's speedup"]
    return peers, report.table(head, lines)
