"""The part of ASGI that the gateway uses: request bodies under limits, and responses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from common.errors import BusyError, SlowError, TooLargeError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

# Seconds to keep draining a refused request, so that the client sees the response and not a reset.
LINGER = 2.0

# A body may arrive as slowly as over a bad mobile line, not slower: each one holds a connection and
# memory. Apache's mod_reqtimeout has 500 bytes a second after 20 seconds.
MIN_RATE = 1024  # bytes a second, on average
QUIET = 4 * 2**20  # bytes in use after which freed memory is returned to the system
PIECE = 256 * 1024  # bytes of a response given to the connection at once
FIRST_SECONDS = 10.0  # before the rate counts


class DisconnectedError(Exception):
    """The client disconnected before the response was sent."""


@dataclass(frozen=True)
class Response:
    """A response with its whole body."""

    body: bytes
    media_type: str
    status: int = 200
    headers: tuple[Header, ...] = ()


class Budget:
    """The bytes that requests and responses of a worker hold in memory, and their limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.peak = 0  # since the last `quiet`

    def acquire(self, size: int) -> None:
        """Reserve `size` bytes, or raise BusyError."""
        if self.used + size > self.limit:
            raise BusyError(
                f"{self.used} bytes of requests and responses in memory",
                expected=f"at most {self.limit}",
                hint="Try again in a second.",
            )
        self.used += size
        self.peak = max(self.peak, self.used)

    def quiet(self) -> bool:
        """Whether much memory was in use since the last such moment, and little is now."""
        if self.peak < QUIET or self.used > QUIET / 2:
            return False
        self.peak = 0
        return True

    def release(self, size: int) -> None:
        """Return `size` bytes."""
        self.used -= size


class Body:
    """A request's headers and body; the body is read under limits on bytes, time and memory."""

    def __init__(self, scope: Scope, receive: Receive, budget: Budget) -> None:
        self.complete = False
        self.active = False  # whether it takes one of the places of `concurrency`
        self._receive = receive
        self._budget = budget
        self._size = 0
        self.headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:  # repeated fields are one list (RFC 9110, 5.3)
            known = self.headers.get(name)
            self.headers[name] = value if known is None else known + b", " + value

    def header(self, name: bytes) -> str | None:
        """The value of a header field; `name` in lower case."""
        value = self.headers.get(name)
        return value.decode("latin-1") if value is not None else None

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending the body."""
        has_body = self.headers.get(b"content-length", b"0") != b"0"
        return not self.complete and (has_body or b"transfer-encoding" in self.headers)

    async def read(self, *, limit: int, seconds: float) -> bytes:
        """The whole body.

        Raises:
            TooLargeError: more than `limit` bytes, or a Content-Length above it.
            SlowError: the body is not complete after `seconds`, or slower than MIN_RATE.
            BusyError: the budget is used up.
            DisconnectedError: the client disconnected.
        """
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > limit:  # 20 digits are above any limit
            raise _too_large(int(length[:20]), limit)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(began + min(seconds, FIRST_SECONDS)) as deadline:
                return await self._collect(limit, deadline, began=began, seconds=seconds)
        except TimeoutError as exc:
            elapsed = asyncio.get_running_loop().time() - began
            raise SlowError(
                f"{self._size} bytes of a body in {elapsed:.2g} seconds",
                expected=f"the whole body within {seconds:g} seconds, at {MIN_RATE} bytes a second "
                f"or more after the first {FIRST_SECONDS:g}",
                hint="Send fewer rows per request.",
            ) from exc

    async def _collect(
        self, limit: int, deadline: asyncio.Timeout, *, began: float, seconds: float
    ) -> bytes:
        parts: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            part = message.get("body", b"")
            if self._size + len(part) > limit:
                raise _too_large(self._size + len(part), limit)
            self._budget.acquire(len(part))
            self._size += len(part)
            parts.append(part)
            if not message.get("more_body"):
                self.complete = True
                return parts[0] if len(parts) == 1 else b"".join(parts)
            deadline.reschedule(began + min(seconds, FIRST_SECONDS + self._size / MIN_RATE))

    def count(self, size: int) -> None:
        """Add to the budget what the request takes in memory besides its body.

        Raises:
            TooLargeError: more than the budget has. BusyError: more than is left of it.
        """
        if self._size + size > self._budget.limit:
            raise _too_large(self._size + size, self._budget.limit)
        self._budget.acquire(size)
        self._size += size

    def release(self) -> None:
        """Return the request's bytes to the budget."""
        self._budget.release(self._size)
        self._size = 0

    async def drain(self) -> None:
        """Read and drop the rest of the body, for at most LINGER seconds."""
        try:
            async with asyncio.timeout(LINGER):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return
        except TimeoutError:
            return


async def send_response(
    response: Response, extra: tuple[Header, ...], method: str, send: Send
) -> None:
    """Send status, headers and, unless the method is HEAD, the body, as fast as it is read."""
    await _start(response, extra, send)
    body = b"" if method == "HEAD" else response.body
    for start in range(0, max(1, len(body)), PIECE):
        piece, more = body[start : start + PIECE], start + PIECE < len(body)
        await send({"type": "http.response.body", "body": piece, "more_body": more})


async def send_refusal(
    response: Response, extra: tuple[Header, ...], body: Body, send: Send
) -> None:
    """Respond before the request was read to its end, drain it and close the connection."""
    await _start(response, (*extra, (b"connection", b"close")), send)
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    await body.drain()
    await send({"type": "http.response.body", "body": b""})


async def _start(response: Response, extra: tuple[Header, ...], send: Send) -> None:
    headers = [*response.headers, *extra]
    if response.status != 304:  # Not Modified has no content to describe
        headers = [
            (b"content-type", response.media_type.encode()),
            (b"content-length", b"%d" % len(response.body)),
            *headers,
        ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})


def _too_large(size: int, limit: int) -> TooLargeError:
    return TooLargeError(
        f"a request of {size} bytes or more",
        expected=f"at most {limit}",
        hint="Send fewer rows per request, or uint8 npy, the smallest format.",
    )
