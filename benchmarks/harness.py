"""Interleaved timing: candidates in turn, medians, spread, ratios round by round.

On a shared machine the speed of a core changes from second to second. Candidates that run one
after another inside each round meet the same weather; the ratio of two times from one round is
then worth more than the ratio of two medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

# Idle threads of ONNX Runtime's default session and of OpenBLAS spin before they sleep. Whoever
# comes next within 20 ms runs at about half speed, after 60 ms still slower (see LOG.md).
SETTLE = 0.15


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some numbers, all in the same unit."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: tuple[float, ...]) -> Spread:
        return cls(median(values), min(values), max(values))

    def times(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, one number for each round."""

    seconds: tuple[float, ...]

    def rate(self, amount: float) -> Spread:
        """`amount` of something a round, as amount per second."""
        return Spread.of(tuple(amount / second for second in self.seconds))

    def speed_over(self, baseline: Timing) -> Spread:
        """How many times as fast as `baseline`, taken within each round."""
        pairs = zip(baseline.seconds, self.seconds, strict=True)
        return Spread.of(tuple(other / mine for other, mine in pairs))


def interleave(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 1,
    settle: float = SETTLE,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Timing]:
    """Time each candidate once a round, in the order given, after `warmup` untimed rounds.

    Args:
        candidates: name → what to time; called without arguments.
        rounds: timed rounds, at least 1.
        settle: seconds of quiet before each call, not counted.
        clock: seconds; `sleep` waits for some. A test hands in its own.
    """
    for _ in range(warmup):
        for call in candidates.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            sleep(settle)
            begin = clock()
            call()
            seconds[name].append(clock() - begin)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def latencies(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    block: int,
    settle: float = SETTLE,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[Timing]]:
    """Time single calls in blocks: `block` calls of A, then of B, … and again.

    A service calls the same model again and again, so what counts is a call into warm caches:
    the first fifth of each block is not counted.

    Returns:
        name → one `Timing` a round, each of the block's calls.
    """
    found: dict[str, list[Timing]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            sleep(settle)
            for _ in range(max(1, block // 5)):
                call()
            seconds = []
            for _ in range(block):
                begin = clock()
                call()
                seconds.append(clock() - begin)
            found[name].append(Timing(tuple(seconds)))
    return found


def percentile(values: list[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0–1) of them do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]
