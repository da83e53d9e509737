"""One request to the gateway in this process, by hand-made ASGI messages."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import prometheus_client

from common.arrays import Array
from service.http.formats import JSON
from service.http.gateway import Gateway
from service.http.metrics import Metrics
from service.settings import Settings


class Inner:
    """The app behind a gateway: records its calls, answers with `status` and a secret."""

    def __init__(self, status: int = 200, *, fails: bool = False, begins: bool = False) -> None:
        self.asked: list[tuple[str, Any]] = []
        self._status = status
        self._fails = fails
        self._begins = begins or not fails

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append((scope["type"], scope.get("path")))
        if scope["type"] != "http":
            return
        if self._begins:
            headers = [(b"content-type", b"text/plain")]
            start = {"type": "http.response.start", "status": self._status, "headers": headers}
            await send(start)
        if self._fails:
            raise RuntimeError("secret /path/of/the/machine")
        await send({"type": "http.response.body", "body": b"inner: /path/of/the/machine"})


@dataclass
class Reply:
    """What a gateway sent.

    `received` counts the request messages that it read, `before` those read before it answered.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    received: int
    before: int
    metrics: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def array(self) -> Array:
        loaded: Array = np.load(io.BytesIO(self.body))
        return loaded


def ask(
    engine: Any,
    method: str,
    path: str,
    *,
    chunks: Iterable[bytes] = (b"",),
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    query: bytes = b"",
    disconnect: bool = False,
    pause: float = 0,
    inner: Any = None,
    static: Iterable[str] = (),
    **settings: Any,
) -> Reply | None:
    """One request to a new gateway; None if it sent nothing.

    `disconnect` ends the connection after the chunks; `pause` is seconds before each of them.
    """
    parts = list(chunks)
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": disconnect or k < len(parts) - 1}
        for k, part in enumerate(parts)
    ]
    if disconnect:
        messages.append({"type": "http.disconnect"})
    received = before = 0
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        nonlocal received
        if received == len(messages):
            await asyncio.Event().wait()  # the client waits for the response
        received += 1
        await asyncio.sleep(pause)
        return messages[received - 1]

    async def send(message: Any) -> None:
        nonlocal before
        if message["type"] == "http.response.start":
            before = received
        sent.append(message)

    pairs = headers.items() if isinstance(headers, Mapping) else headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in pairs],
    }
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry=registry)
    gateway = Gateway(
        inner or Inner(),
        engine=lambda: engine,
        metrics=lambda: metrics,
        settings=Settings(**settings),
        static=static,
    )
    asyncio.run(gateway(scope, receive, send))
    if not sent:
        return None
    start, *bodies = sent
    assert start["type"] == "http.response.start"
    assert {message["type"] for message in bodies} == {"http.response.body"}
    assert [bool(message.get("more_body")) for message in bodies[:-1]] == [True] * len(bodies[1:])
    assert not bodies[-1].get("more_body")
    names = [name for name, _ in start["headers"]]
    assert len(set(names)) == len(names)
    headers_sent = {name.decode(): value.decode() for name, value in start["headers"]}
    body = b"".join(message.get("body", b"") for message in bodies)
    if method != "HEAD" and "content-length" in headers_sent:
        assert int(headers_sent["content-length"]) == len(body)
    metrics.flush()
    text = prometheus_client.generate_latest(registry).decode()
    return Reply(start["status"], headers_sent, body, received, before, text)


def post(engine: Any, path: str, body: bytes, content_type: str = JSON, **rest: Any) -> Reply:
    """POST with a Content-Type."""
    headers = {"content-type": content_type, **rest.pop("headers", {})}
    reply = ask(engine, "POST", path, chunks=rest.pop("chunks", [body]), headers=headers, **rest)
    assert reply is not None
    return reply


def npy(array: Array) -> bytes:
    """What numpy.save writes."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
