"""The documentation's tables on speed, made from the results in `benchmarks/results/`.

`python -m benchmarks.readme` rewrites the marked block of each of `PAGES`; a test fails when a
block differs from the results.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import Spread, Timing

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "performance.md",)
BLOCK = re.compile(r"(?<=<!-- speed: python -m benchmarks.readme -->\n).*(?=<!-- end -->)", re.S)

# (entry of bulk.json, candidate, title, candidate that it is compared with)
BULK = (
    ("array", "engine", "`Engine.encode`, a million images in .npy", ""),
    ("array", "bulk", "`service encode` of them, Parquet written", "engine"),
    ("folder", "pillow", "Pillow alone, 70,000 PNG files, a thread per core", ""),
    ("folder", "pillow_processes", "Pillow alone, a process per core", ""),
    ("folder", "bulk", "`service encode` of them, Parquet written", "pillow_processes"),
    ("ray", "local", "`service denoise`, a million images in .npy", ""),
    ("ray", "ray", "the same with `--engine ray`, an actor per core", "local"),
)
WIRE = {
    "single": "one image per request, 16 connections",
    "batches": "256 images per request, 4 connections",
    "json": "16 images per request as JSON, 8 connections",
}


def rewrite() -> None:
    """Rewrite the block in each page."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        before, after = BLOCK.split(text)
        page.write_text(before + section(page) + after, encoding="utf-8")


def section(page: Path = PAGES[0]) -> str:
    """The text of a page's block; links are relative to the page."""
    engine, wire, colour = _read("engine.json"), _read("wire.json"), _read("64x64x3/engine.json")
    machine = engine["machine"]
    parts = [
        f"Measured on {machine['cores']} shared cores ({machine['cpu']}), {machine['date'][:10]}, "
        "candidates in turn, medians and ranges over the rounds. Absolute numbers change with the "
        "load of the machine's other guests; the ratios are taken round by round.",
        _engine_table(engine, "images"),
        "![Images per second by batch size, every runtime, and the limit of matrix products]"
        f"({os.path.relpath(RESULTS / 'engine.png', page.parent)})",
        "The limit (GEMM peak) is the fastest matrix product of this network's own shapes on these "
        "cores, divided by the fewest multiply-adds that the network needs: "
        f"{_shares(engine)} of it.",
        f"The same layers for 64×64×3 images, {colour['machine']['date'][:10]}: {_shares(colour)} "
        "of their limits. `benchmarks/LOG.md` says where the time goes.",
        _engine_table(colour, "images of 64×64×3"),
        "Over HTTP, with the load generator on the same cores:",
        *(report.wire(wire[name], title) for name, title in WIRE.items()),
        _bulk(_read("bulk.json")),
    ]
    return "\n" + "\n\n".join(parts) + "\n\n"


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return content


def _engine_table(engine: dict[str, Any], what: str) -> str:
    rows = []
    for name, peer in engine["results"]["denoise"]["peers"].items():
        speedup = report.ratio(Spread(**peer["engine_speedup"]))
        rate = report.rate(Spread(**peer["images_per_second"]))
        rows.append([name, rate, "" if name == "Engine (ours)" else speedup])
    head = [f"denoise, {engine['images']:,} {what}", "images/s (range)", "engine's speedup"]
    return report.table(head, rows)


def _shares(engine: dict[str, Any]) -> str:
    """The part of the GEMM peak that each operation reaches."""

    def share(operation: str) -> str:
        peak = engine["results"][operation]["peers"]["GEMM peak"]
        return f"{operation} {100 * peak['engine_speedup']['median']:.0f} %"

    return ", ".join(map(share, ("denoise", "decode", "encode")))


def _bulk(result: dict[str, Any]) -> str:
    rows = []
    for entry, name, title, other in BULK:
        facts = result[entry]
        timings = {one: Timing(tuple(seconds)) for one, seconds in facts["seconds"].items()}
        ratio = report.ratio(timings[name].speed_over(timings[other])) if other else ""
        rows.append([title, report.rate(Spread(**facts["images_per_second"][name])), ratio])
    array = result["array"]
    peak = report.size(array["peak_bytes"] - array["bare_bytes"])
    table = report.table(["in bulk", "images/s (range)", "of the line above"], rows)
    return (
        f"{table}\n\nPeak memory of the job on a million images: {peak} above an idle interpreter."
    )


if __name__ == "__main__":
    rewrite()
