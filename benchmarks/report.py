"""Results for people (Markdown tables) and for programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Spread


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    body = [list(row) for row in rows]
    widths = [max(len(row[at]) for row in [list(head), *body]) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        ("-" * width if at == 0 else "-" * (width - 1) + ":") for at, width in enumerate(widths)
    ]
    return "\n".join([line(head), line(rule), *map(line, body)])


def rate(spread: Spread) -> str:
    """Median and range of a rate, in whole numbers: `16,500 (15,900–17,000)`."""
    return f"{spread.median:,.0f} ({spread.low:,.0f}–{spread.high:,.0f})"


def ratio(spread: Spread) -> str:
    """Median and range of a ratio: `1.52 × (1.45–1.60)`."""
    return f"{spread.median:.2f} × ({spread.low:.2f}–{spread.high:.2f})"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits: µs, ms or s."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def size(count: float) -> str:
    """Bytes in MiB."""
    return f"{count / 2**20:,.1f} MiB"


def write_json(path: Path, content: Any) -> None:
    """Write under a temporary name and rename: the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
