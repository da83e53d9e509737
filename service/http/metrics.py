"""Prometheus metrics of our own routes; every label has a closed set of values.

BentoML counts its own routes. Rows per second are `rate(denoiser_rows_total[1m])`; the engine's
throughput is the rate of rows over that of `denoiser_engine_seconds_total`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Seconds: from one image to the largest request.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Metrics of one worker; BentoML's `/metrics` sums those of all workers.

    Create it in the worker, after BentoML has set PROMETHEUS_MULTIPROC_DIR, the folder that its
    processes share: prometheus_client reads it at import.
    """

    def __init__(self, registry: Any = None) -> None:
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram

        shared = registry is None
        registry = registry or REGISTRY
        self._requests = Counter(
            "denoiser_requests", "Responses sent", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "denoiser_request_seconds",
            "From the first byte of the request to the response",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._rows = Counter(
            "denoiser_rows", "Images or latents computed", ["model"], registry=registry
        )
        self._engine = Counter(
            "denoiser_engine_seconds",
            "Seconds that requests waited for the engine",
            ["model"],
            registry=registry,
        )
        self._refusals = Counter(
            "denoiser_refusals", "Refused requests", ["reason"], registry=registry
        )
        self._in_progress = Gauge(
            "denoiser_requests_in_progress",
            "Requests in progress",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR") if shared else None
        self._pending: dict[tuple[Any, ...], float] = {}
        self._requests_in_progress = 0

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is a label of the table of routes."""
        self._add((self._requests, route, str(status)), 1)
        self._seconds.labels(route).observe(seconds)

    def computed(self, model: str, rows: int, seconds: float) -> None:
        """Count rows that the engine computed, and its seconds."""
        self._add((self._rows, model), rows)
        self._add((self._engine, model), seconds)

    def refused(self, reason: str) -> None:
        """Count one refusal by its problem's slug."""
        self._add((self._refusals, reason), 1)

    def entered(self) -> None:
        """One more request in progress."""
        self._requests_in_progress += 1

    def left(self) -> None:
        """One request less in progress."""
        self._requests_in_progress -= 1

    def flush(self) -> None:
        """Write the pending counts to the files that all workers share.

        One write takes longer than parsing a small request, so requests only add to a dict.
        """
        pending, self._pending = self._pending, {}
        for (metric, *labels), amount in pending.items():
            metric.labels(*labels).inc(amount)
        self._in_progress.set(self._requests_in_progress)

    def forget_dead_workers(self) -> None:
        """Drop the gauges of worker processes that no longer exist, however they ended."""
        if self._shared is None:
            return
        from prometheus_client.multiprocess import mark_process_dead

        for path in Path(self._shared).glob("gauge_live*_*.db"):
            pid = int(path.stem.rpartition("_")[2])
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                mark_process_dead(pid, self._shared)  # type: ignore[no-untyped-call]
            except PermissionError:  # alive, and somebody else's
                pass

    def _add(self, key: tuple[Any, ...], amount: float) -> None:
        self._pending[key] = self._pending.get(key, 0) + amount
