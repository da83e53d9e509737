"""Long work in bounded steps, so that work for other clients runs in between.

A codec that may take longer than some milliseconds is a generator: it yields after each piece of
its work, and returns its result.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]


def step(work: Steps[T]) -> tuple[T] | None:
    """Do one piece; a tuple with the result after the last one."""
    try:
        next(work)
    except StopIteration as end:
        return (end.value,)
    return None


def finish(work: Steps[T]) -> T:
    """Do all that is left."""
    while (result := step(work)) is None:
        pass
    return result[0]
