"""Image files decoded on every core: on threads at first, then in processes of their own.

Of a small image, most of the work is Python's own, so threads wait for each other; a process takes
a moment to start. Many files are worth it. What a decoder process may be made to do by a hostile
file, it does without the job: a file that ends it is listed as unreadable.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from common.arrays import Array
from common.images import Fit
from service.bulk.batch import Batch, Failure
from service.bulk.decoding.imagefile import (
    MAX_BYTES,
    SUFFIXES,
    Item,
    check_bytes,
    decode,
    decode_some,
    is_picture,
)
from service.bulk.decoding.worker import DecoderEndedError, Worker
from service.bulk.errors import reason
from service.codecs import png
from service.codecs.rows import RowSpec
from service.runtime.pool import usable_cores

__all__ = [
    "GROUP",
    "MAX_BYTES",
    "SUFFIXES",
    "Decoder",
    "check_bytes",
    "decode",
    "encode_all",
    "is_picture",
]

GROUP = 1024  # image files in one unit
SLICE = 32  # images that a thread or process takes at once
PROCESSES_FROM = 2048  # images after which processes are started


class Decoder:
    """Decodes batches of image files, each row in its place."""

    def __init__(self, spec: RowSpec, *, fit: Fit | None = None, invert: bool = False) -> None:
        self._spec = spec
        self._fit = fit
        self._invert = invert
        self._threads = usable_cores()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._begun = 0
        self._idle: deque[Worker] = deque()

    def batch(
        self, names: Sequence[str], fetch: Callable[[int], bytes | str], *, ids: Any, ordered: bool
    ) -> Batch:
        """Decode what `fetch` gives for 0 … n − 1.

        Args:
            names: of the images, for the list of failures.
            fetch: the bytes of one, or its path. Called by many threads, or, if `ordered`, by this
                one alone and in order, as a compressed stream wants it.
            ids: pyarrow array (n).
        """
        count = len(names)
        rows = np.empty((count, *self._spec.shape), np.uint8)
        keep = np.ones(count, bool)
        failures: list[tuple[int, str]] = []

        def work(first: int, items: Sequence[Item]) -> None:
            rows[first : first + len(items)], failed = self._decoded(items)
            failures.extend((first + index, why) for index, why in failed)

        def fetch_and_work(first: int, end: int) -> None:
            work(first, [_fetched(fetch, index) for index in range(first, end)])

        begun: deque[Future[None]] = deque()
        for first in range(0, count, SLICE):
            end = min(first + SLICE, count)
            if not ordered:
                begun.append(self._pool.submit(fetch_and_work, first, end))
                continue
            items = [_fetched(fetch, index) for index in range(first, end)]
            begun.append(self._pool.submit(work, first, items))
            if len(begun) > 2 * self._threads:
                begun.popleft().result()
        for future in begun:
            future.result()
        self._begun += count
        batch = Batch(ids, rows)
        if not failures:
            return batch
        failures.sort()
        keep[[index for index, _ in failures]] = False
        return batch.only(keep, tuple(Failure(names[index], why) for index, why in failures))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().close()

    def _decoded(self, items: Sequence[Item]) -> tuple[Array, list[tuple[int, str]]]:
        """As `decode_some`, in a process if there have been enough images."""
        if self._begun < PROCESSES_FROM:
            return decode_some(items, self._spec, fit=self._fit, invert=self._invert)
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = Worker(self._spec, fit=self._fit, invert=self._invert)
        try:
            answer = worker.ask(items)
        except DecoderEndedError as exc:
            worker.close()
            if len(items) == 1:
                return np.zeros((1, *self._spec.shape), np.uint8), [(0, str(exc))]
            answers = [self._decoded([item]) for item in items]
            found = [(at, why) for at, (_, failed) in enumerate(answers) for _, why in failed]
            return np.concatenate([rows for rows, _ in answers]), found
        self._idle.append(worker)
        return answer


def encode_all(images: Array, pool: ThreadPoolExecutor) -> list[bytes]:
    """uint8 (N, H, W, C) as N PNG files."""
    pieces = [images[first : first + SLICE] for first in range(0, len(images), SLICE)]
    made = pool.map(lambda piece: [png.encode(image) for image in piece], pieces)
    return [body for piece in made for body in piece]


def _fetched(fetch: Callable[[int], bytes | str], index: int) -> Item:
    """What there is of a file; what went wrong is told where the others are decoded."""
    try:
        return fetch(index)
    except Exception as exc:
        return OSError(errno.EIO, reason(exc))  # of a kind that goes to another process
