"""Results as Markdown tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Spread


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [[*head], *([*row] for row in rows)]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    lines.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])

    def padded(line: list[str]) -> list[str]:
        rest = (cell.rjust(width) for cell, width in zip(line[1:], others, strict=True))
        return [line[0].ljust(first), *rest]

    return "\n".join(f"| {' | '.join(padded(line))} |" for line in lines)


def print_absent(absent: Mapping[str, str]) -> None:
    """Why some peers are not in a table, one per line."""
    print(*(f"{name}: {why}" for name, why in absent.items()), sep="\n", end="\n\n")


def rate(spread: Spread) -> str:
    """Median and range of a rate, in whole numbers: `16,500 (15,900–17,000)`."""
    return f"{spread.median:,.0f} ({spread.low:,.0f}–{spread.high:,.0f})"


def ratio(spread: Spread) -> str:
    """Median and range of a ratio: `1.52 × (1.45–1.60)`."""
    return f"{spread.median:.2f} × ({spread.low:.2f}–{spread.high:.2f})"


def duration(seconds: float) -> str:
    """Seconds in µs, ms or s."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def size(count: float) -> str:
    """Bytes in MiB."""
    return f"{count / 2**20:,.1f} MiB"


def wire(result: Mapping[str, Any], title: str) -> str:
    """One entry of wire.json as a table."""
    engine, size = result["engine_images_per_second"]["median"], result["images_in_a_request"]
    rows = [
        [
            label,
            rate(Spread(**row["rate"])),
            f"{100 * row['rate']['median'] * size / engine:.0f} %",
            duration(row["p99"]),
        ]
        for label, row in result["rows"].items()
    ]
    return table([title, "requests/s (range)", "of the engine's images/s", "p99"], rows)


def write_json(path: Path, content: Any) -> None:
    """Write a results file, whole or not at all, and print its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"written: {path}")
