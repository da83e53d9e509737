"""Request bodies: limits, time, budget, headers; and responses as ASGI messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BusyError, SlowError, TooLargeError
from service.http import asgi
from service.http.asgi import Body, Budget, DisconnectedError, Response, send_refusal, send_response

GONE = None  # in a list of chunks: the client disconnects


def messages(
    chunks: Sequence[bytes | None], *, pause: float = 0
) -> Callable[[], Awaitable[dict[str, Any]]]:
    """A `receive`: one message per chunk, the last one ends the body; then nothing."""
    rest = list(chunks)

    async def receive() -> dict[str, Any]:
        if not rest:
            await asyncio.Event().wait()
        await asyncio.sleep(pause)
        chunk = rest.pop(0)
        if chunk is GONE:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(rest)}

    return receive


def body_of(
    chunks: Sequence[bytes | None],
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    budget: Budget | None = None,
    pause: float = 0,
) -> Body:
    receive = messages(chunks, pause=pause)
    return Body({"headers": list(headers)}, receive, budget or Budget(10**9))


def read(body: Body, *, limit: int = 1000, seconds: float = 5) -> bytes:
    return asyncio.run(body.read(limit=limit, seconds=seconds))


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_a_body_is_its_chunks_joined(chunks: list[bytes]) -> None:
    budget = Budget(1000)
    body = body_of(chunks, budget=budget)
    assert read(body) == b"".join(chunks)
    assert body.complete and not body.unread
    assert budget.used == sum(map(len, chunks))
    body.release()
    body.release()
    assert budget.used == 0


def test_a_body_of_one_chunk_is_not_copied() -> None:
    chunk = b"x" * 500
    assert read(body_of([chunk])) is chunk


def test_messages_without_fields_are_an_empty_body() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    assert read(Body({"headers": []}, receive, Budget(0))) == b""


@pytest.mark.parametrize("chunks", [[b"x" * 11], [b"x" * 10, b"x"], [b"x"] * 11, [b"x"] * 999])
def test_more_than_the_limit(chunks: list[bytes]) -> None:
    budget = Budget(10**9)
    body = body_of(chunks, budget=budget)
    with pytest.raises(TooLargeError, match="expected at most 10"):
        read(body, limit=10)
    assert budget.used <= 10
    body.release()
    assert budget.used == 0
    assert not body.complete


@pytest.mark.parametrize(
    ("length", "refused"),
    [
        (b"11", True),
        (b"9" * 5000, True),
        (b"000000000000000000000000011", False),
        (b"10", False),
        (b"", False),
        (b"-11", False),
        (b"1e9", False),
        ("١١".encode(), False),
    ],
)
def test_a_content_length_above_the_limit_is_refused_unread(length: bytes, refused: bool) -> None:
    async def receive() -> dict[str, Any]:
        if refused:
            pytest.fail("it was read")
        return {"type": "http.request", "body": b"x"}

    body = Body({"headers": [(b"content-length", length)]}, receive, Budget(100))
    if refused:
        with pytest.raises(TooLargeError):
            read(body, limit=10)
    else:
        assert read(body, limit=10) == b"x"


@pytest.mark.parametrize("pause", [0.03, 9])
def test_a_slow_body(pause: float) -> None:
    budget = Budget(1000)
    body = body_of([b"x"] * 100, pause=pause, budget=budget)
    with pytest.raises(SlowError, match=r"bytes of a body in 0\.1 seconds"):
        read(body, seconds=0.1)
    body.release()
    assert budget.used == 0
    assert not body.complete


def test_a_client_that_disconnects() -> None:
    for chunks in ([GONE], [b"x", GONE]):
        with pytest.raises(DisconnectedError):
            read(body_of(chunks))


def test_the_budget_is_shared_and_released() -> None:
    budget = Budget(15)
    first, second = body_of([b"x" * 10], budget=budget), body_of([b"x"] * 10, budget=budget)
    assert len(read(first)) == 10
    with pytest.raises(BusyError, match="15"):
        read(second)
    assert budget.used == 15
    second.release()
    assert budget.used == 10
    first.release()
    assert budget.used == 0
    assert len(read(body_of([b"x" * 15], budget=budget))) == 15


def test_repeated_headers_are_one_list() -> None:
    lines = [(b"accept", b"a/b"), (b"x", b"1"), (b"accept", b"c/d;q=0.5"), (b"accept", b"")]
    body = body_of([b""], headers=lines)
    assert body.header(b"accept") == "a/b, c/d;q=0.5, "
    assert body.header(b"x") == "1"
    assert body.header(b"none") is None
    assert body_of([b""], headers=[(b"x", b"\xff")]).header(b"x") == "ÿ"


@pytest.mark.parametrize(
    ("headers", "unread"),
    [
        ([], False),
        ([(b"content-length", b"0")], False),
        ([(b"content-length", b"5")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
def test_whether_a_client_may_still_be_sending(
    headers: list[tuple[bytes, bytes]], unread: bool
) -> None:
    body = body_of([b"x"], headers=headers)
    assert body.unread is unread
    read(body)
    assert not body.unread


@pytest.mark.parametrize("chunks", [[b"x"] * 50, [b"x", GONE], [b""]])
def test_draining_ends_with_the_body_or_the_connection(chunks: list[bytes | None]) -> None:
    asyncio.run(asyncio.wait_for(body_of(chunks).drain(), 1))


def test_draining_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "LINGER", 0.05)
    asyncio.run(asyncio.wait_for(body_of([b"x"] * 1000, pause=0.01).drain(), 1))


def sent(work: Callable[[Any], Awaitable[None]]) -> list[Any]:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def run() -> None:
        await work(send)

    asyncio.run(run())
    return messages


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response(method: str) -> None:
    response = Response(b"text", "text/plain", 201, ((b"allow", b"GET"),))
    start, body = sent(lambda send: send_response(response, ((b"x", b"y"),), method, send))
    assert start["status"] == 201
    assert start["headers"] == [
        (b"content-type", b"text/plain"),
        (b"content-length", b"4"),
        (b"allow", b"GET"),
        (b"x", b"y"),
    ]
    content = b"" if method == "HEAD" else b"text"
    assert body == {"type": "http.response.body", "body": content, "more_body": False}


def test_a_refusal_is_sent_before_the_rest_is_drained() -> None:
    order: list[str] = []
    receive = messages([b"x"] * 3)

    async def watched() -> Any:
        order.append("receive")
        return await receive()

    body = Body({"headers": [(b"content-length", b"3")]}, watched, Budget(9))

    async def work(send: Any) -> None:
        async def noted(message: Any) -> None:
            order.append(message["type"].rpartition(".")[2])
            await send(message)

        await send_refusal(Response(b"no", "text/plain", 413), (), body, noted)

    start, first, last = sent(work)
    assert (b"connection", b"close") in start["headers"]
    assert (first["body"], first["more_body"]) == (b"no", True)
    assert last == {"type": "http.response.body", "body": b""}
    assert order == ["start", "body", "receive", "receive", "receive", "body"]


@pytest.mark.parametrize(("pause", "fast"), [(0.02, True), (0.1, False)])
def test_a_body_keeps_a_rate(monkeypatch: pytest.MonkeyPatch, pause: float, fast: bool) -> None:
    """After the first seconds a body that drips is refused, long before the whole time is over."""
    monkeypatch.setattr(asgi, "FIRST_SECONDS", 0.3)
    monkeypatch.setattr(asgi, "MIN_RATE", 200)
    body = body_of([b"x" * 10] * 15, pause=pause)
    if fast:
        assert len(read(body, seconds=60)) == 150
        return
    began = time.monotonic()
    with pytest.raises(SlowError, match="200 bytes a second"):
        read(body, seconds=60)
    assert time.monotonic() - began < 1.4
