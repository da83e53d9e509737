"""Image files decoded on every core: first on threads, then in processes.

Most of the work on a small image holds the interpreter lock, so threads wait for each other; but a
process takes a moment to start, which pays from `PROCESSES_MIN_IMAGES`. A hostile file can crash a
decoder process, never the job: the file is listed as unreadable.

The processes are our own (worker.py) and not a `ProcessPoolExecutor`, whose workers outlive a
killed job, import the main module and all break when one of them does.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from common.arrays import Array, Bytes
from common.images import Fit
from service.bulk.batch import Batch, Failure
from service.bulk.decoding.imagefile import (
    MAX_BYTES,
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
    "MAX_BYTES",
    "UNIT_FILES",
    "Decoder",
    "check_bytes",
    "decode",
    "encode_all",
    "is_picture",
]

UNIT_FILES = 1024  # image files in one unit
CHUNK = 32  # images in one task of a thread or process
PROCESSES_MIN_IMAGES = 2048


class Decoder:
    """Decodes batches of image files, each row in its place."""

    def __init__(self, spec: RowSpec, *, fit: Fit | None = None, invert: bool = False) -> None:
        self._spec = spec
        self._fit = fit
        self._invert = invert
        self._threads = usable_cores()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._images = 0  # decoded so far
        self._idle: deque[Worker] = deque()

    def batch(
        self, names: Sequence[str], fetch: Callable[[int], bytes | str], *, ids: Any, ordered: bool
    ) -> Batch:
        """Decode the files that `fetch` returns for 0 … n − 1.

        Args:
            names: of the images, for the list of failures.
            fetch: returns the bytes of one file, or its path. Called by many threads, or, if
                `ordered`, by this one alone and in order, as a compressed stream needs it.
            ids: pyarrow array (n).
            ordered: see `fetch`.
        """
        rows = np.empty((len(names), *self._spec.shape), np.uint8)
        failures: dict[int, str] = {}

        def fetch_chunk(chunk: range) -> list[Item]:
            return [_fetched(fetch, index) for index in chunk]

        def decode_chunk(chunk: range, items: list[Item] | None) -> None:
            items = fetch_chunk(chunk) if items is None else items
            rows[chunk.start : chunk.stop], failed = self._decode(items)
            failures.update((chunk[at], why) for at, why in failed)

        pending: deque[Future[None]] = deque()
        for first in range(0, len(names), CHUNK):
            chunk = range(first, min(first + CHUNK, len(names)))
            items = fetch_chunk(chunk) if ordered else None
            pending.append(self._pool.submit(decode_chunk, chunk, items))
            if len(pending) > 2 * self._threads:  # bounds the files in memory
                pending.popleft().result()
        for future in pending:
            future.result()
        self._images += len(names)
        batch = Batch(ids, rows)
        if not failures:
            return batch
        keep = np.ones(len(names), bool)
        keep[list(failures)] = False
        return batch.only(keep, tuple(Failure(names[at], failures[at]) for at in sorted(failures)))

    def close(self) -> None:
        """End the threads and processes."""
        self._pool.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().close()

    def _decode(self, items: Sequence[Item]) -> tuple[Array, list[tuple[int, str]]]:
        """As `decode_some`; in a process once there have been enough images."""
        if self._images < PROCESSES_MIN_IMAGES:
            return decode_some(items, self._spec, fit=self._fit, invert=self._invert)
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = Worker(self._spec, fit=self._fit, invert=self._invert)
        try:
            result = worker.decode(items)
        except DecoderEndedError as exc:
            worker.close()
            if len(items) == 1:
                return np.zeros((1, *self._spec.shape), np.uint8), [(0, str(exc))]
            results = [self._decode([item]) for item in items]
            failed = [(at, why) for at, (_, found) in enumerate(results) for _, why in found]
            return np.concatenate([rows for rows, _ in results]), failed
        self._idle.append(worker)
        return result


def encode_all(images: Bytes, pool: ThreadPoolExecutor) -> list[bytes]:
    """uint8 (N, H, W, C) as N PNG files."""
    chunks = [images[first : first + CHUNK] for first in range(0, len(images), CHUNK)]
    files = pool.map(lambda chunk: [png.encode(image) for image in chunk], chunks)
    return [body for chunk in files for body in chunk]


def _fetched(fetch: Callable[[int], bytes | str], index: int) -> Item:
    """The file, or the error in its place, which `decode_some` reports."""
    try:
        return fetch(index)
    except Exception as exc:
        return OSError(errno.EIO, reason(exc))  # can be pickled, unlike many others
