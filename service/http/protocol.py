"""Limits on connections and request heads, below ASGI: uvicorn's HTTP protocol with bounds.

A head (request line and fields) is refused with 431 before any of our code sees it, and before the
API key is looked at, so a client without one costs next to nothing. Silent connections are closed,
idle ones give way when there are too many, and a client that offers HTTP/2 without TLS (`Upgrade:
h2c`: Java's HttpClient, curl --http2) is answered over HTTP/1.1, as RFC 9110, 7.8 allows.

uvicorn has no settings for these: `install` puts the class where uvicorn looks up its own.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, ClassVar

import httptools
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http import problem
from service.http.asgi import LINGER
from service.settings import Settings

MAX_HEAD_BYTES = 32 * 1024  # nginx accepts 4 × 8 KiB, Node 16 KiB
MAX_HEAD_FIELDS = 100  # Apache's LimitRequestFields
WRITE_SECONDS = 60.0  # for a client to read a piece of a response; nginx's send_timeout
HEAD_SECONDS = 10.0  # from connecting, or from a head's first byte, to its last
UVICORN_KEEP_ALIVE = 5  # seconds; what BentoML passes when --timeout-keep-alive is not used
MAX_PIPELINED = 64  # requests behind the one that is answered; no common client sends more
SPARE_FILES = 64  # descriptors of a process that are not connections
UPGRADE_FIELDS = (b"upgrade", b"http2-settings", b"connection")


class HeadTooLargeError(Exception):
    """The head of a request exceeds MAX_HEAD_BYTES or MAX_HEAD_FIELDS."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Class attributes hold the settings of `install`."""

    keep_alive: ClassVar[int] = 75
    grace: ClassVar[float] = 20.0
    max_connections: ClassVar[int] = 960

    def __init__(self, config: Any, *args: Any, **more: Any) -> None:
        super().__init__(config, *args, **more)
        if self.timeout_keep_alive == UVICORN_KEEP_ALIVE:
            self.timeout_keep_alive = self.keep_alive
        if config.timeout_graceful_shutdown is None:
            config.timeout_graceful_shutdown = self.grace
        self._in_head = True
        self._head_bytes = 0  # received while no head was complete
        self._fields_bytes = 0  # of the parsed part: request line, names, values
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._active: Any = None  # the request that is being answered
        self._boundary = False
        self._refused = False

    # asyncio's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; where there are too many, close the one idle longest."""
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > self.max_connections:
            connections: set[Any] = self.connections  # all of this class
            idle = [one for one in connections if one is not self and one.idle]
            victim = min(idle, key=lambda one: one._since, default=self)
            victim.transport.abort()
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, with the requests that were queued on it."""
        self._stop_head_timer()
        self._stop_write_timer()
        self.pipeline.clear()  # nobody reads their answers
        if self._active is not None:  # uvicorn knows the newest request only
            self._active.disconnected = True
            self._active.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, within the limits of a head."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._boundary = False  # whether a message begins or ends in this piece
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._stop_head_timer()
                self.handle_websocket_upgrade()
            else:
                self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, HeadTooLargeError):
                self._refuse(431)
            else:
                self._refuse(400)
            return
        if not self._in_head or self.transport.is_closing():
            return
        if not self._boundary:  # else only a part of the piece, of unknown size, is head
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431)
        elif self._head_bytes and self.idle and self._head_timer is None:
            self._start_head_timer()

    def pause_writing(self) -> None:
        """Wait for a client to read what is buffered for it, but not for ever."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._stop_write_timer()
        super().resume_writing()

    # the parser's side

    def on_message_begin(self) -> None:
        """Start a head."""
        super().on_message_begin()
        self._boundary = True
        self._in_head = True
        self._head_bytes = self._fields_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field."""
        self._count(len(name) + len(value))
        if len(self.headers) >= MAX_HEAD_FIELDS:
            raise HeadTooLargeError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless it is to be parsed again without its offer to upgrade."""
        self._in_head = False
        self._stop_head_timer()
        if not self._declines:
            super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()
        elif self.pipeline:  # uvicorn pauses, and would not see that the client leaves
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """End the request's body; what follows is another head."""
        self._boundary = self._in_head = True
        self._head_bytes = 0
        if not self._declines:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    # our own

    @property
    def idle(self) -> bool:
        """Whether no request is being answered here."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _declines(self) -> bool:
        """Whether the head offers a protocol that is not spoken here."""
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def on_response_complete(self) -> None:
        """Count idle time from here."""
        self._since = self.loop.time()
        super().on_response_complete()

    def _count(self, size: int) -> None:
        self._fields_bytes += size
        if self._fields_bytes > MAX_HEAD_BYTES:
            raise HeadTooLargeError

    def _decline_upgrade(self, rest: bytes) -> None:
        """Parse the head once more, without the offer; `rest` is what followed it."""
        method = self.parser.get_method()
        lines = [method + b" " + self.url + b" HTTP/1.1"]
        lines += [b": ".join(field) for field in self.headers if field[0] not in UPGRADE_FIELDS]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, status: int) -> None:
        """Answer that no request could be made of the bytes, and close."""
        if self.idle:
            body = problem.from_status(status)
            head = (
                f"HTTP/1.1 {status} \r\ncontent-type: {problem.MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
        self._refused = True  # read on for a moment, or a reset would overtake the response
        self.loop.call_later(LINGER, self.transport.close)


def install(settings: Settings) -> None:
    """Have the uvicorn of this process speak through `LimitedProtocol`."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    LimitedProtocol.max_connections = min(settings.max_connections, max(16, files - SPARE_FILES))
    LimitedProtocol.keep_alive = settings.keep_alive
    LimitedProtocol.grace = settings.grace
    uvicorn.config.HTTP_PROTOCOLS["auto"] = LimitedProtocol  # type: ignore[assignment]
