"""The progress bar of a job, for a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.bulk.errors import ExtraMissingError


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error with rows, rate, time left and failures.

    Yields:
        A function that counts rows and failed rows, of `total` that remain.
    """
    try:
        from rich import progress as rich
        from rich.console import Console
    except ImportError as exc:
        raise ExtraMissingError.of("rich", "bulk", exc) from exc
    bar = rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[failed]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    task = bar.add_task(title, total=total, rate="", failed="")
    failed = 0

    def advance(rows: int, failures: int) -> None:
        nonlocal failed
        failed += failures
        speed = bar.tasks[0].speed
        bar.update(
            task,
            advance=rows + failures,
            rate=f"{speed:,.0f} rows/s" if speed else "",
            failed=f"{failed:,} unreadable" if failed else "",
        )

    with bar:
        yield advance
