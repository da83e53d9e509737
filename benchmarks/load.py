"""A load generator: the bytes of one request, sent again and again over several connections.

It only sends and receives, so that on shared cores the server's time dominates. It runs as a
process of its own: `python -m benchmarks.load` reads a job from stdin and writes the result, both
as JSON.
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
    """The result of one load.

    Attributes:
        requests: answered with status 200.
        refused: answered with another status.
        seconds: of the whole load.
        latencies: seconds of each request.
    """

    requests: int
    refused: int
    seconds: float
    latencies: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def request_bytes(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """One HTTP/1.1 POST on a persistent connection."""
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
    result = json.loads(done.stdout)
    return Load(**{**result, "latencies": tuple(result["latencies"])})


class _Connection(asyncio.Protocol):
    """Sends the request, waits for the whole response, and repeats until none are left."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._head = b""
        self._missing = 0
        self._start = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has its interface
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            match = _LENGTH.search(self._head, 0, end + 2)
            length = int(match.group(1)) if match else 0
            self._missing = end + 4 + length - len(self._head)
            self._job.count(self._head.startswith(b"HTTP/1.1 200"))
            self._head = b""
        if self._missing <= 0:
            self._missing = 0
            self._job.latencies.append(time.perf_counter() - self._start)
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._job.closed()

    def _next(self) -> None:
        if not self._job.take():
            self._transport.close()
            return
        self._start = time.perf_counter()
        self._transport.write(self._job.request)


class _Job:
    """The requests that are left, and the results of the others."""

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

    def closed(self) -> None:
        self._open -= 1
        if self._open == 0:
            self.finished.set()


async def _run(job: dict[str, str | int]) -> dict[str, object]:
    connections = int(job["connections"])
    work = _Job(b64decode(str(job["request"])), int(job["requests"]), connections)
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(work), str(job["host"]), int(job["port"]))
    await work.finished.wait()
    return {
        "requests": work.ok,
        "refused": work.refused,
        "seconds": time.perf_counter() - start,
        "latencies": work.latencies,
    }


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(_run(json.load(sys.stdin)))))
