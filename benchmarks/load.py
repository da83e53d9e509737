"""A load generator: the bytes of one request, sent again and again over several connections.

It only sends and receives, so that on shared cores the server's time dominates. It runs as a
process of its own: `python -m benchmarks.load HOST PORT CONNECTIONS REQUESTS` reads the request
from stdin and writes the result as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import cast
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


@dataclass
class Load:
    """The result of one load.

    Attributes:
        requests: answered with status 200.
        refused: answered with another status.
        seconds: of the whole load.
        latencies: seconds of each request.
    """

    requests: int = 0
    refused: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

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
    arguments = map(str, (parts.hostname, parts.port, connections, requests))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *arguments],
        input=request_bytes(url, body, headers),
        capture_output=True,
        timeout=120,
        check=True,
    )
    return Load(**json.loads(done.stdout))


class _Connection(asyncio.Protocol):
    """Sends the request, waits for the whole response, and repeats until `turns` ends."""

    def __init__(self, request: bytes, turns: Iterator[int], load: Load) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._request, self._turns, self._load = request, turns, load
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
            ok = self._head.startswith(b"HTTP/1.1 200")
            self._load.requests += ok
            self._load.refused += not ok
            self._head = b""
        if self._missing <= 0:
            self._missing = 0
            self._load.latencies.append(time.perf_counter() - self._start)
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)

    def _next(self) -> None:
        if next(self._turns, None) is None:
            self._transport.close()
            return
        self._start = time.perf_counter()
        self._transport.write(self._request)


async def _run(request: bytes, host: str, port: int, connections: int, requests: int) -> Load:
    loop, load, turns = asyncio.get_running_loop(), Load(), iter(range(requests))
    start = time.perf_counter()
    opened = [
        await loop.create_connection(lambda: _Connection(request, turns, load), host, port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.closed for _, connection in opened))
    load.seconds = time.perf_counter() - start
    return load


if __name__ == "__main__":
    import uvloop

    _host, *_numbers = sys.argv[1:]
    _load = uvloop.run(_run(sys.stdin.buffer.read(), _host, *map(int, _numbers)))
    print(json.dumps(asdict(_load)))
