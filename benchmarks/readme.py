"""The README's section on speed, made from the results in `benchmarks/results/`.

`python -m benchmarks.readme` rewrites it; a test fails when it is not what the results say.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import Spread, Timing

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(?<=<!-- speed: python -m benchmarks.readme -->\n).*(?=<!-- end -->)", re.S)

# (entry of bulk.json, candidate, title, what it is compared with)
BULK = (
    ("array", "engine", "`Engine.encode`, a million images in .npy", ""),
    ("array", "bulk", "`service encode` of them, Parquet written", "engine"),
    ("folder", "pillow", "Pillow alone, 70,000 PNG files, a thread a core", ""),
    ("folder", "pillow_processes", "Pillow alone, a process a core", ""),
    ("folder", "bulk", "`service encode` of them, Parquet written", "pillow_processes"),
    ("ray", "local", "`service denoise`, a million images in .npy", ""),
    ("ray", "ray", "the same with `--engine ray`, an actor a core", "local"),
)
WIRE = {
    "single": "one image a request, 16 connections",
    "batches": "256 images a request, 4 connections",
    "json": "16 images a request as JSON, 8 connections",
}


def rewrite() -> None:
    """Rewrite the block in README.md."""
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda _: section(), text), encoding="utf-8")


def section() -> str:
    """The block's text."""
    engine, wire, colour = _read("engine.json"), _read("wire.json"), _read("64x64x3/engine.json")
    machine = engine["machine"]
    parts = [
        f"Measured on {machine['cores']} shared cores ({machine['cpu']}), {machine['date'][:10]}, "
        "candidates in turn, medians and ranges over the rounds. Absolute numbers change with the "
        "machine's other guests; the ratios are taken round by round.",
        _engine_table(engine["results"]["denoise"], f"denoise, {engine['images']:,} images"),
        "![Images per second by batch size, every runtime, and the limit of matrix products]"
        "(../benchmarks/results/engine.png)",
        _limits(engine),
        f"The same layers for 64×64×3 images, {colour['machine']['date'][:10]}: {_shares(colour)} "
        "of their limits. `benchmarks/LOG.md` says where the time goes.",
        _engine_table(
            colour["results"]["denoise"], f"denoise, {colour['images']:,} images of 64×64×3"
        ),
        "Over HTTP, the load generator on the same cores:",
        *(_wire_table(wire[name], title) for name, title in WIRE.items()),
        _bulk(_read("bulk.json")),
    ]
    return "\n" + "\n\n".join(parts) + "\n\n"


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return content


def _engine_table(result: dict[str, Any], title: str) -> str:
    rows = [
        [
            name,
            report.rate(Spread(**peer["images_per_second"])),
            "" if name.startswith("Engine (ours)") else report.ratio(
                Spread(**peer["ours_is_times_as_fast"])
            ),
        ]
        for name, peer in result["peers"].items()
    ]  # fmt: skip
    return report.table([title, "images/s (range)", "ours is … as fast"], rows)


def _shares(engine: dict[str, Any]) -> str:
    """What part of the GEMM peak each operation reaches."""

    def share(operation: str) -> str:
        peak = engine["results"][operation]["peers"]["GEMM peak"]
        return f"{100 * peak['ours_is_times_as_fast']['median']:.0f} %"

    return f"denoise {share('denoise')}, decode {share('decode')}, encode {share('encode')}"


def _limits(engine: dict[str, Any]) -> str:
    return (
        "The limit (GEMM peak) is the fastest matrix product of this network's own shapes on these "
        "cores, divided by the fewest multiply-adds that the network needs: "
        f"{_shares(engine)} of it."
    )


def _wire_table(result: dict[str, Any], title: str) -> str:
    engine = Spread(**result["engine_images_per_second"]).median
    size = result["images_in_a_request"]
    rows = []
    for label, row in result["rows"].items():
        rate = Spread(**row["rate"])
        share = f"{100 * rate.median * size / engine:.0f} %"
        rows.append([label, report.rate(rate), share, report.duration(row["p99"])])
    return report.table([title, "requests/s (range)", "of the engine's images/s", "p99"], rows)


def _bulk(result: dict[str, Any]) -> str:
    rows = []
    for entry, name, title, other in BULK:
        found = result[entry]
        seconds = {one: Timing(tuple(taken)) for one, taken in found["seconds"].items()}
        ratio = report.ratio(seconds[name].speed_over(seconds[other])) if other else ""
        rows.append([title, report.rate(Spread(**found["images_per_second"][name])), ratio])
    array = result["array"]
    held = report.size(array["peak_bytes"] - array["bare_bytes"])
    table = report.table(["in bulk", "images/s (range)", "of the line above"], rows)
    return f"{table}\n\nThe job on a million images holds at most {held} over a bare interpreter's."


if __name__ == "__main__":
    rewrite()
