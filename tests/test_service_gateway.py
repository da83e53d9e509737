"""The ASGI gateway, driven in process by hand-made `receive` and `send`."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.engine import CHUNK, Engine
from service.formats import JSON, NPY, PNG
from service.gateway import INLINE_BYTES, Gateway

MAX_BODY = 200_000
PROBLEM = "application/problem+json"


class Inner:
    """The app behind the gateway: notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append((scope["type"], scope.get("path")))


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    received: int  # messages that the gateway took

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def array(self) -> np.ndarray:
        loaded: np.ndarray = np.load(io.BytesIO(self.body))
        return loaded


def ask(
    engine: Any,
    method: str,
    path: str,
    *,
    chunks: Iterable[bytes] = (b"",),
    headers: dict[str, str] | None = None,
    query: bytes = b"",
    disconnect: bool = False,
    max_body: int = MAX_BODY,
    inner: Any = None,
) -> Reply | None:
    """One request; None if the gateway sent nothing."""
    parts = list(chunks)
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": disconnect or k < len(parts) - 1}
        for k, part in enumerate(parts)
    ]
    if disconnect:
        messages.append({"type": "http.disconnect"})
    taken, sent = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal taken
        assert taken < len(messages), "asked for more than the client sends"
        taken += 1
        return messages[taken - 1]

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
    }
    gateway = Gateway(inner or Inner(), engine=lambda: engine, max_body=max_body)
    asyncio.run(gateway(scope, receive, send))
    if not sent:
        return None
    start, body = sent
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    assert not body.get("more_body")
    names = [name for name, _ in start["headers"]]
    assert len(set(names)) == len(names)
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    if method != "HEAD":
        assert int(told["content-length"]) == len(body["body"])
    return Reply(start["status"], told, body["body"], taken)


def post(engine: Any, path: str, body: bytes, content_type: str = JSON, **rest: Any) -> Reply:
    headers = {"content-type": content_type, **rest.pop("headers", {})}
    reply = ask(engine, "POST", path, chunks=rest.pop("chunks", [body]), headers=headers, **rest)
    assert reply is not None
    return reply


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def images(size: int, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(size)
    if dtype == "uint8":
        return rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8)
    return rng.random((size, 8, 8, 1), dtype=np.float32)


@pytest.mark.parametrize("size", [0, 1, CHUNK + 1, 300])
def test_each_route_answers_npy_as_the_engine_does(engine: Engine, size: int) -> None:
    some, latents = images(size), np.ones((size, 4), np.float32)
    for path, body, wanted in [
        ("/encode", some, engine.encode(some)),
        ("/decode", latents, engine.decode(latents)),
        ("/denoise", some, engine.denoise(some)),
    ]:
        reply = post(engine, path, npy(body), NPY)
        assert (reply.status, reply.headers["content-type"]) == (200, NPY)
        assert reply.headers["x-model-fingerprint"] == engine.manifest.fingerprint
        np.testing.assert_array_equal(reply.array, wanted)


def test_each_route_answers_json_as_the_engine_does(engine: Engine) -> None:
    some, latents = images(3), np.ones((3, 4), np.float32)
    for path, source, body, answer, wanted in [
        ("/encode", "images", some, "latents", engine.encode(some)),
        ("/decode", "latents", latents, "images", engine.decode(latents)),
        ("/denoise", "images", some, "images", engine.denoise(some)),
    ]:
        reply = post(engine, path, json.dumps({source: body.tolist()}).encode())
        assert (reply.status, reply.headers["content-type"]) == (200, JSON)
        assert list(reply.json) == [answer]
        np.testing.assert_array_equal(np.array(reply.json[answer], np.float32), wanted)


def test_png_in_and_out(engine: Engine) -> None:
    one = images(1, "uint8")
    stream = io.BytesIO()
    Image.fromarray(one[0, :, :, 0]).save(stream, "PNG")
    reply = post(engine, "/denoise", stream.getvalue(), PNG)
    assert (reply.status, reply.headers["content-type"]) == (200, PNG)
    with Image.open(io.BytesIO(reply.body)) as image:
        np.testing.assert_array_equal(
            np.asarray(image), engine.denoise(one, dtype="uint8")[0, :, :, 0]
        )
    reply = post(engine, "/encode", stream.getvalue(), PNG)
    np.testing.assert_array_equal(np.array(reply.json["latents"], np.float32), engine.encode(one))


