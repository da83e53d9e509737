"""The progress bar of a job, for a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.bulk.errors import ExtraMissingError


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error; yields a function that counts rows and failed rows."""
    try:
        from rich import progress as rich
        from rich.console import Console
    except ImportError as exc:
        raise ExtraMissingError.of("rich", "bulk", exc) from exc
    bar = rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not (sys.stderr and sys.stderr.isatty()),
    )
    task = bar.add_task(title, total=total, note="")
    failed = 0

    def advance(rows: int, failures: int) -> None:
        nonlocal failed
        failed += failures
        note = f"{bar.tasks[0].speed or 0:,.0f} rows/s" + f", {failed:,} unreadable" * bool(failed)
        bar.update(task, advance=rows + failures, note=note)

    with bar:
        yield advance
