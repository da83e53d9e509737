"""Section `engine`: encode, decode and denoise beside every peer, each at its best batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks import agreement, limits, machine, picture, report
from benchmarks.harness import Spread, Timing, interleave
from benchmarks.material import Material
from benchmarks.peers import OURS, OURS_INT8, PEERS, Peer, Run
from benchmarks.settings import Settings
from common.arrays import Array
from export.rewrite import cost
from service.bundle import MODELS

TITLES = {"encoder": "encode", "decoder": "decode", "autoencoder": "denoise"}
DEFAULT_SESSION = "ONNX Runtime"
PEAK = "GEMM peak"  # the fastest matrix product, given the FLOPs that the images need


def run(settings: Settings, material: Material, say: Callable[[str], None]) -> dict[str, Any]:
    """Check, sweep the batch sizes, compare at the best of them; write JSON and picture."""
    facts = machine.facts()
    say(f"{facts['cpu']}, {facts['cores']} cores; {material.weights}\n")
    present = [peer for peer in PEERS if peer.runs(material)]
    absent = {peer.name: why for peer in PEERS if (why := peer.absence(material))}
    counted = _count(material)
    say(_counts_table(counted))

    layers = [
        layer
        for model in MODELS
        for path in (material.plain_path(model), material.bundle / f"{model}.onnx")
        for layer in cost.layers(path)
    ]
    gemm, peak = limits.gemm_peak(
        layers,
        rounds=settings.sweep_rounds,
        flops=settings.gemm_flops,
        settle=settings.settle,
    )
    copy = limits.bandwidth(rounds=settings.sweep_rounds)
    say(
        f"GEMM peak {peak.median / 1e9:,.0f} GFLOP/s "
        f"({peak.low / 1e9:,.0f}–{peak.high / 1e9:,.0f}; {gemm.name}, "
        f"all cores), copy {copy.median / 1e9:,.1f} GB/s\n"
    )

    models = {}
    for model in reversed(MODELS):
        opened = {peer: peer.open(material, model) for peer in present}
        differences = agreement.check(material, model, opened)
        sweep = _sweep(settings, material, model, opened)
        needed = 2.0 * counted[model]["needed"] * settings.images
        final = _final(settings, material, model, opened, sweep, gemm=gemm, needed=needed)
        say(f"### {TITLES[model]}, {settings.images:,} images\n\n{final.pop('table')}")
        for name, why in absent.items():
            say(f"{name}: {why}")
        say("")
        models[TITLES[model]] = {"differences": differences, "sweep": sweep, **final}

    result = {
        "machine": facts,
        "weights": material.weights,
        "images": settings.images,
        "absent": absent,
        "multiply_adds": {TITLES[model]: counts for model, counts in counted.items()},
        "limits": {
            "gemm": gemm.name,
            "gemm_flops_per_second": asdict(peak),
            "copy_bytes_per_second": asdict(copy),
        },
        "results": models,
    }
    report.write_json(settings.results / "engine.json", result)
    picture.rates(result, settings.results / "engine.png")
    say(f"written: {settings.results / 'engine.json'}, {settings.results / 'engine.png'}")
    return result


def _count(material: Material) -> dict[str, dict[str, int]]:
    """Multiply-adds for one image: plain graph, its folded form, our graph, the fewest of them."""
    counted = {}
    for model in MODELS:
        plain, ours = material.plain_path(model), material.bundle / f"{model}.onnx"
        found = {
            "plain": cost.macs(plain),
            "folded": cost.folded_macs(plain),
            "ours": cost.macs(ours),
        }
        counted[model] = {**found, "needed": min(found.values())}
    return counted


def _counts_table(counted: dict[str, dict[str, int]]) -> str:
    head = ["MFLOP an image", "plain graph", "linear layers folded", "our graph", "limit counts"]
    rows = [
        [TITLES[model], *(f"{2 * value / 1e6:.2f}" for value in counts.values())]
        for model, counts in counted.items()
    ]
    return report.table(head, rows) + "\n"


def _sweep(
    settings: Settings, material: Material, model: str, opened: dict[Peer, Run]
) -> dict[str, dict[int, dict[str, Any]]]:
    """Images/s of each peer by batch size: peer → batch → rate and all rounds."""
    amounts: dict[tuple[str, int], int] = {}
    calls: dict[tuple[str, int], Callable[[], Array]] = {}
    longest = max(settings.images, settings.sweep_images, *settings.batches)
    rows, out = material.rows(model, longest), material.answer(model, longest)
    for peer, runner in opened.items():
        wanted = peer.batches or settings.batches
        if peer.name == DEFAULT_SESSION and model == "autoencoder":
            wanted = (*wanted, settings.images)  # everything in one call
        for batch in wanted:
            if batch > longest:
                continue
            # A batch of one is slow everywhere: fewer images say as much.
            amount = max(batch, settings.sweep_images // (8 if batch < 4 else 1))
            some = rows[: amount - amount % batch]
            key = (peer.name, batch)
            amounts[key] = len(some)
            calls[key] = partial(runner, some, batch, out[: len(some)])
    named = {f"{name}\n{batch}": call for (name, batch), call in calls.items()}
    timings = interleave(named, rounds=settings.sweep_rounds, settle=settings.settle)
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for (name, batch), amount in amounts.items():
        timing = timings[f"{name}\n{batch}"]
        found.setdefault(name, {})[batch] = {
            "images": amount,
            "images_per_second": asdict(timing.rate(amount)),
            "seconds": timing.seconds,
        }
    return found


def _final(
    settings: Settings,
    material: Material,
    model: str,
    opened: dict[Peer, Run],
    sweep: dict[str, dict[int, dict[str, Any]]],
    *,
    gemm: limits.Gemm,
    needed: float,
) -> dict[str, Any]:
    """All images, each peer at its best batch, and beside them the limit itself."""
    rows = material.rows(model, settings.images)
    out = material.answer(model, settings.images)
    best = {
        name: max(by_batch, key=lambda batch: by_batch[batch]["images_per_second"]["median"])
        for name, by_batch in sweep.items()
    }
    for name in {OURS, OURS_INT8} & set(best):
        best[name] = settings.images  # one call: cutting it is the engine's own business
    calls: dict[str, Callable[[], Any]] = {
        peer.name: partial(runner, rows, best[peer.name], out) for peer, runner in opened.items()
    }
    count = gemm.count_for(needed)
    calls[PEAK] = lambda: gemm.run(count)
    timings = interleave(calls, rounds=settings.rounds, settle=settings.settle)
    # The product runs a whole number of times: scale to the FLOPs that are meant.
    exact = needed / gemm.flops(count)
    timings[PEAK] = Timing(tuple(second * exact for second in timings[PEAK].seconds))

    ours = timings[OURS]
    over = {name: ours.speed_over(timing) for name, timing in timings.items()}
    peers: dict[str, Any] = {}
    lines = []
    for name, timing in sorted(timings.items(), key=lambda item: -item[1].rate(1).median):
        rate = timing.rate(settings.images)
        peers[name] = {
            "batch": best.get(name),
            "images_per_second": asdict(rate),
            "ours_is_times_as_fast": asdict(over[name]),
            "seconds": timing.seconds,
        }
        batch = "–" if name == PEAK else "one call" if best[name] == len(rows) else str(best[name])
        of_limit: Spread = timing.speed_over(timings[PEAK]).times(100)
        lines.append(
            [
                name,
                batch,
                report.rate(rate),
                f"{of_limit.median:.0f} %",
                "" if name == OURS else report.ratio(over[name]),
            ]
        )
    head = ["runtime", "best batch", "images/s (range)", "of limit", "ours is faster by"]
    return {"peers": peers, "table": report.table(head, lines)}