@pytest.mark.parametrize(
    ("came", "query", "dtype"),
    [
        ("uint8", b"", "uint8"),
        ("float32", b"", "float32"),
        ("uint8", b"dtype=float32", "float32"),
        ("float32", b"dtype=uint8", "uint8"),
        ("float32", b"dtype=float32&dtype=uint8", "uint8"),
        ("float32", b"dtype=", "float32"),
        ("float32", b"other=1", "float32"),
    ],
)
def test_npy_answers_in_the_dtype_that_came_or_was_asked(
    engine: Engine, came: str, query: bytes, dtype: str
) -> None:
    reply = post(engine, "/denoise", npy(images(3, came)), NPY, query=query)
    assert reply.array.dtype == dtype
    wanted = engine.denoise(images(3, came), dtype=dtype)  # type: ignore[arg-type]
    np.testing.assert_array_equal(reply.array, wanted)


@pytest.mark.parametrize("query", [b"dtype=float64", b"dtype=UINT8", b"dtype=%00", b"dtype=\xff"])
def test_other_dtypes_are_refused(engine: Engine, query: bytes) -> None:
    reply = post(engine, "/denoise", npy(images(1)), NPY, query=query)
    assert (reply.status, reply.json["expected"]) == (422, "uint8 or float32")


def test_the_dtype_option_leaves_other_formats_alone(engine: Engine) -> None:
    some = images(2)
    body = json.dumps({"images": some.tolist()}).encode()
    reply = post(engine, "/denoise", body, query=b"dtype=uint8")
    assert max(np.ravel(reply.json["images"])) <= 1
    reply = post(engine, "/encode", npy(some), NPY, query=b"dtype=uint8")
    np.testing.assert_array_equal(reply.array, engine.encode(some))


