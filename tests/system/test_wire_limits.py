"""Every limit and refusal over HTTP, against real servers with small limits."""

from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from service.settings import Settings
from tests.support.paths import ROOT, SERVING
from tests.support.processes import Server, environment, free_port, require_serving
from tests.support.wire import KEY, ORIGIN, SMALL, as_npy, exchange, from_npy, some_images

MAX_BODY = int(SMALL["DENOISER_MAX_BODY"])
NPY = {"Content-Type": "application/x-npy"}
JSON = {"Content-Type": "application/json"}
PROBLEM = "application/problem+json"
INFER = "/v2/models/encoder/infer"


def check_problem(status: int, headers: httpx.Headers, body: bytes, expected: int) -> None:
    """A problem document of that status, without a traceback or a path of the machine."""
    assert status == expected, body[:500]
    assert headers["content-type"] == PROBLEM
    document = json.loads(body)
    assert document["status"] == expected
    assert document["title"]
    text = body.decode()
    for secret in ("Traceback", str(ROOT), "site-packages", 'File "', "/root", "/tmp/"):
        assert secret not in text


def check(answer: httpx.Response, expected: int) -> None:
    check_problem(answer.status_code, answer.headers, answer.content, expected)


def parse(raw: bytes) -> tuple[int, httpx.Headers, bytes]:
    """The one response in the bytes of a closed connection."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    return int(first.split()[1]), httpx.Headers([(k, v) for k, v in pairs]), body


def head_of(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


# ---------------------------------------------------------------- bytes and rows


def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not(small_server: Server) -> None:
    url = f"{small_server.url}/encode"
    body = b'{"images": []}'
    assert httpx.post(url, content=body.ljust(MAX_BODY), headers=JSON).status_code == 200
    check(httpx.post(url, content=body.ljust(MAX_BODY + 1), headers=JSON), 413)


def test_chunked_bodies_are_counted(small_server: Server) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        yield b'{"images": []}'
        for _ in range(size // 1000):
            yield b" " * 1000

    url = f"{small_server.url}/encode"
    assert httpx.post(url, content=chunks(MAX_BODY - 2000), headers=JSON).status_code == 200
    check(httpx.post(url, content=chunks(MAX_BODY + 2000), headers=JSON), 413)


def test_without_content_length_the_body_is_empty(small_server: Server) -> None:
    raw = exchange(small_server, head_of("/encode", "Connection: close"))
    check_problem(*parse(raw), 400)


def test_a_huge_content_length_is_refused_unread(small_server: Server) -> None:
    raw = exchange(small_server, head_of("/encode", "Content-Length: 99999999999") + b"x")
    status, headers, body = parse(raw)
    check_problem(status, headers, body, 413)
    assert headers["connection"] == "close"


@pytest.mark.parametrize("length", ["-1", "ten", "1_0", "0x10", "9" * 400])
def test_invalid_content_lengths(small_server: Server, length: str) -> None:
    raw = exchange(
        small_server, head_of("/encode", f"Content-Length: {length}", "Connection: close")
    )
    status, _, body = parse(raw)
    assert status in (400, 413)
    assert b"Traceback" not in body


def test_gzip_bombs(small_server: Server) -> None:
    bomb = gzip.compress(bytes(200_000_000), 9)
    assert len(bomb) > MAX_BODY  # above the limit already; the second one is below
    small = gzip.compress(bytes(20_000_000), 9)
    for body in (bomb, small):
        for path in ("/encode", INFER):
            headers = {**JSON, "Content-Encoding": "gzip"}
            answer = httpx.post(small_server.url + path, content=body, headers=headers)
            assert answer.status_code == 413


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd", "compress"])
def test_other_encodings(small_server: Server, encoding: str) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    check(httpx.post(f"{small_server.url}/encode", content=b"{}", headers=headers), 415)


def test_too_many_rows(small_server: Server) -> None:
    url = small_server.url
    limit = int(SMALL["DENOISER_MAX_ROWS"])
    latents = np.zeros((limit, 16), np.float32)
    rows = np.zeros((limit + 1, 16), np.float32)
    assert httpx.post(f"{url}/decode", content=as_npy(latents), headers=NPY).status_code == 200
    check(httpx.post(f"{url}/decode", content=as_npy(rows), headers=NPY), 413)
    check(httpx.post(f"{url}/decode", json={"latents": rows.tolist()}), 413)
    form = [("f", (f"{n}.png", b"x")) for n in range(limit + 1)]
    check(httpx.post(f"{url}/encode", files=form), 413)
    tensor = {"name": "latents", "datatype": "FP32", "shape": [limit + 1, 16]}
    infer = httpx.post(
        f"{url}/v2/models/decoder/infer",
        json={"inputs": [{**tensor, "data": [0.0] * 16 * (limit + 1)}]},
    )
    assert (infer.status_code, list(infer.json())) == (413, ["error"])


# ---------------------------------------------------------------- too busy


def test_too_many_requests_at_once(guarded_server: Server) -> None:
    """While one is computed, where there is one place, the next gets 429."""
    headers = {**NPY, "Authorization": f"Bearer {KEY}"}
    long, short = as_npy(some_images(40_000)), as_npy(some_images(1))
    statuses: list[int] = []

    def send() -> None:
        response = httpx.post(
            f"{guarded_server.url}/denoise", content=long, headers=headers, timeout=60
        )
        statuses.append(response.status_code)

    busy = threading.Thread(target=send)
    busy.start()
    refused = httpx.post(f"{guarded_server.url}/encode", content=short, headers=headers)
    while refused.status_code != 429 and busy.is_alive():
        refused = httpx.post(f"{guarded_server.url}/encode", content=short, headers=headers)
    check(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1
    infer = httpx.post(guarded_server.url + INFER, json={}, headers=headers)
    assert (infer.status_code, infer.headers["retry-after"]) == (429, "1")
    assert httpx.get(f"{guarded_server.url}/readyz").status_code == 200
    busy.join()
    assert statuses == [200]
    again = httpx.post(f"{guarded_server.url}/encode", content=short, headers=headers)
    assert again.status_code == 200


def test_slow_bodies_take_no_place(small_server: Server) -> None:
    """As many as there are places wait for the rest of their bodies; others are answered."""
    body = as_npy(some_images(1))
    head = head_of("/encode", "Content-Type: application/x-npy", f"Content-Length: {len(body)}")
    host, port = small_server.url.removeprefix("http://").split(":")
    waiting = [socket.create_connection((host, int(port)), timeout=10) for _ in range(4)]
    try:
        for connection in waiting:
            connection.sendall(head + body[:100])
        time.sleep(0.2)
        answer = httpx.post(f"{small_server.url}/encode", content=body, headers=NPY)
        assert answer.status_code == 200
        for connection in waiting:
            connection.sendall(body[100:])
            assert connection.recv(20).startswith(b"HTTP/1.1 200")
    finally:
        for connection in waiting:
            connection.close()


def test_too_many_bytes_at_once(small_server: Server) -> None:
    """Three bodies of 90 kB exceed DENOISER_MAX_BUFFERED, 250 kB."""
    body = b'{"images": []}'.ljust(90_000)
    head = head_of("/encode", "Content-Type: application/json", f"Content-Length: {len(body)}")
    host, port = small_server.url.removeprefix("http://").split(":")
    waiting = [socket.create_connection((host, int(port)), timeout=10) for _ in range(2)]
    try:
        for connection in waiting:
            connection.sendall(head + body[:-1])
        time.sleep(0.2)
        check(httpx.post(f"{small_server.url}/encode", content=body, headers=JSON), 429)
        for connection in waiting:
            connection.sendall(body[-1:])
            assert connection.recv(20).startswith(b"HTTP/1.1 200")
    finally:
        for connection in waiting:
            connection.close()
    assert httpx.post(f"{small_server.url}/encode", content=body, headers=JSON).status_code == 200


# ---------------------------------------------------------------- too slow


@pytest.mark.parametrize("path", ["/encode", INFER])
def test_a_body_that_stalls_is_408(small_server: Server, path: str) -> None:
    raw = exchange(small_server, head_of(path, "Content-Length: 50000") + b"{")
    status, headers, body = parse(raw)
    assert (status, headers["connection"]) == (408, "close")
    assert b"1 bytes of a body in 1 seconds" in body


def test_a_body_that_drips_is_408(small_server: Server) -> None:
    def drip(connection: socket.socket) -> None:
        try:
            for _ in range(30):
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.1)
        except OSError:
            return  # the server has closed

    raw = exchange(small_server, head_of("/encode", "Transfer-Encoding: chunked"), then=drip)
    check_problem(*parse(raw), 408)


# ---------------------------------------------------------------- refused while sending


def test_a_client_that_keeps_sending_can_read_the_refusal(small_server: Server) -> None:
    """The connection is not reset: the response is there after 20 MB were sent."""
    size = 20_000_000

    def send(connection: socket.socket) -> None:
        for _ in range(size // 100_000):
            connection.sendall(b" " * 100_000)

    for path, expected in [("/encode", 413), ("/nothing", 404), ("/model", 405)]:
        raw = exchange(small_server, head_of(path, f"Content-Length: {size}"), then=send)
        status, headers, body = parse(raw)
        check_problem(status, headers, body, expected)
        assert headers["connection"] == "close"


# ---------------------------------------------------------------- routes and types


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/encode/",
        "/v1/encode",
        "/%2e%2e/etc/passwd",
        "/metrics/x",
        "/a" * 2000,
        "/static_content/../../etc/passwd",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_unknown_routes(server: Server, path: str, method: str) -> None:
    check(httpx.request(method, server.url + path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/encode", "POST"),
        ("PUT", "/denoise", "POST"),
        ("OPTIONS", "/decode", "POST"),
        ("POST", "/model", "GET, HEAD"),
        ("DELETE", "/readyz", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("PATCH", "/", "GET, HEAD"),
        ("POST", "/docs.json", "GET, HEAD"),
    ],
)
def test_other_methods(server: Server, method: str, path: str, allow: str) -> None:
    answer = httpx.request(method, server.url + path)
    check(answer, 405)
    assert answer.headers["allow"] == allow


def test_head_requests_answer_without_a_body(server: Server) -> None:
    for path, status in [
        ("/model", 200),
        ("/readyz", 200),
        ("/v2", 200),
        ("/encode", 405),
        ("/nothing", 404),
    ]:
        answer = httpx.head(server.url + path)
        assert (answer.status_code, answer.content) == (status, b"")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/vnd.bentoml+pickle",
        "application/octet-stream",
        "image/jpeg",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=x",
        "x" * 5000,
    ],
)
def test_unsupported_types(server: Server, content_type: str) -> None:
    for path in ("/encode", "/decode", "/denoise"):
        headers = {"Content-Type": content_type}
        check(httpx.post(server.url + path, content=b"{}", headers=headers), 415)


def test_unacceptable_answers(server: Server) -> None:
    for path, accept in [
        ("/encode", "image/png"),
        ("/denoise", "text/html"),
        ("/encode", "application/zip"),
    ]:
        headers = {**NPY, "Accept": accept}
        check(httpx.post(server.url + path, content=as_npy(some_images(1)), headers=headers), 406)


def test_errors_of_the_http_parser_carry_no_secrets(server: Server) -> None:
    for sent in (
        b"NOT HTTP\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01" + bytes(100),
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ):
        raw = exchange(server, sent)
        assert b"Traceback" not in raw and str(ROOT).encode() not in raw
    assert httpx.get(f"{server.url}/readyz").status_code == 200


# ---------------------------------------------------------------- API key, CORS, docs


def test_every_route_but_health_needs_the_key(guarded_server: Server) -> None:
    url = guarded_server.url
    for path in ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"):
        assert httpx.get(url + path).status_code == 200
    guarded = [
        ("GET", "/model"),
        ("GET", "/metrics"),
        ("POST", "/encode"),
        ("POST", "/decode"),
        ("POST", "/denoise"),
        ("GET", "/"),
        ("GET", "/docs.json"),
        ("GET", "/schema.json"),
        ("GET", "/nothing"),
        ("GET", "/static_content/index.css"),
    ]
    for method, path in guarded:
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": KEY}):
            answer = httpx.request(method, url + path, headers=headers)
            check(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert KEY not in answer.text
    for path in ("/v2", "/v2/models/encoder", "/v2/models/encoder/ready"):
        refused = httpx.get(url + path)
        assert (refused.status_code, list(refused.json())) == (401, ["error"])
    right = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{url}/model", headers=right).status_code == 200
    assert httpx.get(f"{url}/metrics", headers=right).status_code == 200
    images = some_images(2)
    answer = httpx.post(f"{url}/denoise", content=as_npy(images), headers={**NPY, **right})
    assert from_npy(answer.content).shape == (2, 28, 28, 1)


def test_docs_can_be_off(guarded_server: Server) -> None:
    right = {"Authorization": f"Bearer {KEY}"}
    for path in ("/docs.json", "/schema.json", "/"):
        check(httpx.get(guarded_server.url + path, headers=right), 404)


def test_cors_answers_preflight_and_errors(guarded_server: Server) -> None:
    url = guarded_server.url
    request = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = httpx.options(f"{url}/denoise", headers=request)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in preflight.headers["access-control-allow-methods"]
    allowed = preflight.headers["access-control-allow-headers"].lower()
    assert "authorization" in allowed and "content-type" in allowed

    right = {"Authorization": f"Bearer {KEY}", "Origin": ORIGIN}
    for method, path, headers, status in [
        ("GET", "/model", right, 200),
        ("GET", "/model", {"Origin": ORIGIN}, 401),
        ("GET", "/nothing", right, 404),
        ("GET", "/encode", right, 405),
        ("POST", "/encode", {**right, "Content-Type": "text/csv"}, 415),
        ("POST", "/encode", {**right, "Content-Length": "99999999999"}, 413),
    ]:
        if "Content-Length" in headers:
            lines = [f"{name}: {value}" for name, value in headers.items()]
            received, response_headers, _ = parse(exchange(guarded_server, head_of(path, *lines)))
        else:
            answer = httpx.request(method, url + path, headers=headers)
            received, response_headers = answer.status_code, answer.headers
        assert received == status
        assert response_headers["access-control-allow-origin"] == ORIGIN
        assert "x-model-fingerprint" in response_headers["access-control-expose-headers"].lower()

    other = httpx.options(f"{url}/denoise", headers={**request, "Origin": "https://evil.example"})
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers
    strange = httpx.get(f"{url}/model", headers={**right, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in strange.headers


def test_without_origins_there_are_no_cors_headers(server: Server) -> None:
    answer = httpx.get(f"{server.url}/model", headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DENOISER_BUNDEL", "bundles/mnist"),
        ("DENOISER_MAX_BODY", "64MB"),
        ("DENOISER_TIMEOUT", "never"),
        ("DENOISER_API_KEY", "short"),
        ("DENOISER_CORS_ORIGINS", "example.org"),
    ],
)
def test_an_invalid_setting_ends_the_start_with_one_line(variable: str, text: str) -> None:
    require_serving()
    done = subprocess.run(
        [SERVING / "bentoml", "serve", "service.app:Denoiser", "--port", str(free_port())],
        cwd=ROOT,
        env=environment({variable: text}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert variable in lines[0]
    assert "short" not in lines[0] or variable != "DENOISER_API_KEY"


def test_defaults_without_environment_variables() -> None:
    assert Settings.from_environment({}) == Settings()


# ---------------------------------------------------------------- metrics


def series(server: Server) -> list[str]:
    text = httpx.get(f"{server.url}/metrics").text
    return [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]


def test_metrics_count_rows_and_refusals(server: Server) -> None:
    def value(name: str) -> float:
        text = httpx.get(f"{server.url}/metrics").text
        values = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.M)
        return float(values[0]) if values else 0.0

    rows = 'denoiser_rows_total{model="encoder"}'
    shapes = 'denoiser_refusals_total{reason="shape"}'
    before = value(rows), value(shapes)
    images = as_npy(some_images(7))
    assert httpx.post(f"{server.url}/encode", content=images, headers=NPY).status_code == 200
    wrong = as_npy(np.zeros((1, 9, 9, 1), np.uint8))
    assert httpx.post(f"{server.url}/encode", content=wrong, headers=NPY).status_code == 422
    assert (value(rows), value(shapes)) == (before[0] + 7, before[1] + 1)
    assert value('denoiser_engine_seconds_total{model="encoder"}') > 0


def test_ten_thousand_unknown_urls_add_no_series(server: Server) -> None:
    for path in ("/x", "/v2/models/x", "/v2/models/encoder/versions/9/infer"):
        httpx.get(server.url + path)  # create the series of refusals
    before = series(server)

    def ask(start: int) -> None:
        with httpx.Client(base_url=server.url) as client:
            for n in range(start, start + 2500, 5):
                assert client.get(f"/unknown/{n}").status_code == 404
                client.post(f"/encode{n}")
                client.get(f"/v2/models/m{n}")
                client.get(f"/static_content/{n}.js")
                client.get(f"/v2/models/encoder/versions/{n + 2}")

    threads = [threading.Thread(target=ask, args=(n * 2500,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = series(server)
    assert not [name for name in after if "unknown/" in name or "encode1" in name]
    assert set(after) - set(before) <= {name for name in after if 'status="404"' in name}
    assert len(after) <= len(before) + 5
