"""All units of a job in this process: reading and writing run beside the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from service.bulk.batch import Batch
from service.bulk.parts import Part
from service.bulk.work import Work

READ_AHEAD = 2  # units read, or being read, before they are computed
WRITE_BEHIND = 2  # parts computed and not yet on disk

# Called when a unit is done, with its rows and its failed rows.
Done = Callable[[int, int], None]


def run(work: Work, units: Iterable[int], done: Done) -> None:
    """Make the parts of `units`, in order.

    An exception, also KeyboardInterrupt, stops it after the parts that are being written.
    """
    remaining = iter(units)
    reading: deque[tuple[int, Future[Batch]]] = deque()
    writing: deque[tuple[Part, Future[None]]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="read")
    writer = ThreadPoolExecutor(1, thread_name_prefix="write")

    def read_ahead() -> None:
        for unit in islice(remaining, READ_AHEAD - len(reading)):
            reading.append((unit, reader.submit(work.source.read, unit)))

    def wait_for_writes(limit: int) -> None:
        while len(writing) > limit:
            part, future = writing.popleft()
            future.result()
            done(*part.counts)

    try:
        read_ahead()
        while reading:
            unit, future = reading.popleft()
            batch = future.result()
            read_ahead()
            part = work.compute(batch)
            del batch, future  # frees the rows
            writing.append((part, writer.submit(work.parts.write, unit, part)))
            wait_for_writes(WRITE_BEHIND)
        wait_for_writes(0)
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()
