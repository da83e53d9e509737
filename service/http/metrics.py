"""What `/metrics` says of our own routes, with labels from closed sets only.

BentoML's own series cover its own routes. Rows a second are `rate(denoiser_rows_total[1m])`; the
engine's own rate is rows over `denoiser_engine_seconds_total`.
"""

from __future__ import annotations

from typing import Any

# From 1 ms, a single image, to a minute, as many as one request may hold.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one worker; BentoML's `/metrics` adds those of all workers.

    Made in the worker, after BentoML has named the folder that its processes share
    (PROMETHEUS_MULTIPROC_DIR): prometheus_client reads that at import.
    """

    def __init__(self, registry: Any = None) -> None:
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram

        registry = registry or REGISTRY
        self._requests = Counter(
            "denoiser_requests", "Answered requests", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "denoiser_request_seconds",
            "From first byte to answer",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._rows = Counter(
            "denoiser_rows", "Images or latents answered", ["model"], registry=registry
        )
        self._engine = Counter(
            "denoiser_engine_seconds",
            "Time that requests waited for the engine",
            ["model"],
            registry=registry,
        )
        self._refusals = Counter(
            "denoiser_refusals", "Refused requests", ["reason"], registry=registry
        )
        self._in_work = Gauge(
            "denoiser_requests_in_work",
            "Requests in work now",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._pending: dict[tuple[Any, ...], float] = {}
        self._requests_in_work = 0

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is one of our route templates."""
        self._add((self._requests, route, str(status)), 1)
        self._seconds.labels(route).observe(seconds)

    def computed(self, model: str, rows: int, seconds: float) -> None:
        """Count rows that the engine answered, and how long that took."""
        self._add((self._rows, model), rows)
        self._add((self._engine, model), seconds)

    def refused(self, reason: str) -> None:
        """Count one refusal by its problem's slug."""
        self._add((self._refusals, reason), 1)

    def entered(self) -> None:
        """One more request in work."""
        self._requests_in_work += 1

    def left(self) -> None:
        """One request less in work."""
        self._requests_in_work -= 1

    def flush(self) -> None:
        """Write what has gathered to the files that all workers share.

        Each write costs more than parsing a small request, so requests only add to a dict.
        """
        pending, self._pending = self._pending, {}
        for (metric, *labels), amount in pending.items():
            metric.labels(*labels).inc(amount)
        self._in_work.set(self._requests_in_work)

    def _add(self, key: tuple[Any, ...], amount: float) -> None:
        self._pending[key] = self._pending.get(key, 0) + amount
