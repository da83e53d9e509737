"""An engine in forked children, as PyTorch's loaders, multiprocessing and gunicorn make them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest

from service.engine import Engine
from service.runtime.pool import Call, Pool
from tests.support.paths import DATA, ROOT
from tests.support.tiny import GREY, TinyNetwork, some_images

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

FORK = multiprocessing.get_context("fork")
WAIT = 20  # seconds until a hanging child fails


@pytest.fixture
def engine() -> Engine:
    return Engine.load(DATA / "bundles" / "grey", threads=2)


def in_child(run: Callable[[], None]) -> int | None:
    """The exit status of `run` in a forked child; None if it hangs."""
    child = FORK.Process(target=run)
    child.start()
    child.join(WAIT)
    try:
        return child.exitcode
    finally:
        child.kill()


@pytest.mark.parametrize("before", [0, 1, 500])
def test_both_compute_after_a_fork(engine: Engine, before: int) -> None:
    network = TinyNetwork.committed(GREY)
    images = some_images(500)

    def compute() -> None:
        for rows in (images, images[:1], images):
            np.testing.assert_allclose(engine.encode(rows), network.encode(rows), atol=1e-5)

    def with_a_grandchild() -> None:
        compute()
        assert in_child(compute) == 0

    engine.encode(images[:before])
    assert in_child(with_a_grandchild) == 0
    compute()


def test_forks_while_other_threads_compute(engine: Engine) -> None:
    images, stop = some_images(200), threading.Event()

    def compute() -> None:
        assert engine.denoise(images).shape == images.shape

    def on_and_on(rows: int) -> None:
        while not stop.is_set():
            engine.denoise(images[:rows])

    threads = [threading.Thread(target=on_and_on, args=(rows,)) for rows in (1, 200)]
    for thread in threads:
        thread.start()
    try:
        assert [in_child(compute) for _ in range(20)] == [0] * 20
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT)
    assert not any(thread.is_alive() for thread in threads)


def test_a_call_of_the_parent_is_cancelled_in_the_child() -> None:
    pool, started, gate = Pool(1), threading.Event(), threading.Event()

    def run(index: int) -> None:
        started.set()
        gate.wait(0.2)

    future: Future[Any] = pool.submit(Call(run, chunks=3, result="done"))
    assert started.wait(WAIT)

    def wait() -> None:
        with pytest.raises(CancelledError):
            future.result(WAIT)
        assert pool.submit(Call(lambda _: None, chunks=3, result=1)).result(WAIT) == 1

    assert in_child(wait) == 0
    assert future.result(WAIT) == "done"
    pool.close()


def test_a_child_with_a_session_of_several_threads_ends_by_itself() -> None:
    """Its destructor would wait for threads that are the parent's."""
    code = """
import os, sys
import numpy as np
from service.runtime import session
session.MULTITHREAD_MIN_SECONDS = 0
from service.engine import Engine
engine = Engine.load("tests/data/bundles/grey", threads=2)
images = np.zeros((2, 8, 8, 1), np.float32)
assert engine._sessions["encoder"].multithreaded
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
for _ in range(100):
    engine.encode(images)
sys.exit(7)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=WAIT)
    assert run.returncode == 7
