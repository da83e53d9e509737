"""A load generator: one request's bytes, sent again and again over some connections.

It does nothing but send and receive, so that on shared cores the server is what is measured. Runs
as a process of its own: `python -m benchmarks.load` reads a JSON job from stdin, answers in JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


@dataclass(frozen=True)
class Load:
    """What came of it: requests answered with 200, seconds, and each request's latency (s)."""

    requests: int
    seconds: float
    latencies: tuple[float, ...]
    refused: int
    """Answers of another status."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def request_bytes(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """One HTTP/1.1 POST on a connection that is kept."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def drive(
    url: str, body: bytes, headers: dict[str, str], *, connections: int, requests: int
) -> Load:
    """Send `requests` requests over `connections` connections, each with one in flight."""
    parts = urlsplit(url)
    job = {
        "host": parts.hostname,
        "port": parts.port,
        "request": b64encode(request_bytes(url, body, headers)).decode(),
        "connections": connections,
        "requests": requests,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout)
    return Load(found["ok"], found["seconds"], tuple(found["latencies"]), found["refused"])


class _Connection(asyncio.Protocol):
    """Sends the request, waits for the whole answer, sends it again, until none are left."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._head = b""
        self._missing = 0
        self._begun = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _LENGTH.search(self._head, 0, end + 2)
            length = int(found.group(1)) if found else 0
            self._missing = end + 4 + length - len(self._head)
            self._job.count(self._head.startswith(b"HTTP/1.1 200"))
            self._head = b""
        if self._missing <= 0:
            self._missing = 0
            self._job.latencies.append(time.perf_counter() - self._begun)
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._job.gone()

    def _next(self) -> None:
        if not self._job.take():
            self._transport.close()
            return
        self._begun = time.perf_counter()
        self._transport.write(self._job.request)


class _Job:
    """The requests that are left, and what came of the others."""

    def __init__(self, request: bytes, requests: int, connections: int) -> None:
        self.request = request
        self.latencies: list[float] = []
        self.ok = self.refused = 0
        self.finished = asyncio.Event()
        self._left = requests
        self._open = connections

    def take(self) -> bool:
        self._left -= 1
        return self._left >= 0

    def count(self, ok: bool) -> None:
        self.ok += ok
        self.refused += not ok

    def gone(self) -> None:
        self._open -= 1
        if self._open == 0:
            self.finished.set()


async def _run(job: dict[str, str | int]) -> dict[str, object]:
    connections = int(job["connections"])
    work = _Job(b64decode(str(job["request"])), int(job["requests"]), connections)
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(work), str(job["host"]), int(job["port"]))
    await work.finished.wait()
    seconds = time.perf_counter() - begun
    return {
        "ok": work.ok,
        "refused": work.refused,
        "seconds": seconds,
        "latencies": work.latencies,
    }


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(_run(json.load(sys.stdin)))))
