"""The progress bar of a job, for a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from service.bulk.errors import ExtraMissingError


class Progress:
    """A bar on standard error with rows, rate, time left and failures; a context manager."""

    def __init__(self, title: str, *, total: int) -> None:
        """`total`: rows that remain."""
        try:
            from rich import progress
            from rich.console import Console
        except ImportError as exc:
            raise ExtraMissingError(
                f"no rich ({exc})",
                expected="the extra `bulk` of pyproject.toml, which bulk jobs need",
                hint="Install it: pip install rich.",
            ) from exc
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[failed]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(title, total=total, rate="", failed="")
        self._failures = 0

    def advance(self, rows: int, failures: int) -> None:
        """Count rows that are done, and rows that failed."""
        self._failures += failures
        failed = f"{self._failures:,} unreadable" if self._failures else ""
        speed = self._bar.tasks[0].speed
        rate = f"{speed:,.0f} rows/s" if speed else ""
        self._bar.update(self._task, advance=rows + failures, rate=rate, failed=failed)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
