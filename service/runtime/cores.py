"""Who may use every core: one call at a time, and only where that pays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A thread that wakes on the core of the one that woke it can stay there for tens of milliseconds,
# and both then take turns: an image every 20 ms took 2 ms and at worst 6 on two cores, 1.6 and 2 on
# one (benchmarks/LOG.md). So calls have a core to themselves until so many followed at once.
STEADY = 32  # calls, each alone in the engine
AT_ONCE = 1e-3  # seconds from the end of one to the begin of the next


class AllCores:
    """Every core for one call of a steady row of them."""

    def __init__(self) -> None:
        self._taken = threading.Lock()
        self._streak = 0
        self._ended = float("-inf")

    @contextmanager
    def claim(self, *, alone: bool) -> Iterator[bool]:
        """Whether the call inside may use them; the next may not before it has ended.

        `alone` is whether it is short and nothing else runs: only such calls make a row. One that
        comes in the meantime takes one core and does not wait.
        """
        if not (alone and self._taken.acquire(blocking=False)):
            yield False
            return
        try:
            at_once = time.perf_counter() - self._ended < AT_ONCE
            self._streak = self._streak + 1 if at_once else 0
            yield self._streak >= STEADY
        finally:
            self._ended = time.perf_counter()
            self._taken.release()
