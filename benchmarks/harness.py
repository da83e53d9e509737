"""Interleaved timing: candidates in turn, medians, spread, ratios round by round.

On a shared machine the speed of a core changes from second to second. Candidates that run one
after another in each round meet the same conditions, so the ratio of two times of one round is more
reliable than the ratio of two medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

# Idle threads of ONNX Runtime's default session and of OpenBLAS spin before they sleep. A candidate
# that starts within 20 ms runs at about half speed, after 60 ms still more slowly (see LOG.md).
SETTLE = 0.15


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest value, in the same unit."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: tuple[float, ...]) -> Spread:
        """The spread of these values."""
        return cls(median(values), min(values), max(values))

    def times(self, factor: float) -> Spread:
        """All three, multiplied by `factor`."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, one number per round."""

    seconds: tuple[float, ...]

    def rate(self, amount: float) -> Spread:
        """An amount of work per round, as amount per second."""
        return Spread.of(tuple(amount / second for second in self.seconds))

    def speed_over(self, baseline: Timing) -> Spread:
        """How many times as fast as `baseline`, computed within each round."""
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
        candidates: name → function to time, called without arguments.
        rounds: timed rounds, at least 1.
        warmup: untimed rounds.
        settle: seconds of quiet before each call, not counted.
        clock: gives seconds.
        sleep: waits for seconds; tests pass their own clock and sleep.
    """
    for _ in range(warmup):
        for call in candidates.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            sleep(settle)
            start = clock()
            call()
            seconds[name].append(clock() - start)
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

    A service calls the same model again and again, with warm caches; so a fifth more calls run
    before each block, and are not counted.

    Returns:
        name → one `Timing` per round, with the seconds of each call.
    """
    timings: dict[str, list[Timing]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            sleep(settle)
            for _ in range(max(1, block // 5)):
                call()
            seconds = []
            for _ in range(block):
                start = clock()
                call()
                seconds.append(clock() - start)
            timings[name].append(Timing(tuple(seconds)))
    return timings


def percentile(values: list[float], share: float) -> float:
    """The smallest of `values` that at least a `share` (0–1) of them do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]
