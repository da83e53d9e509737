"""The pool: fair turns, cancelling, failures, nothing kept alive, cores as the container has."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from service.runtime.pool import Call, Pool

WAIT = 20  # seconds until a hanging test fails


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture
def single() -> Iterator[Pool]:
    pool = Pool(1)
    yield pool
    pool.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def test_every_chunk_runs_once_and_the_answer_comes(pool: Pool) -> None:
    ran: list[int] = []
    answer = object()
    future = pool.submit(Call(ran.append, chunks=500, result=answer))
    assert future.result(WAIT) is answer
    assert sorted(ran) == list(range(500))


def test_the_answer_waits_for_the_slowest_chunk(pool: Pool) -> None:
    gate, done = threading.Event(), []

    def run(index: int) -> None:
        if index == 0:
            assert gate.wait(WAIT)
        done.append(index)

    future = pool.submit(Call(run, chunks=20, result=done))
    until(lambda: len(done) == 19)
    assert not future.done()
    gate.set()
    assert sorted(future.result(WAIT)) == list(range(20))


def test_a_pool_is_busy_from_the_first_chunk_to_the_last(pool: Pool) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def run(index: int) -> None:
        begun.set()
        assert go_on.wait(10)

    seen = [pool.busy]
    future = pool.submit(Call(run, chunks=1, result=None))
    assert begun.wait(10)
    seen.append(pool.busy)
    go_on.set()
    future.result(10)
    assert [*seen, pool.busy] == [False, True, False]


def test_chunks_of_one_call_run_on_all_threads_at_once(pool: Pool) -> None:
    both = threading.Barrier(2, timeout=WAIT)
    seen: set[str] = set()

    def run(index: int) -> None:
        both.wait()
        seen.add(threading.current_thread().name)

    pool.submit(Call(run, chunks=2, result=None)).result(WAIT)
    assert len(seen) == 2


def test_a_short_call_overtakes_a_long_one(single: Pool) -> None:
    begun, gate, order = threading.Event(), threading.Event(), []

    def long(index: int) -> None:
        begun.set()
        assert gate.wait(WAIT)
        order.append("long")

    future = single.submit(Call(long, chunks=1000, result=None))
    assert begun.wait(WAIT)
    short = single.submit(Call(lambda _: order.append("short"), chunks=3, result=None))
    gate.set()
    short.result(WAIT)
    future.result(WAIT)
    assert order[:7] == ["long", "long", "short", "long", "short", "long", "short"]
    assert len(order) == 1003


def test_many_calls_share_in_turn(single: Pool) -> None:
    begun, gate, order = threading.Event(), threading.Event(), []

    def block(index: int) -> None:
        begun.set()
        assert gate.wait(WAIT)

    first = single.submit(Call(block, chunks=1, result=None))
    assert begun.wait(WAIT)

    def recorder(name: int) -> Callable[[int], None]:
        return lambda index: order.append((index, name))

    futures = [single.submit(Call(recorder(n), chunks=4, result=None)) for n in range(5)]
    gate.set()
    for future in [first, *futures]:
        future.result(WAIT)
    assert order == [(index, name) for index in range(4) for name in range(5)]


def test_cancelling_drops_the_chunks_that_have_not_begun(single: Pool) -> None:
    begun, gate, ran = threading.Event(), threading.Event(), []

    def run(index: int) -> None:
        begun.set()
        assert gate.wait(WAIT)
        ran.append(index)

    future = single.submit(Call(run, chunks=1000, result=None))
    assert begun.wait(WAIT)
    assert future.cancel()
    gate.set()
    after = single.submit(Call(lambda _: None, chunks=2, result="after"))
    assert after.result(WAIT) == "after"
    assert ran == [0]
    with pytest.raises(CancelledError):
        future.result(WAIT)


@pytest.mark.parametrize("failing", [0, 7, 99])
def test_an_exception_reaches_the_future_and_ends_the_call(single: Pool, failing: int) -> None:
    ran = []

    def run(index: int) -> None:
        ran.append(index)
        if index == failing:
            raise ZeroDivisionError(index)

    future = single.submit(Call(run, chunks=100, result="never"))
    with pytest.raises(ZeroDivisionError, match=str(failing)):
        future.result(WAIT)
    assert single.submit(Call(lambda _: None, chunks=2, result="alive")).result(WAIT) == "alive"
    assert ran == list(range(failing + 1))


def alive(pool: Pool) -> int:
    return sum(worker.is_alive() for worker in pool._workers)


class HeldFuture(Future[Any]):
    """A future that blocks callers of `done` until there are two: both then settle at once."""

    def __init__(self) -> None:
        super().__init__()
        self._both = threading.Barrier(2)

    def done(self) -> bool:
        found = super().done()
        if threading.current_thread().name.startswith("engine-"):
            with suppress(threading.BrokenBarrierError):
                self._both.wait(0.3)
        return found


def test_two_chunks_that_fail_at_the_same_time_kill_no_worker(pool: Pool) -> None:
    together = threading.Barrier(2, timeout=WAIT)

    def run(index: int) -> None:
        together.wait()
        raise ZeroDivisionError(index)

    call = Call(run, chunks=2, result="never")
    call.future = HeldFuture()
    with pytest.raises(ZeroDivisionError):
        pool.submit(call).result(WAIT)
    time.sleep(0.05)
    assert alive(pool) == 2


def test_a_failed_call_never_answers(pool: Pool) -> None:
    """One chunk fails while the last other one ends: whoever settles first, it is the failure."""
    answers = []
    for _ in range(300):
        together = threading.Barrier(2, timeout=WAIT)

        def run(index: int, together: threading.Barrier = together) -> None:
            together.wait()
            if index == 0:
                raise ZeroDivisionError

        future = pool.submit(Call(run, chunks=2, result="half an answer"))
        with suppress(ZeroDivisionError):
            answers.append(future.result(WAIT))
    assert answers == []


class SlowToFail(Future[Any]):
    """A future whose first asker, the failing chunk, is overtaken by the last good chunk."""

    asked = False

    def done(self) -> bool:
        if threading.current_thread().name.startswith("engine-") and not self.asked:
            self.asked = True
            time.sleep(0.2)
        return super().done()


def test_a_failed_call_never_answers_though_its_last_chunk_overtakes_the_failure(
    pool: Pool,
) -> None:
    future, both = SlowToFail(), threading.Barrier(2, timeout=WAIT)

    def run(index: int) -> None:
        both.wait()
        if index == 0:
            raise ZeroDivisionError
        until(lambda: call.exhausted and call._running == 1)  # the failure has been counted
        time.sleep(0.05)

    call = Call(run, chunks=2, result="half an answer")
    call.future = future
    with pytest.raises(ZeroDivisionError):
        pool.submit(call).result(WAIT)


def test_a_random_storm_of_calls(pool: Pool) -> None:
    """Good, failing and cancelled calls from several threads; every future ends, and rightly."""
    problems: list[str] = []

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            chunks, kind = int(rng.integers(2, 12)), rng.choice(["good", "bad", "cancel"])
            bad = int(rng.integers(0, chunks)) if kind == "bad" else -1
            answer = np.zeros(chunks, int)

            def run(index: int, answer: np.ndarray = answer, bad: int = bad) -> None:
                if index == bad:
                    raise ZeroDivisionError
                answer[index] += 1

            future = pool.submit(Call(run, chunks=chunks, result=answer))
            if kind == "cancel":
                future.cancel()
            try:
                found = future.result(WAIT)
                if kind == "bad" or not (found == 1).all():
                    problems.append(f"{kind}: {found}")
            except ZeroDivisionError:
                if kind != "bad":
                    problems.append(f"{kind} failed")
            except CancelledError:
                if kind != "cancel":
                    problems.append(f"{kind} cancelled")

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(2 * WAIT)
    assert problems == []
    assert alive(pool) == 2


class Payload:
    """Something that a weak reference can watch."""


def submit_watched(pool: Pool, ending: str) -> weakref.ref[Payload]:
    """A call that holds a payload and ends in the given way; a weak reference to the payload."""
    payload = Payload()
    begun, gate = threading.Event(), threading.Event()

    def run(index: int, payload: Payload = payload) -> None:
        begun.set()
        assert gate.wait(WAIT)
        if ending == "failed":
            raise ZeroDivisionError

    future = pool.submit(Call(run, chunks=50, result=payload))
    assert begun.wait(WAIT)
    if ending == "cancelled":
        assert future.cancel()
    gate.set()
    with suppress(ZeroDivisionError, CancelledError):
        future.result(WAIT)
    return weakref.ref(payload)


@pytest.mark.parametrize("ending", ["answered", "failed", "cancelled"])
def test_idle_workers_keep_nothing_alive(pool: Pool, ending: str) -> None:
    watched = submit_watched(pool, ending)

    def gone() -> bool:
        gc.collect()
        return watched() is None

    end = time.monotonic() + 2
    while not gone() and time.monotonic() < end:
        time.sleep(0.01)
    assert gone(), "an idle worker holds the call's arrays"


def test_close_finishes_what_is_queued_and_ends_the_threads() -> None:
    pool = Pool(2)
    ran: list[int] = []
    future = pool.submit(Call(ran.append, chunks=100, result=None))
    pool.close()
    future.result(WAIT)
    assert len(ran) == 100
    until(lambda: alive(pool) == 0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(Call(ran.append, chunks=2, result=None))
