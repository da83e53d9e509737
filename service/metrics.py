"""What `/metrics` says of our own routes, with labels from closed sets only.

BentoML's own series cover its own routes. Rows a second are `rate(denoiser_rows_total[1m])`; the
engine's own rate is rows over `denoiser_engine_seconds_total`.
"""

from __future__ import annotations

from functools import lru_cache
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
        # Looking a child up by its labels costs more than counting.
        self._child = lru_cache(maxsize=512)(lambda metric, *labels: metric.labels(*labels))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is one of our route templates."""
        self._child(self._requests, route, str(status)).inc()
        self._child(self._seconds, route).observe(seconds)

    def computed(self, model: str, rows: int, seconds: float) -> None:
        """Count rows that the engine answered, and how long that took."""
        self._child(self._rows, model).inc(rows)
        self._child(self._engine, model).inc(seconds)

    def refused(self, reason: str) -> None:
        """Count one refusal by its problem's slug."""
        self._child(self._refusals, reason).inc()

    def in_work(self, requests: int) -> None:
        """Set the gauge."""
        self._in_work.set(requests)