def split(body: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(body[:size])
        body = body[size:]
    return [*parts, body]


@pytest.mark.parametrize("sizes", [[], [1], [0, 0, 5], [6, 2, 118, 1], [10] * 50])
def test_a_body_may_come_in_pieces(engine: Engine, sizes: list[int]) -> None:
    some = images(CHUNK + 5)
    chunks = split(npy(some), sizes)
    reply = post(engine, "/encode", b"", NPY, chunks=chunks)
    assert reply.received == len(chunks)
    np.testing.assert_array_equal(reply.array, engine.encode(some))


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_bodies_on_both_sides_of_the_inline_limit(engine: Engine, more: int) -> None:
    body = b'{"images": []}'
    body += b" " * (INLINE_BYTES + more - len(body))
    assert post(engine, "/encode", body).json == {"latents": []}


def test_the_limit_belongs_to_what_is_allowed(engine: Engine) -> None:
    body = b'{"images": []}'.ljust(1000)
    headers = {"content-length": "1000"}
    reply = post(engine, "/encode", body, headers=headers, max_body=1000)
    assert reply.status == 200
    for length in ({}, {"content-length": "1001"}):
        reply = post(engine, "/encode", body + b" ", headers=length, max_body=1000)
        assert reply.status == 413


def test_an_honest_content_length_is_refused_before_a_byte_is_read(engine: Engine) -> None:
    reply = post(engine, "/encode", b"x", headers={"content-length": str(MAX_BODY + 1)})
    assert (reply.status, reply.received) == (413, 0)
    assert reply.headers["connection"] == "close"
    assert str(MAX_BODY) in reply.json["expected"]


@pytest.mark.parametrize("length", [None, "10", "-1", "ten", "", "9" * 5000, "1_0", "0x10"])
def test_the_cap_counts_whatever_content_length_says(engine: Engine, length: str | None) -> None:
    headers = {} if length is None else {"content-length": length}
    reply = post(engine, "/encode", b"", headers=headers, chunks=[b" " * 1000] * 1000)
    assert reply.status == 413
    assert reply.received <= MAX_BODY // 1000 + 1  # no more was read than was needed to tell


@pytest.mark.parametrize("chunks", [[b""], [b'{"images": '], [b"x" * 100] * 5])
def test_a_client_that_leaves_gets_nothing_and_hurts_nobody(
    engine: Engine, chunks: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(engine, "POST", "/encode", chunks=chunks, disconnect=True) is None
    assert caplog.records == []


def test_model_is_the_manifest(engine: Engine) -> None:
    reply = ask(engine, "GET", "/model")
    assert reply is not None
    assert (reply.status, reply.headers["content-type"]) == (200, JSON)
    assert reply.json == engine.manifest.as_dict()
    assert reply.headers["x-model-fingerprint"] == reply.json["fingerprint"]


def test_head_model_has_the_headers_and_no_body(engine: Engine) -> None:
    get, head = ask(engine, "GET", "/model"), ask(engine, "HEAD", "/model")
    assert get is not None and head is not None
    assert (head.status, head.body) == (200, b"")
    assert head.headers == get.headers
    assert int(head.headers["content-length"]) == len(get.body) > 0


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/encode", "POST"),
        ("HEAD", "/encode", "POST"),
        ("PUT", "/decode", "POST"),
        ("DELETE", "/denoise", "POST"),
        ("PATCH", "/denoise", "POST"),
        ("POST", "/model", "GET, HEAD"),
        ("BREW", "/model", "GET, HEAD"),
    ],
)
def test_other_methods_are_told_which_are_allowed(
    engine: Engine, method: str, path: str, allow: str
) -> None:
    reply = ask(engine, method, path)
    assert reply is not None
    assert (reply.status, reply.headers["allow"]) == (405, allow)
    assert reply.headers["content-type"] == PROBLEM
    if method == "HEAD":
        assert reply.body == b""
    else:
        assert reply.json["type"] == "urn:denoiser:problem:method"


WRONG = [
    ("/encode", b"", JSON, {}, 400),
    ("/encode", b"{}", JSON, {}, 400),
    ("/encode", b"not json", JSON, {}, 400),
    ("/encode", b'{"images": [[NaN]]}', JSON, {}, 400),
    ("/encode", b"", NPY, {}, 400),
    ("/encode", b"", PNG, {}, 400),
    ("/denoise", b"\xff\xd8\xff", PNG, {}, 400),
    ("/encode", b"a=1", "application/x-www-form-urlencoded", {}, 415),
    ("/decode", b"", PNG, {}, 415),
    ("/encode", b"{}", JSON, {"accept": "image/png"}, 406),
    ("/denoise", npy(images(2)), NPY, {"accept": "image/png"}, 406),
    ("/denoise", npy(images(0)), NPY, {"accept": "image/png"}, 406),
    ("/encode", npy(np.zeros((1, 9, 9, 1), np.uint8)), NPY, {}, 422),
    ("/encode", npy(np.zeros((1, 8, 8, 1))), NPY, {}, 422),
    ("/encode", npy(np.full((1, 8, 8, 1), np.nan, np.float32)), NPY, {}, 422),
    ("/encode", npy(np.full((100, 8, 8, 1), 2, np.float32)), NPY, {}, 422),
    ("/denoise", npy(np.full((100, 8, 8, 1), -1, np.float32)), NPY, {}, 422),
    ("/decode", npy(np.full((1, 4), np.inf, np.float32)), NPY, {}, 422),
    ("/decode", b'{"latents": [[1e39, 0, 0, 0]]}', JSON, {}, 422),
    ("/encode", b'{"images": [["a"]]}', JSON, {}, 422),
    ("/encode", b'{"images": [[[0.5]], [[1.5]]]}', JSON, {}, 422),
]


