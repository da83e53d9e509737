"""Image files decoded on every core: first on threads, then in processes.

Most of the work on a small image holds the interpreter lock, so threads wait for each other; but
processes take a moment to start, which pays from `PROCESSES_MIN_IMAGES`. A hostile file can crash a
decoder process, never the job: the file is listed as unreadable.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from common.arrays import Array, Bytes
from common.cores import usable_cores
from common.images import Fit
from service.bulk.batch import Batch, Reason
from service.bulk.decoding.imagefile import Item, decode_some
from service.bulk.errors import reason
from service.codecs import png
from service.codecs.rows import RowSpec

UNIT_FILES = 1024  # image files in one unit
CHUNK = 32  # images in one task of a thread or process
PROCESSES_MIN_IMAGES = 2048

Decoded = tuple[Array, list[tuple[int, Reason]]]  # as `decode_some` returns it


class Decoder:
    """Decodes batches of image files, each row in its place."""

    def __init__(self, spec: RowSpec, *, fit: Fit | None = None, invert: bool = False) -> None:
        self._spec = spec
        self._settings: dict[str, Any] = {"fit": fit, "invert": invert}
        self._threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
        self._images = 0  # decoded so far
        self._processes: ProcessPoolExecutor | None = None
        self._starting, self._retrying = threading.Lock(), threading.Lock()

    def batch(self, ids: Any, fetch: Callable[[int], bytes | str], *, ordered: bool) -> Batch:
        """Decode n files, whose ids are a pyarrow array (n).

        `fetch` returns the bytes of one, or its path. It is called by many threads, or, if
        `ordered`, by this one alone and in order, as a compressed stream needs it.
        """
        rows = np.empty((len(ids), *self._spec.shape), np.uint8)
        failures: dict[int, Reason] = {}

        def fetch_chunk(chunk: range) -> list[Item]:
            return [_fetched(fetch, index) for index in chunk]

        def decode_chunk(chunk: range, items: list[Item] | None) -> None:
            items = fetch_chunk(chunk) if items is None else items
            rows[chunk.start : chunk.stop], failed = self._decode(items)
            failures.update((chunk[at], why) for at, why in failed)

        pending: deque[Future[None]] = deque()
        for first in range(0, len(ids), CHUNK):
            chunk = range(first, min(first + CHUNK, len(ids)))
            items = fetch_chunk(chunk) if ordered else None
            pending.append(self._threads.submit(decode_chunk, chunk, items))
            if len(pending) > 2 * usable_cores():  # bounds the files in memory
                pending.popleft().result()
        for future in pending:
            future.result()
        self._images += len(ids)
        return Batch(ids, rows).without(failures)

    def close(self) -> None:
        """End the threads and processes."""
        self._threads.shutdown(cancel_futures=True)
        if self._processes is not None:
            self._processes.shutdown()

    def _decode(self, items: Sequence[Item]) -> Decoded:
        """As `decode_some`; in a process once there have been enough images."""
        if self._images < PROCESSES_MIN_IMAGES:
            return decode_some(items, self._spec, **self._settings)
        with self._starting:
            if self._processes is None:
                self._processes = _start_processes(usable_cores())
            pool = self._processes
        try:
            return pool.submit(decode_some, items, self._spec, **self._settings).result()
        except BrokenProcessPool:  # by one of our files, or by those of another thread
            with self._starting:
                if self._processes is pool:
                    self._processes = None
            return self._decode_singly(items)

    def _decode_singly(self, items: Sequence[Item]) -> Decoded:
        """Find the file that ends its process, one thread at a time."""
        rows = np.zeros((len(items), *self._spec.shape), np.uint8)
        failed: list[tuple[int, Reason]] = []
        with self._retrying:
            pool = _start_processes(1)
            for at, item in enumerate(items):
                try:
                    future = pool.submit(decode_some, [item], self._spec, **self._settings)
                    (rows[at],), reasons = future.result()
                    failed += [(at, why) for _, why in reasons]
                except BrokenProcessPool:
                    failed.append((at, "the decoder process crashed"))
                    pool = _start_processes(1)
            pool.shutdown()
        return rows, failed


def encode_all(images: Bytes) -> list[bytes]:
    """uint8 (N, H, W, C) as N PNG files."""
    chunks = [images[first : first + CHUNK] for first in range(0, len(images), CHUNK)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        files = pool.map(lambda chunk: [png.encode(image) for image in chunk], chunks)
    return [body for chunk in files for body in chunk]


def _fetched(fetch: Callable[[int], bytes | str], index: int) -> Item:
    """The file, or the error in its place, which `decode_some` reports."""
    try:
        return fetch(index)
    except Exception as exc:
        return OSError(errno.EIO, reason(exc))  # can be pickled, unlike many others


def _start_processes(count: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # the engine's threads do not survive a fork
    return ProcessPoolExecutor(count, mp_context=context, initializer=_initialise)


def _initialise() -> None:
    """In a decoder process: leave Ctrl-C to the job, and end with it, also if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
