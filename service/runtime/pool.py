"""Threads that share the cores fairly among concurrent calls.

A call is split into chunks. Workers take one chunk of each open call in turn, so a call of ten
images does not wait behind one of a million. A chunk releases the interpreter lock while it runs,
so threads are enough.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from weakref import WeakSet

from service.runtime import fork

# Rows of a call from which it is split over several threads: for fewer, waking a second thread
# costs more than it saves (benchmarks/LOG.md).
SHARED_MIN_ROWS = 4


def chunk_count(rows: int, size: int, *, threads: int) -> int:
    """Number of chunks of a call, each of at most `size` rows.

    It is a multiple of `threads` where the rows allow, so that no thread idles at the end.
    """
    chunks = -(-rows // size)
    if threads > 1 and rows >= SHARED_MIN_ROWS:
        chunks = max(chunks, min(rows // 2, -(-chunks // threads) * threads))
    return chunks


def chunk_slice(index: int, *, rows: int, chunks: int) -> slice:
    """The rows of one chunk; the sizes of two chunks differ by at most one row."""
    return slice(index * rows // chunks, (index + 1) * rows // chunks)


class Call:
    """One call's chunks: which is next, how many are running, and the result of the future."""

    def __init__(self, run: Callable[[int], None], *, chunks: int, result: Any) -> None:
        self.run = run
        self.chunks = chunks
        self.result = result
        self.future: Future[Any] = Future()
        self.thread = threading.get_ident()
        self.failed = False
        self._next = 0
        self._running = 0

    def take(self) -> int:
        """The next chunk's index; called under the pool's lock."""
        index = self._next
        self._next += 1
        self._running += 1
        return index

    @property
    def exhausted(self) -> bool:
        """Whether all chunks were handed out."""
        return self._next >= self.chunks

    def stop(self) -> None:
        """Hand out no more chunks."""
        self._next = self.chunks

    def finish_chunk(self) -> bool:
        """Count one chunk as finished; True when it was the last. Called under the pool's lock."""
        self._running -= 1
        return self.exhausted and self._running == 0


class Pool:
    """A fixed number of daemon threads that run the chunks of `Call`s in turn.

    They begin with the first call, also in a forked child. There, the parent's calls are cancelled:
    their threads are the parent's.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._submitted: WeakSet[Call] = WeakSet()  # also finished ones that are still referenced
        self._closed = False
        self.renew()
        fork.renewed_in_child.add(self)

    def renew(self) -> None:
        """Start, in this process, without threads and calls (`fork.Renewable.renew`)."""
        self._calls: deque[Call] = deque()
        self._ready = threading.Condition()
        self._running = 0
        self._workers: list[threading.Thread] = []
        for call in list(self._submitted):
            if call.thread == threading.get_ident():  # nobody else is left to wait for it
                call.future.cancel()

    def submit(self, call: Call) -> Future[Any]:
        """Queue a call; its future gives `call.result`, or the first exception of a chunk.

        Cancelling the future drops the chunks that have not begun.
        """
        with self._ready:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if not self._workers:
                names = [f"engine-{index}" for index in range(self.threads)]
                workers = [threading.Thread(target=self._work, name=n, daemon=True) for n in names]
                for worker in workers:
                    worker.start()
                self._workers = workers
            self._calls.append(call)
            self._submitted.add(call)
            self._ready.notify(min(call.chunks, self.threads))
        return call.future

    @property
    def busy(self) -> bool:
        """Whether a chunk is queued or running."""
        return bool(self._calls) or self._running > 0

    def close(self) -> None:
        """Finish what is queued, then let the threads end."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._calls:
                    if self._closed:
                        return
                    self._ready.wait()
                call = self._calls.popleft()
                if call.future.cancelled():
                    del call  # an idle worker keeps no caller's arrays alive
                    continue
                index = call.take()
                self._running += 1
                if not call.exhausted:
                    self._calls.append(call)
            fork.hold_off(self._run, call, index)
            del call  # an idle worker keeps no caller's arrays alive

    def _run(self, call: Call, index: int) -> None:
        error: BaseException | None = None
        try:
            call.run(index)
        except BaseException as exc:
            error = exc
        with self._ready:
            self._running -= 1
            first_error = error is not None and not call.failed
            if error is not None:
                call.failed = True
                call.stop()
                if call in self._calls:
                    self._calls.remove(call)
            finished = call.finish_chunk() and not call.failed
        # At most one worker settles: the first that fails, or, if none does, the last one.
        if first_error:
            _settle(call.future, error=error)
        elif finished:
            _settle(call.future, result=call.result)
        del error  # its traceback holds this frame


def _settle(future: Future[Any], *, result: Any = None, error: BaseException | None = None) -> None:
    """Set the result unless the caller has cancelled the future."""
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
