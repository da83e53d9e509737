"""All units of a job in this process: one is read and one written while the engine computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from service.bulk.parts import Part
from service.bulk.work import Work

AHEAD = 2  # units read, or being read, before they are computed
BEHIND = 2  # parts computed and not yet on disk

# A unit that is done: its rows, and how many of its rows failed.
Done = Callable[[int, int], None]


def run(work: Work, units: Iterable[int], done: Done) -> None:
    """Make the parts of `units`, in order.

    An exception, also KeyboardInterrupt, ends it at once but for the parts that are being written.
    """
    hint = iter(units)
    reading: deque[tuple[int, Future[Any]]] = deque()
    writing: deque[tuple[Part, Future[None]]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="read")
    writer = ThreadPoolExecutor(1, thread_name_prefix="write")

    def read_on() -> None:
        for unit in islice(hint, AHEAD - len(reading)):
            reading.append((unit, reader.submit(work.read, unit)))

    def settle(most: int) -> None:
        while len(writing) > most:
            part, future = writing.popleft()
            future.result()
            done(len(part.columns["id"]), len(part.failures))

    try:
        read_on()
        while reading:
            unit, future = reading.popleft()
            batch = future.result()
            read_on()
            part = work.compute(batch)
            del batch, future  # the mapped rows go with them
            writing.append((part, writer.submit(work.write, unit, part)))
            settle(BEHIND)
        settle(0)
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()
