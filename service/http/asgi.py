"""The part of ASGI that the gateway speaks: bodies in, under limits, and answers out."""

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

# How long, in seconds, a client that was refused before its body was read may go on sending, so
# that it reads the refusal instead of a reset connection.
LINGER = 2.0


class DisconnectedError(Exception):
    """The client went away before it had its answer."""


@dataclass(frozen=True)
class Answer:
    """A complete response."""

    body: bytes
    media_type: str
    status: int = 200
    headers: tuple[Header, ...] = ()


class Budget:
    """Bytes of bodies that are in memory at once, counted as they arrive."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        if self.used + size > self.limit:
            raise BusyError(
                f"{self.used} bytes of bodies in work",
                expected=f"at most {self.limit}",
                hint="Try again in a second.",
            )
        self.used += size

    def give(self, size: int) -> None:
        self.used -= size


class Body:
    """A request's body: read once, under a byte limit, a time limit and the shared budget."""

    def __init__(self, scope: Scope, receive: Receive, budget: Budget) -> None:
        self.complete = False
        self._receive = receive
        self._budget = budget
        self._taken = 0
        self.headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:  # a repeated field means its values, comma-joined
            known = self.headers.get(name)
            self.headers[name] = value if known is None else known + b", " + value

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return value.decode("latin-1") if value is not None else None

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending."""
        has_body = self.headers.get(b"content-length", b"0") != b"0"
        return not self.complete and (has_body or b"transfer-encoding" in self.headers)

    async def read(self, *, limit: int, seconds: float) -> bytes:
        """All of it.

        Raises:
            TooLargeError: more than `limit` bytes came, or are announced. SlowError: not complete
                within `seconds`. BusyError: the budget is spent. DisconnectedError.
        """
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced[:20]) > limit:  # longer ones are too large as well
            raise _too_large(int(announced[:20]), limit)
        try:
            async with asyncio.timeout(seconds):
                return await self._collect(limit)
        except TimeoutError as exc:
            raise SlowError(
                f"{self._taken} bytes of a body in {seconds:g} seconds",
                expected="the whole body by then",
                hint="Send it faster, or fewer rows at a time.",
            ) from exc

    async def _collect(self, limit: int) -> bytes:
        parts: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            part = message.get("body", b"")
            if self._taken + len(part) > limit:
                raise _too_large(self._taken + len(part), limit)
            self._budget.take(len(part))
            self._taken += len(part)
            parts.append(part)
            if not message.get("more_body"):
                self.complete = True
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def count(self, size: int) -> None:
        """Take more of the budget: what the body has become, decompressed."""
        self._budget.take(size)
        self._taken += size

    def release(self) -> None:
        """Give the bytes back to the budget."""
        self._budget.give(self._taken)
        self._taken = 0

    async def drain(self) -> None:
        """Read and drop what still comes, for a moment."""
        try:
            async with asyncio.timeout(LINGER):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return
        except TimeoutError:
            return


async def send_answer(answer: Answer, extra: tuple[Header, ...], method: str, send: Send) -> None:
    """Send status, headers and body (no body for HEAD)."""
    await _start(answer, extra, send)
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})


async def send_refusal(answer: Answer, extra: tuple[Header, ...], body: Body, send: Send) -> None:
    """Send an answer before its request was read to the end, then let the connection end."""
    await _start(answer, (*extra, (b"connection", b"close")), send)
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    await body.drain()
    await send({"type": "http.response.body", "body": b""})


async def _start(answer: Answer, extra: tuple[Header, ...], send: Send) -> None:
    headers = [*answer.headers, *extra]
    if answer.status != 304:  # which has no content to describe
        headers = [
            (b"content-type", answer.media_type.encode()),
            (b"content-length", b"%d" % len(answer.body)),
            *headers,
        ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})


def _too_large(size: int, limit: int) -> TooLargeError:
    return TooLargeError(
        f"a body of {size} bytes or more",
        expected=f"at most {limit}",
        hint="Send fewer rows at a time, or uint8 npy, which is the smallest format.",
    )
