"""Connections and heads: limits before any key, silent and greedy clients, HTTP/2 offers."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import httpx
import psutil
import pytest

from service.http.protocol import HEAD_SECONDS, MAX_HEAD_BYTES, MAX_HEAD_FIELDS
from service.settings import Settings
from tests.support.processes import Server, require_serving, serving
from tests.support.wire import as_npy, some_images

LATENTS = json.dumps({"latents": [[0.0] * 16]}).encode()


@contextmanager
def connection(server: Server) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as opened:
        yield opened


def exchange(server: Server, sent: bytes) -> bytes:
    """All bytes until the server closes, also where it stops reading early."""
    with connection(server) as opened:
        with suppress(BrokenPipeError, ConnectionResetError):
            opened.sendall(sent)
        received = b""
        try:
            while part := opened.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received


def slowest_health(server: Server, stop: threading.Event, times: list[float]) -> None:
    with httpx.Client() as client:
        while not stop.is_set():
            began = time.perf_counter()
            assert client.get(f"{server.url}/livez").status_code == 200
            times.append(time.perf_counter() - began)
            time.sleep(0.02)


FIELD = b"a:b\r\n"
HEADS = {
    "many fields": FIELD * 200_000,
    "a field over the limit": FIELD * MAX_HEAD_FIELDS,
    "a long value": b"Accept: " + b"," * 5_000_000 + b"\r\n",
    "a long content type": b'Content-Type: multipart/form-data; a="' + b";" * 100_000 + b"\r\n",
    "a value over the limit": b"X-A: " + b"a" * MAX_HEAD_BYTES + b"\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_large_heads_are_refused_before_the_key(guarded_server: Server, name: str) -> None:
    stop, times = threading.Event(), list[float]()
    health = threading.Thread(target=slowest_health, args=(guarded_server, stop, times))
    health.start()
    head = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n" + HEADS[name] + b"\r\nx"
    received = exchange(guarded_server, head)
    stop.set()
    health.join()
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in received
    assert max(times) < 1


def test_a_long_target_is_refused(server: Server) -> None:
    assert exchange(server, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n").startswith(
        b"HTTP/1.1 431 "
    )


def test_a_head_within_the_limits_is_answered(server: Server) -> None:
    fields = {f"x-{index}": "v" * 200 for index in range(MAX_HEAD_FIELDS - 10)}
    assert httpx.get(f"{server.url}/livez", headers=fields).status_code == 200


def test_a_header_line_without_end_costs_no_memory(server: Server) -> None:
    worker = psutil.Process(server.process.pid).children(recursive=True)[0]
    before = worker.memory_info().rss
    received = exchange(server, b"GET /model HTTP/1.1\r\nX-A: " + b"a" * 50 * 2**20)
    assert received.startswith(b"HTTP/1.1 431 ") or not received  # it may be reset meanwhile
    assert worker.memory_info().rss - before < 16 * 2**20


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost:"])
def test_silent_connections_are_closed(server: Server, sent: bytes) -> None:
    with connection(server) as opened:
        opened.sendall(sent)
        began = time.monotonic()
        opened.settimeout(HEAD_SECONDS + 5)
        assert opened.recv(100) == b""
        assert HEAD_SECONDS - 1 < time.monotonic() - began < HEAD_SECONDS + 3


def test_silent_clients_shut_nobody_out(tmp_path: Path) -> None:
    require_serving()
    with serving(tmp_path, settings={"DENOISER_MAX_CONNECTIONS": "40"}) as server:
        host, port = server.url.removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(200)]
        try:
            for _ in range(20):
                assert httpx.get(f"{server.url}/livez", timeout=5).status_code == 200
        finally:
            for one in silent:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.close()


@pytest.mark.parametrize(("seconds", "open_"), [(None, True), ("1", False)])
def test_an_idle_connection_stays_open_as_long_as_is_set(
    tmp_path: Path, seconds: str | None, open_: bool
) -> None:
    """By default longer than nginx and load balancers keep theirs, which is 60 seconds."""
    assert Settings().keep_alive > 60
    require_serving()
    settings = {"DENOISER_KEEP_ALIVE": seconds} if seconds else {}
    with serving(tmp_path, settings=settings) as server:
        connected = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        connected.request("GET", "/livez")
        assert connected.getresponse().read()
        time.sleep(6)  # uvicorn's own limit is 5
        try:
            connected.request("GET", "/livez")
            answered = connected.getresponse().status == 200
        except ConnectionError:
            answered = False
        connected.close()
    assert answered == open_


def test_an_offer_of_http2_is_answered_over_http1(server: Server) -> None:
    """Java's HttpClient and curl --http2 make it with each request on a plain connection."""
    head = (
        b"POST /decode HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(LATENTS)
    )
    with connection(server) as opened:
        for split in (0, len(head), len(head) + 7):  # in one piece, after the head, in the body
            whole = head + LATENTS
            opened.sendall(whole[:split])
            time.sleep(0.05)
            opened.sendall(whole[split:])
            received = b""
            while b"\r\n\r\n" not in received:
                received += opened.recv(65536)
            fields, _, body = received.partition(b"\r\n\r\n")
            assert fields.startswith(b"HTTP/1.1 200 ")
            length = int(fields.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            while len(body) < length:
                body += opened.recv(65536)
            assert len(json.loads(body)["images"]) == 1


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    paths = [b"/livez", b"/model", b"/v2/health/live"] * 10
    heads = [b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths]
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = exchange(server, b"".join(heads) + last)
    assert received.count(b"HTTP/1.1 200 ") == len(paths) + 1


@pytest.mark.parametrize("behind", [30, 3000])
def test_a_pipelining_client_that_leaves_is_not_computed_for(server: Server, behind: int) -> None:
    body = as_npy(some_images(20_000))
    head = b"POST /denoise HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)

    def counted(name: str) -> float:
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = counted("denoiser_rows_total")
    for _ in range(3):
        with connection(server) as opened:
            try:
                opened.sendall(head + body + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * behind)
                time.sleep(0.2)
            except (BrokenPipeError, ConnectionResetError):
                pass
    deadline = time.monotonic() + 3
    while counted("denoiser_requests_in_work") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert counted("denoiser_requests_in_work") == 0
    assert counted("denoiser_rows_total") - before < 60_000
    assert "Traceback" not in server.printed()
