"""Good traffic beside each attack on parsing, answers and connections: right, prompt, in memory."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from service.engine import Engine
from tests.support.processes import Server, require_serving, serving
from tests.support.wire import as_npy, from_npy, some_images

pytestmark = pytest.mark.alone

SECONDS = 4.0  # of each attack
CLIENTS = 4  # at once
PEAK = 256 * 2**20  # bytes over the start while it is attacked
LEFT = 64 * 2**20  # bytes over the start afterwards
SLOWEST = 1.0  # seconds that a good request may wait for hostile ones
NPY = {"Content-Type": "application/x-npy"}


def request(path: str, body: bytes, **fields: str) -> bytes:
    """A whole request; underscores of the field names stand for hyphens."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    start = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close"]
    text = "\r\n".join([*start, f"Content-Length: {len(body)}", *lines, "", ""])
    return text.encode() + body


def head(fields: bytes) -> bytes:
    start = b"POST /encode HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
    return start + fields + b"\r\n{}"


def part(disposition: bytes, content: bytes = b"x") -> bytes:
    return b"--x\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + content + b"\r\n"


def chunk(name: bytes, data: bytes = b"") -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def png_of_chunks(count: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(29 * 28)))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"aaAa") * count + pixels + chunk(b"IEND")


FORM = {"Content_Type": "multipart/form-data; boundary=x"}
GZIP = {"Content_Encoding": "gzip"}
DOTS = png_of_chunks(0)
LATENTS = gzip.compress(as_npy(np.zeros((100_000, 16), np.float32)))
V2 = json.dumps(
    {
        "inputs": [
            {
                "name": "latents",
                "datatype": "FP32",
                "shape": [100_000, 16],
                "parameters": {"binary_data_size": 6_400_000},
            }
        ]
    }
).encode()

# Each is sent whole; the response is read to its end, slowly.
BODIES: dict[str, bytes] = {
    "many fields": head(b"a:b\r\n" * 200_000),
    "an Accept of commas": head(b"Accept: " + b"," * 1_000_000 + b"\r\n"),
    "a Content-Type of semicolons": head(
        b'Content-Type: multipart/form-data; a="' + b";" * 30_000 + b"\r\n"
    ),
    "a form of odd dispositions": request(
        "/encode",
        gzip.compress(part(b'form-data; name="' + b'";' * 1000) * 30_000 + b"--x--\r\n"),
        **FORM,
        **GZIP,
    ),
    "a form of equal names": request(
        "/denoise",
        part(b'form-data; name="a"; filename="a.png"', DOTS) * 20_000 + b"--x--\r\n",
        **FORM,
    ),
    "a PNG of empty chunks": request(
        "/encode", gzip.compress(png_of_chunks(5_000_000)), Content_Type="image/png", **GZIP
    ),
    "latents for JSON": request(
        "/decode", LATENTS, Content_Type="application/x-npy", Accept="application/json", **GZIP
    ),
    "latents for npy": request("/decode", LATENTS, Content_Type="application/x-npy", **GZIP),
    "latents for a zip": request(
        "/decode", LATENTS, Content_Type="application/x-npy", Accept="application/zip", **GZIP
    ),
    "latents for V2's JSON": request(
        "/v2/models/decoder/infer",
        gzip.compress(V2 + bytes(6_400_000)),
        Inference_Header_Content_Length=str(len(V2)),
        **GZIP,
    ),
}


def send(body: bytes) -> Callable[[socket.socket], None]:
    def attack(connection: socket.socket) -> None:
        connection.sendall(body)
        while connection.recv(65536):
            time.sleep(0.001)

    return attack


def endless_header(connection: socket.socket) -> None:
    connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
    while True:
        connection.sendall(b"a" * 2**20)


def slow_body(connection: socket.socket) -> None:
    connection.sendall(b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(int(SECONDS / 0.5)):
        connection.sendall(b"{")
        time.sleep(0.5)


def silence(connection: socket.socket) -> None:
    host, port = connection.getpeername()
    others = [socket.create_connection((host, port)) for _ in range(100)]
    time.sleep(1)
    for other in others:
        other.close()


def pipelined_leaver(connection: socket.socket) -> None:
    body = as_npy(np.zeros((5_000, 28, 28, 1), np.uint8))
    connection.sendall(request("/denoise", body, Content_Type="application/x-npy") * 20)
    connection.close()


ATTACKS = {
    **{name: send(body) for name, body in BODIES.items()},
    "a header without end": endless_header,
    "slow bodies": slow_body,
    "silent connections": silence,
    "pipelining and leaving": pipelined_leaver,
}


class Background:
    """Threads that call a function again and again until the block ends; an error ends the test."""

    def __init__(self, *functions: Callable[[], None]) -> None:
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(f,)) for f in functions]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self, function: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                function()
        except BaseException as error:
            self._errors.append(error)


def memory(server: Server) -> int:
    """Resident bytes of the process and all its children."""
    main = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in (main, *main.children(recursive=True)))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, int]]:
    """A server at its defaults, and its memory before any attack."""
    require_serving()
    with serving(tmp_path_factory.mktemp("attacked")) as running:
        for count in (1, 64, 1024):
            body = as_npy(some_images(count))
            httpx.post(f"{running.url}/denoise", content=body, headers=NPY).raise_for_status()
        yield running, memory(running)


@pytest.mark.parametrize("name", ATTACKS)
def test_good_traffic_beside_an_attack(
    attacked: tuple[Server, int], local_engine: Engine, name: str
) -> None:
    server, start = attacked
    host, port = server.url.removeprefix("http://").split(":")
    images = some_images(4)
    expected, body = local_engine.encode(images), as_npy(images)
    health: list[float] = []
    answers: list[float] = []
    peaks: list[int] = []

    def attack() -> None:
        with (
            suppress(BrokenPipeError, ConnectionResetError, TimeoutError),
            socket.create_connection((host, int(port)), timeout=60) as connection,
        ):
            ATTACKS[name](connection)

    def good() -> None:
        began = time.perf_counter()
        response = httpx.post(f"{server.url}/encode", content=body, headers=NPY, timeout=30)
        answers.append(time.perf_counter() - began)
        if response.status_code != 429:  # allowed while others fill the worker
            assert response.status_code == 200, response.text[:200]
            np.testing.assert_allclose(from_npy(response.content), expected, rtol=0, atol=1e-4)
        time.sleep(0.02)

    def alive() -> None:
        began = time.perf_counter()
        assert httpx.get(f"{server.url}/livez", timeout=30).status_code == 200
        health.append(time.perf_counter() - began)
        peaks.append(memory(server))
        time.sleep(0.02)

    with Background(good, alive), Background(*[attack] * CLIENTS):
        time.sleep(SECONDS)
    deadline = time.monotonic() + 10
    while (left := memory(server) - start) > LEFT and time.monotonic() < deadline:
        time.sleep(0.2)
    print(
        f"\n{name}: /livez p99 {1000 * np.quantile(health, 0.99):.0f} ms, "
        f"slowest good answer {1000 * max(answers):.0f} ms, {len(answers)} of them, "
        f"memory +{(max(peaks) - start) / 2**20:.0f} MiB, left {left / 2**20:.0f} MiB"
    )
    assert "Traceback" not in server.printed()
    assert np.quantile(health, 0.99) < SLOWEST
    assert max(peaks) - start < PEAK
    assert left < LEFT
