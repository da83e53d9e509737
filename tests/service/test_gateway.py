"""The gateway in this process, without a server: hand-made `receive` and `send`."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import threading
from typing import Any

import numpy as np
import prometheus_client
import pytest
from PIL import Image

from common.arrays import Floats
from service.codecs import png
from service.engine import CHUNK, Engine
from service.http import asgi
from service.http.endpoints import INLINE
from service.http.formats import JSON, NPY, PNG
from service.http.gateway import Gateway
from service.http.metrics import Metrics
from service.http.routes import BENTOML, ROUTES, Router
from service.settings import Settings
from tests.support.asgi import Inner, ask, npy, post
from tests.support.tiny import some_images as images

MAX_BODY = 200_000
PROBLEM = "application/problem+json"
HEALTH = ("/livez", "/readyz", "/healthz")
PASSED_ON = [route.path for route in ROUTES if route.handler == BENTOML and not route.alias]


@pytest.mark.parametrize("size", [0, 1, CHUNK + 1, 300])
def test_each_route_answers_npy_as_the_engine_does(engine: Engine, size: int) -> None:
    batch, latents = images(size), np.ones((size, 4), np.float32)
    for path, body, expected in [
        ("/encode", batch, engine.encode(batch)),
        ("/decode", latents, engine.decode(latents)),
        ("/denoise", batch, engine.denoise(batch)),
    ]:
        reply = post(engine, path, npy(body), NPY)
        assert (reply.status, reply.headers["content-type"]) == (200, NPY)
        assert reply.headers["x-model-fingerprint"] == engine.manifest.fingerprint
        np.testing.assert_array_equal(reply.array, expected)


def test_each_route_answers_json_as_the_engine_does(engine: Engine) -> None:
    batch, latents = images(3), np.ones((3, 4), np.float32)
    for path, source, body, key, expected in [
        ("/encode", "images", batch, "latents", engine.encode(batch)),
        ("/decode", "latents", latents, "images", engine.decode(latents)),
        ("/denoise", "images", batch, "images", engine.denoise(batch)),
    ]:
        reply = post(engine, path, json.dumps({source: body.tolist()}).encode())
        assert (reply.status, reply.headers["content-type"]) == (200, JSON)
        assert list(reply.json) == [key]
        np.testing.assert_array_equal(np.array(reply.json[key], np.float32), expected)


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
    ("received", "query", "dtype"),
    [
        ("uint8", b"", "uint8"),
        ("float32", b"", "float32"),
        ("uint8", b"dtype=float32", "float32"),
        ("float32", b"dtype=uint8", "uint8"),
        ("float32", b"dtype=float32&dtype=uint8", "uint8"),
        ("float32", b"other=1", "float32"),
    ],
)
def test_npy_answers_in_the_dtype_of_the_request_or_of_the_option(
    engine: Engine, received: str, query: bytes, dtype: str
) -> None:
    reply = post(engine, "/denoise", npy(images(3, received)), NPY, query=query)
    assert reply.array.dtype == dtype
    expected = engine.denoise(images(3, received), dtype=dtype)  # type: ignore[arg-type]
    np.testing.assert_array_equal(reply.array, expected)


@pytest.mark.parametrize(
    "query", [b"dtype=", b"dtype=float64", b"dtype=UINT8", b"dtype=%00", b"dtype=\xff"]
)
def test_other_dtypes_are_refused(engine: Engine, query: bytes) -> None:
    reply = post(engine, "/denoise", npy(images(1)), NPY, query=query)
    assert (reply.status, reply.json["expected"]) == (422, "uint8 or float32")


def test_the_dtype_option_leaves_other_formats_alone(engine: Engine) -> None:
    batch = images(2)
    body = json.dumps({"images": batch.tolist()}).encode()
    reply = post(engine, "/denoise", body, query=b"dtype=uint8")
    assert max(np.ravel(reply.json["images"])) <= 1
    reply = post(engine, "/encode", npy(batch), NPY, query=b"dtype=uint8")
    np.testing.assert_array_equal(reply.array, engine.encode(batch))


def split(body: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(body[:size])
        body = body[size:]
    return [*parts, body]


@pytest.mark.parametrize("sizes", [[], [1], [0, 0, 5], [6, 2, 118, 1], [10] * 50])
def test_a_body_may_arrive_in_chunks(engine: Engine, sizes: list[int]) -> None:
    batch = images(CHUNK + 5)
    chunks = split(npy(batch), sizes)
    reply = post(engine, "/encode", b"", NPY, chunks=chunks)
    assert reply.received == len(chunks)
    np.testing.assert_array_equal(reply.array, engine.encode(batch))


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_bodies_on_both_sides_of_the_inline_limit(engine: Engine, more: int) -> None:
    body = b'{"images": []}'
    body += b" " * (INLINE + more - len(body))
    assert post(engine, "/encode", body).json == {"latents": []}


def test_a_body_of_exactly_the_limit_is_read(engine: Engine) -> None:
    body = b'{"images": []}'.ljust(1000)
    headers = {"content-length": "1000"}
    reply = post(engine, "/encode", body, headers=headers, max_body=1000)
    assert reply.status == 200
    for length in ({}, {"content-length": "1001"}):
        reply = post(engine, "/encode", body + b" ", headers=length, max_body=1000)
        assert reply.headers.get("connection") == ("close" if length else None)
        assert reply.status == 413


def test_an_honest_content_length_is_refused_before_a_byte_is_read(engine: Engine) -> None:
    headers = {"content-length": str(MAX_BODY + 1)}
    reply = post(engine, "/encode", b"x", headers=headers, max_body=MAX_BODY)
    assert (reply.status, reply.before, reply.received) == (413, 0, 1)
    assert reply.headers["connection"] == "close"
    assert str(MAX_BODY) in reply.json["expected"]


@pytest.mark.parametrize("length", [None, "10", "-1", "ten", "", "9" * 5000, "1_0", "0x10"])
def test_received_bytes_count_against_the_limit_with_any_content_length(
    engine: Engine, length: str | None
) -> None:
    headers = {} if length is None else {"content-length": length}
    chunks = [b" " * 1000] * 1000
    reply = post(engine, "/encode", b"", headers=headers, chunks=chunks, max_body=MAX_BODY)
    assert reply.status == 413
    assert reply.before <= MAX_BODY // 1000 + 1  # it stopped reading at the limit


@pytest.mark.parametrize("chunks", [[b""], [b'{"images": '], [b"x" * 100] * 5])
def test_a_client_that_disconnects_while_sending_is_no_error(
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
def test_other_methods_get_405_and_the_allowed_ones(
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
def test_bad_input_is_a_problem_document(
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
    document = reply.json
    assert document["status"] == status
    assert document["type"].startswith("urn:denoiser:problem:")
    assert all(document[part] for part in ("title", "detail", "received", "expected"))
    assert document.get("hint") != ""
    assert "Traceback" not in reply.body.decode()
    assert caplog.records == []  # bad input is not logged


class Broken:
    """An engine that fails, with a secret in the message."""

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


# ---------------------------------------------------------------- routes


def test_every_route_has_a_handler_and_every_handler_a_route(engine: Engine) -> None:
    metrics = Metrics(registry=prometheus_client.CollectorRegistry())
    gateway = Gateway(Inner(), engine=lambda: engine, metrics=lambda: metrics, settings=Settings())
    assert {route.handler for route in ROUTES} == {BENTOML, *gateway._handlers}
    assert len({route.path for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize(
    ("path", "label", "params"),
    [
        ("/encode", "/encode", {}),
        ("/playground/a.js", "/playground", {}),
        ("/v2/", "/v2", {}),
        ("/v2/models/x", "/v2/models/{model}", {"model": "x"}),
        ("/v2/models/x/infer", "/v2/models/{model}/infer", {"model": "x"}),
        (
            "/v2/models/x/versions/7/infer",
            "/v2/models/{model}/infer",
            {"model": "x", "version": "7"},
        ),
    ],
)
def test_the_router_finds_label_and_parameters(
    path: str, label: str, params: dict[str, str]
) -> None:
    route, values = Router({"/static_content": [], "/playground": ["a.js"]}, docs=True).find(path)
    assert route is not None
    assert (route.label or route.path, values) == (label, params)


# ---------------------------------------------------------------- BentoML's part


@pytest.mark.parametrize("path", [*PASSED_ON, "/static_content/a.js"])
def test_bentoml_s_own_paths_are_passed_on(engine: Engine, path: str) -> None:
    inner = Inner()
    reply = ask(engine, "GET", path, inner=inner, static=["a.js"])
    assert reply is not None
    assert (reply.status, reply.body) == (200, b"inner: /path/of/the/machine")
    assert inner.asked == [("http", "/" if path == "/api" else path)]


@pytest.mark.parametrize(
    "path",
    [
        "/encode/",
        "/model/x",
        "/Encode",
        "//",
        "",
        "/static_content/b.js",
        "/static_content/../a.js",
        "/v1",
        "/v2x",
        "/v2/models",
        "/v2/models/encoder/x",
        "/v2/health",
        "/v2/models/encoder/versions",
        "/v2/models/encoder/versions/1/x",
        "/v2/models//infer/x",
        "/v2/models/encoder/infer/",
        "/a" * 5000,
        "/\x00",
        "/ü",
        "/docs.json/",
        "/metrics/",
    ],
)
def test_unknown_paths_are_404_and_not_passed_on(engine: Engine, path: str) -> None:
    inner = Inner()
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        reply = ask(engine, method, path, inner=inner, static=["a.js"])
        assert reply is not None
        assert reply.status == 404
        if path.startswith("/v2/"):
            assert list(reply.json) == ["error"]
        else:
            assert (reply.headers["content-type"], reply.json["status"]) == (PROBLEM, 404)
        assert 'route="unknown"' in reply.metrics
    assert inner.asked == []


@pytest.mark.parametrize("status", [400, 404, 405, 500, 503])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_bentoml_s_errors_become_problem_documents_without_its_text(
    engine: Engine, status: int, method: str
) -> None:
    reply = ask(engine, method, "/readyz", inner=Inner(status))
    assert reply is not None
    assert (reply.status, reply.headers["content-type"]) == (status, PROBLEM)
    assert b"machine" not in reply.body
    if method == "GET":
        assert reply.json["status"] == status


def test_bentoml_that_fails_before_it_answers_is_a_500(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    reply = ask(engine, "GET", "/metrics", inner=Inner(fails=True))
    assert reply is not None
    assert (reply.status, reply.json["title"]) == (500, "Internal Server Error")
    assert b"machine" not in reply.body
    assert "BentoML failed on /metrics" in caplog.text


def test_docs_off_hides_the_documents_and_pages(engine: Engine) -> None:
    for path in ("/docs.json", "/schema.json", "/api", "/static_content/a.js"):
        reply = ask(engine, "GET", path, static=["a.js"], docs=False)
        assert reply is not None and reply.status == 404, path
    for path in (*HEALTH, "/metrics", "/model"):
        reply = ask(engine, "GET", path, docs=False)
        assert reply is not None and reply.status == 200, path


def test_the_lifespan_is_the_inner_app_s(engine: Engine) -> None:
    inner = Inner()
    metrics = Metrics(registry=prometheus_client.CollectorRegistry())
    gateway = Gateway(inner, engine=lambda: engine, metrics=lambda: metrics, settings=Settings())

    async def nothing(*_: Any) -> Any:
        pytest.fail("the gateway handled the lifespan")

    asyncio.run(gateway({"type": "lifespan"}, nothing, nothing))
    assert inner.asked == [("lifespan", None)]


def test_websockets_are_closed_at_once(engine: Engine) -> None:
    inner, sent = Inner(), []
    metrics = Metrics(registry=prometheus_client.CollectorRegistry())
    gateway = Gateway(inner, engine=lambda: engine, metrics=lambda: metrics, settings=Settings())

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def nothing() -> Any:
        pytest.fail("it read from a websocket")

    asyncio.run(gateway({"type": "websocket", "path": "/encode"}, nothing, send))
    assert (sent, inner.asked) == (["websocket.close"], [])


def test_our_routes_never_reach_the_inner_app(engine: Engine) -> None:
    inner = Inner()
    for method, path in [
        ("GET", "/model"),
        ("GET", "/encode"),
        ("POST", "/denoise"),
        ("GET", "/docs.json"),
        ("GET", "/v2"),
        ("POST", "/v2/models/encoder/infer"),
        ("GET", "/nothing"),
    ]:
        assert ask(engine, method, path, inner=inner) is not None
    assert inner.asked == []


# ---------------------------------------------------------------- refusals


KEY = "a-key-of-some-length"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {KEY}", 200),
        (f"Bearer   {KEY} ", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (KEY, 401),
        (f"Basic {KEY}", 401),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        (f"Bearer {KEY.upper()}", 401),
        (f"Bearer {KEY}, Bearer {KEY}", 401),
        ("Bearer \xff\xfe", 401),
        ("Bearer " + "x" * 100_000, 401),
    ],
)
def test_the_api_key(engine: Engine, sent: str | None, status: int) -> None:
    headers = {} if sent is None else {"authorization": sent}
    for path in ("/model", "/docs.json", "/metrics", "/v2", "/v2/models/encoder", "/api"):
        reply = ask(engine, "GET", path, headers=headers, api_key=KEY)
        assert reply is not None and reply.status == status, path
        if status == 401:
            assert reply.headers["www-authenticate"] == "Bearer"
            assert KEY not in reply.body.decode()
    for path in (*HEALTH, "/v2/health/live", "/v2/health/ready"):
        reply = ask(engine, "GET", path, headers=headers, api_key=KEY)
        assert reply is not None and reply.status == 200, path


def test_without_the_key_unknown_paths_are_401_as_well(engine: Engine) -> None:
    for method, path in [("GET", "/nothing"), ("GET", "/encode"), ("PUT", "/model")]:
        reply = ask(engine, method, path, api_key=KEY)
        assert reply is not None and reply.status == 401


def test_a_request_without_the_key_is_refused_before_its_body(engine: Engine) -> None:
    headers = {"content-length": "5000"}
    reply = post(engine, "/encode", b"x" * 5000, headers=headers, api_key=KEY)
    assert (reply.status, reply.before) == (401, 0)
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        ("/encode", npy(images(6)), NPY),
        ("/denoise", json.dumps({"images": images(6).tolist()}).encode(), JSON),
        ("/decode", npy(np.zeros((6, 4), np.float32)), NPY),
    ],
)
def test_rows_are_limited(engine: Engine, path: str, body: bytes, content_type: str) -> None:
    assert post(engine, path, body, content_type, max_rows=6).status == 200
    reply = post(engine, path, body, content_type, max_rows=5)
    assert (reply.status, reply.json["expected"]) == (413, "at most 5")
    assert 'denoiser_refusals_total{reason="too-large"} 1.0' in reply.metrics


def test_a_slow_body_is_408(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "LINGER", 0.05)
    headers = {"transfer-encoding": "chunked"}
    chunks = [b" "] * 100
    reply = post(engine, "/encode", b"", headers=headers, chunks=chunks, pause=0.03, timeout=0.1)
    assert (reply.status, reply.headers["content-type"]) == (408, PROBLEM)
    assert reply.headers["connection"] == "close"
    assert reply.received < 100


def several(engine: Engine, count: int, **settings: Any) -> list[tuple[int, dict[bytes, bytes]]]:
    """Status and headers of `count` requests that wait for their last byte together."""
    metrics = Metrics(registry=prometheus_client.CollectorRegistry())
    gateway = Gateway(
        Inner(), engine=lambda: engine, metrics=lambda: metrics, settings=Settings(**settings)
    )
    body = npy(images(500))  # computed in the pool, so that requests overlap

    async def one() -> tuple[int, dict[bytes, bytes]]:
        sent: list[Any] = []
        parts = iter([(body[:-1], True), (body[-1:], False)])

        async def receive() -> Any:
            part, more = next(parts, (None, False))
            if part is None:
                await asyncio.Event().wait()  # the client waits for its answer
            if not more:
                await asyncio.sleep(0.05)
            return {"type": "http.request", "body": part, "more_body": more}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/encode",
            "query_string": b"",
            "headers": [(b"content-type", NPY.encode())],
        }
        await gateway(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"])

    async def all_of_them() -> list[tuple[int, dict[bytes, bytes]]]:
        first = await asyncio.gather(*(one() for _ in range(count)))
        return [*first, await one()]  # one more when the others are done: their bytes are released

    return asyncio.run(all_of_them())


LATENTS = 500 * 2 * 16  # bytes of their results, and again in the response


@pytest.mark.parametrize(
    ("settings", "good"),
    [
        ({"concurrency": 3}, 3),
        ({"max_buffered": 2 * (len(npy(images(500))) + LATENTS) + 10}, 2),
        ({}, 8),
    ],
)
def test_too_many_at_once_get_429_and_retry_after(
    engine: Engine, settings: dict[str, int], good: int
) -> None:
    responses = several(engine, 8, **settings)
    statuses = [status for status, _ in responses]
    assert sorted(statuses[:-1]) == [200] * good + [429] * (8 - good)
    assert statuses[-1] == 200
    for status, headers in responses:
        assert (headers.get(b"retry-after") == b"1") == (status == 429)


def test_a_client_that_disconnects_cancels_its_computation(engine: Engine) -> None:
    body = npy(np.zeros((20_000, 8, 8, 1), np.uint8))
    cancelled: list[Any] = []

    class Watched:
        manifest = engine.manifest

        def submit(self, *args: Any, **options: Any) -> Any:
            future = engine.submit(*args, **options)
            future.add_done_callback(lambda done: cancelled.append(done.cancelled()))
            return future

    messages = [
        {"type": "http.request", "body": body, "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        pytest.fail("a response after the disconnect")

    metrics = Metrics(registry=prometheus_client.CollectorRegistry())
    watched: Any = Watched()
    gateway = Gateway(Inner(), engine=lambda: watched, metrics=lambda: metrics, settings=Settings())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/denoise",
        "query_string": b"",
        "headers": [(b"content-type", NPY.encode())],
    }
    asyncio.run(gateway(scope, receive, send))
    assert cancelled == [True]
    assert gateway._budget.used == 0


def test_decompressed_bodies_count_as_buffered(engine: Engine) -> None:
    """Otherwise 64 requests of 60 kB could hold 64 MiB each."""
    body = gzip.compress(b'{"images": []}'.ljust(50_000))
    headers = {"content-encoding": "gzip"}
    assert post(engine, "/encode", body, headers=headers, max_buffered=60_000).status == 200
    assert post(engine, "/encode", body, headers=headers, max_buffered=40_000).status == 413


def test_a_png_to_be_fitted_is_decoded_outside_the_event_loop(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 kB may hold 16 million pixels, which take 40 ms to decode."""
    threads = []
    decode = png.decode

    def watched(*args: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return decode(*args, **options)

    monkeypatch.setattr(png, "decode", watched)
    stream = io.BytesIO()
    Image.new("1", (4096, 4096)).save(stream, "PNG")
    assert len(stream.getvalue()) <= INLINE
    reply = post(engine, "/encode", stream.getvalue(), PNG, query=b"fit=contain")
    assert reply.status == 200
    assert threads and threading.main_thread() not in threads


def test_a_query_of_many_fields_is_no_internal_error(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    reply = post(engine, "/encode", npy(images(1)), NPY, query=b"a=1&" * 1000)
    assert reply.status in (200, 422)
    assert caplog.records == []


def test_an_unexpected_failure_under_v2_has_the_protocol_s_form(engine: Engine) -> None:
    body = json.dumps(
        {
            "inputs": [
                {"name": "images", "datatype": "FP32", "shape": [1, 8, 8, 1], "data": [0] * 64}
            ]
        }
    ).encode()
    reply = post(Broken(engine), "/v2/models/encoder/infer", body)
    assert (reply.status, reply.headers["content-type"]) == (500, JSON)
    assert list(reply.json) == ["error"]
    assert "secret" not in reply.json["error"]


# ---------------------------------------------------------------- headers, order


def test_several_accept_lines_are_one_list(engine: Engine) -> None:
    """RFC 9110, 5.3: a field that is repeated means the same as its values joined by commas."""
    lines = [("content-type", NPY), ("accept", "image/png"), ("accept", f"{JSON};q=0.1")]
    reply = ask(engine, "POST", "/denoise", chunks=[npy(images(1))], headers=lines)
    assert reply is not None
    assert reply.headers["content-type"] == PNG


def test_requests_at_the_same_time_get_their_own_answers(engine: Engine) -> None:
    metrics = Metrics(registry=prometheus_client.CollectorRegistry())
    gateway = Gateway(Inner(), engine=lambda: engine, metrics=lambda: metrics, settings=Settings())

    async def one(size: int) -> Floats:
        sent: list[Any] = []

        messages = iter([{"type": "http.request", "body": npy(images(size))}])

        async def receive() -> Any:
            await asyncio.sleep(0)
            if (message := next(messages, None)) is None:
                await asyncio.Event().wait()
            return message

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
        await gateway(scope, receive, send)
        loaded: Floats = np.load(io.BytesIO(sent[1]["body"]))
        return loaded

    async def all_at_once() -> list[Floats]:
        return await asyncio.gather(*(one(size) for size in range(1, 200, 9)))

    for size, latents in zip(range(1, 200, 9), asyncio.run(all_at_once()), strict=True):
        np.testing.assert_array_equal(latents, engine.encode(images(size)))
