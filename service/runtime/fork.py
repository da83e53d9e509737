"""Forks of this process: never inside a chunk, and the child renews its threads and locks.

A forked child has the forking thread alone: the others are gone, and what they had locked stays
locked, in ONNX Runtime, too. PyTorch's loaders, multiprocessing and gunicorn fork.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet

MAX_WAIT = 10.0  # seconds; a fork waits no longer for chunks
_POLL = 1e-4  # seconds


class Renewable(Protocol):
    """Something with threads or locks."""

    def renew(self) -> None:
        """In a forked child, which has one thread: replace what the parent's threads have left."""


renewed_in_child: WeakSet[Renewable] = WeakSet()
_inside: set[int] = set()  # threads that run a chunk; one operation on a set is atomic
_forking = threading.Lock()  # held while the process forks


def hold_off(run: Callable[..., None], *arguments: Any) -> None:
    """Run a chunk; a fork waits for its end, and a chunk for the end of a fork."""
    thread = threading.get_ident()
    _inside.add(thread)
    try:
        while _forking.locked():
            _inside.discard(thread)
            with _forking:
                pass
            _inside.add(thread)
        run(*arguments)
    finally:
        _inside.discard(thread)


def _before() -> None:
    _forking.acquire()
    end = time.monotonic() + MAX_WAIT
    while _inside - {threading.get_ident()} and time.monotonic() < end:
        time.sleep(_POLL)


def _after_in_child() -> None:
    _forking.release()
    _inside.intersection_update({threading.get_ident()})
    for thing in list(renewed_in_child):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_forking.release, after_in_child=_after_in_child
    )