@pytest.mark.parametrize(("path", "body", "content_type", "headers", "status"), WRONG)
def test_bad_input_is_a_problem_with_three_parts(
    engine: Engine,
    path: str,
    body: bytes,
    content_type: str,
    headers: dict[str, str],
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reply = post(engine, path, body, content_type, headers=headers)
    assert (reply.status, reply.headers["content-type"]) == (status, PROBLEM)
    assert reply.headers["x-model-fingerprint"] == engine.manifest.fingerprint
    told = reply.json
    assert told["status"] == status
    assert told["type"].startswith("urn:denoiser:problem:")
    assert all(told[part] for part in ("title", "detail", "came", "expected", "todo"))
    assert "Traceback" not in reply.body.decode()
    assert caplog.records == []  # a client's mistake is no line in the server's log


class Broken:
    """An engine that fails inside, with something secret in the message."""

    def __init__(self, engine: Engine) -> None:
        self.manifest = engine.manifest

    def submit(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("secret /path/of/the/machine")


@pytest.mark.parametrize("size", [1, 100])
def test_an_unexpected_failure_is_500_without_details_and_a_line_in_the_log(
    engine: Engine, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="denoiser"):
        reply = post(Broken(engine), "/encode", npy(images(size)), NPY)
    assert (reply.status, reply.headers["content-type"]) == (500, PROBLEM)
    assert reply.headers["x-model-fingerprint"] == engine.manifest.fingerprint
    assert reply.json == {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    assert "secret" in caplog.text
    assert "POST /encode" in caplog.text


@pytest.mark.parametrize(
    "path", ["/", "/readyz", "/livez", "/metrics", "/docs.json", "/encode/", "/model/x", "/Encode"]
)
def test_other_paths_are_the_inner_apps(engine: Engine, path: str) -> None:
    inner = Inner()
    assert ask(engine, "GET", path, inner=inner) is None
    assert inner.asked == [("http", path)]


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_other_protocols_are_the_inner_apps(engine: Engine, kind: str) -> None:
    inner = Inner()
    gateway = Gateway(inner, engine=lambda: engine, max_body=MAX_BODY)
    scope = {"type": kind} if kind == "lifespan" else {"type": kind, "path": "/encode"}

    async def nothing(*_: Any) -> Any:
        pytest.fail("the gateway spoke a protocol that is not its own")

    asyncio.run(gateway(scope, nothing, nothing))
    assert inner.asked == [(kind, scope.get("path"))]


def test_our_routes_never_reach_the_inner_app(engine: Engine) -> None:
    inner = Inner()
    for method, path in [("GET", "/model"), ("GET", "/encode"), ("POST", "/denoise")]:
        assert ask(engine, method, path, inner=inner) is not None
    assert inner.asked == []


def test_several_accept_lines_are_one_list(engine: Engine) -> None:
    """RFC 9110, 5.3: a field that is repeated means the same as its values joined by commas."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": npy(images(1))}

    async def send(message: Any) -> None:
        sent.append(message)

    lines = [(b"content-type", NPY.encode()), (b"accept", b"image/png")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/denoise",
        "query_string": b"",
        "headers": [*lines, (b"accept", b"application/json;q=0.1")],
    }
    asyncio.run(Gateway(Inner(), engine=lambda: engine, max_body=MAX_BODY)(scope, receive, send))
    assert dict(sent[0]["headers"])[b"content-type"] == b"image/png"


def test_requests_at_the_same_time_get_their_own_answers(engine: Engine) -> None:
    async def one(size: int) -> np.ndarray:
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(0)
            return {"type": "http.request", "body": npy(images(size))}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", NPY.encode())]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/encode",
            "query_string": b"",
            "headers": headers,
        }
        await Gateway(Inner(), engine=lambda: engine, max_body=MAX_BODY)(scope, receive, send)
        loaded: np.ndarray = np.load(io.BytesIO(sent[1]["body"]))
        return loaded

    async def all_at_once() -> list[np.ndarray]:
        return await asyncio.gather(*(one(size) for size in range(1, 200, 9)))

    for size, found in zip(range(1, 200, 9), asyncio.run(all_at_once()), strict=True):
        np.testing.assert_array_equal(found, engine.encode(images(size)))
