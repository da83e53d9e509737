"""Decides when a single call may use all cores."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A woken thread can stay on the core of the thread that woke it for tens of milliseconds, where
# both take turns: with one image every 20 ms, an image took 2 ms (at worst 6) on two cores and 1.6
# (at worst 2) on one (benchmarks/LOG.md). So a call has one core until STEADY calls have followed
# each other immediately.
STEADY = 32  # calls, each alone in the engine
MAX_GAP = 1e-3  # seconds from the end of one call to the start of the next


class AllCores:
    """Grants all cores to one call at a time, once calls follow each other immediately."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streak = 0
        self._ended = float("-inf")

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """Context of a short call that runs alone; its value says whether it may use all cores.

        A call that starts during another one gets one core and does not wait.
        """
        if not self._lock.acquire(blocking=False):
            yield False
            return
        try:
            immediate = time.perf_counter() - self._ended < MAX_GAP
            self._streak = self._streak + 1 if immediate else 0
            yield self._streak >= STEADY
        finally:
            self._ended = time.perf_counter()
            self._lock.release()
