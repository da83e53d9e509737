"""200 hostile requests of each kind beside good traffic: no crash, growth or mixed-up rows."""

from __future__ import annotations

import gzip
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from service.engine import Engine
from tests.support.processes import Server, require_serving, serving
from tests.support.wire import as_npy, from_npy, some_images

COUNT = 200  # stalled connections
REQUESTS = 80  # of each kind; one body kept of each would be far above GROWTH
TOGETHER = 8
GROWTH = 100 * 2**20
SETTINGS = {"DENOISER_MAX_BODY": str(16 * 2**20), "DENOISER_TIMEOUT": "2"}
NPY = {"Content-Type": "application/x-npy"}
JSON = {"Content-Type": "application/json"}
PNG = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def png_of(size: tuple[int, int], mode: str = "1") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "PNG")
    return stream.getvalue()


def png_that_lies() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    start = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 6, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + data + chunk(b"IEND", b"")


def npy_that_lies() -> bytes:
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000, 28, 28, 1), }"
    padded = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + bytes(1000)


def zipped(plain: bytes) -> bytes:
    return gzip.compress(plain, 9)


PART = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n%s\r\n'
# kind: (path, headers, body, allowed statuses)
ATTACKS: dict[str, tuple[str, dict[str, str], bytes, set[int]]] = {
    "gzip bomb": (
        "/encode",
        {**JSON, "Content-Encoding": "gzip"},
        zipped(bytes(200 * 2**20)),
        {413, 429},
    ),
    "gzip of white space": (
        "/encode",
        {**JSON, "Content-Encoding": "gzip"},
        zipped(b'{"images": [' + b" " * (15 * 2**20) + b"0"),
        {413, 429},
    ),
    "gzip of a row without an end": (
        "/encode",
        {**JSON, "Content-Encoding": "gzip"},
        zipped(b'{"images": [[' + b"0.5," * (3 * 2**20) + b"0]]}"),
        {413, 429},
    ),
    "gzip of one row more than the limit": (
        "/v2/models/encoder/infer",
        {**JSON, "Content-Encoding": "gzip"},
        zipped(b'{"inputs":[{"data":[' + b"0," * (7 * 2**20)),
        {400, 413, 429},
    ),
    "V2 of a million numbers": (
        "/v2/models/encoder/infer",
        {**JSON, "Content-Encoding": "gzip"},
        zipped(
            b'{"inputs":[{"name":"images","datatype":"FP32","shape":[1,28,28,1],"data":['
            + b"0.5," * 1_000_000
            + b"0]}]}"
        ),
        {422, 429},
    ),
    "PNG to be fitted": ("/encode?fit=contain", PNG, png_of((4096, 4096)), {200, 429}),
    "PNG too large to be fitted": ("/encode?fit=contain", PNG, png_of((9000, 9000)), {413}),
    "PNG that lies": ("/encode?fit=stretch", PNG, png_that_lies(), {400, 413, 422}),
    "npy that lies": ("/encode", NPY, npy_that_lies(), {400}),
    "npy of NaN": ("/encode", NPY, as_npy(np.full((300, 28, 28, 1), np.nan, np.float32)), {422}),
    "nested JSON": ("/encode", JSON, b'{"images":' + b"[" * 1_000_000, {400, 422}),
    "JSON of empty lists": ("/encode", JSON, b'{"images":[' + b"[]," * 300_000 + b"[]]}", {422}),
    "parts of a form": ("/encode", FORM, PART % b"x" * 5000 + b"--x--\r\n", {400}),
    "headers of a form": ("/encode", FORM, b"--x\r\n" + b"A: b\r\n" * 200_000, {400}),
    "form without an end": ("/encode", FORM, PART % bytes(1_000_000), {400}),
    "queries": ("/encode?" + "fit=contain&" * 500, PNG, png_of((28, 28)), {200, 422}),
    "wrong types": ("/encode", {"Content-Type": "text/html"}, b"<a>" * 100_000, {415}),
    "unknown paths": ("/a/b/c", JSON, b"{}" * 100_000, {404}),
}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require_serving()
    with serving(tmp_path_factory.mktemp("hostile"), settings=SETTINGS) as running:
        yield running


def memory(server: Server) -> int:
    """Resident bytes of the process and all its children."""
    main = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in (main, *main.children(recursive=True)))


class Traffic:
    """Good requests, one after the other, until the block ends."""

    def __init__(self, server: Server, engine: Engine) -> None:
        self.answers = self.busy = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._server = server
        self._sent = [some_images(1 + 9 * n, seed=n) for n in range(5)]
        self._expected = [engine.encode(images) for images in self._sent]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=60) as client:
            turn = 0
            while not self._stop.is_set():
                turn += 1
                images, expected = self._sent[turn % 5], self._expected[turn % 5]
                answer = client.post("/encode", content=as_npy(images), headers=NPY)
                if answer.status_code == 429:  # allowed under load
                    self.busy += 1
                elif answer.status_code != 200:
                    self.wrong.append(answer.text[:200])
                else:
                    result = from_npy(answer.content)
                    if result.shape != expected.shape or np.abs(result - expected).max() > 1e-3:
                        self.wrong.append(f"rows of others: {result.shape}")
                    self.answers += 1


def attack(server: Server, kind: str, count: int) -> Counter[int]:
    path, headers, body, _ = ATTACKS[kind]
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def one(_: int) -> int:
            try:
                return client.post(path, content=body, headers=headers).status_code
            except httpx.WriteError:  # closed while sending: no response to read
                return 0

        with ThreadPoolExecutor(TOGETHER) as pool:
            return Counter(pool.map(one, range(count)))


def test_hostile_requests_beside_good_ones(own_server: Server, local_engine: Engine) -> None:
    for kind in ATTACKS:  # warm: allocators, codecs, threads
        attack(own_server, kind, 2 * TOGETHER)
    time.sleep(1)
    before = memory(own_server)
    statuses_of: dict[str, Counter[int]] = {}
    peak = 0
    with Traffic(own_server, local_engine) as good:
        for kind in ATTACKS:
            statuses_of[kind] = attack(own_server, kind, REQUESTS)
            peak = max(peak, memory(own_server))
    time.sleep(2)
    growth = memory(own_server) - before
    print(f"growth {growth / 2**20:.0f} MiB, peak {(peak - before) / 2**20:.0f} MiB over")
    print(f"good answers: {good.answers}, refused as busy: {good.busy}")
    print(json.dumps({kind: dict(statuses) for kind, statuses in statuses_of.items()}, indent=1))
    for kind, statuses in statuses_of.items():
        assert set(statuses) <= ATTACKS[kind][3], kind
        assert sum(statuses.values()) == REQUESTS
    assert good.wrong == []
    assert good.answers > 20
    assert own_server.process.poll() is None
    assert "Traceback" not in own_server.printed()
    assert growth < GROWTH


def test_stalled_connections_do_not_keep_others_out(
    own_server: Server, local_engine: Engine
) -> None:
    host, port = own_server.url.removeprefix("http://").split(":")
    before = memory(own_server)
    heads = [
        b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{",
        b"POST /encode HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"POST /encode HTTP/1.1\r\nHos",
        b"",
    ]
    waiting = [socket.create_connection((host, int(port)), timeout=15) for _ in range(COUNT)]
    try:
        for n, connection in enumerate(waiting):
            connection.sendall(heads[n % len(heads)])
        images = some_images(3)
        time.sleep(6)  # longer than the timeout and the draining
        answer = httpx.post(f"{own_server.url}/encode", content=as_npy(images), headers=NPY)
        assert answer.status_code == 200
        result = from_npy(answer.content)
        np.testing.assert_allclose(result, local_engine.encode(images), rtol=0, atol=1e-4)
        for connection in waiting[:2]:
            assert connection.recv(12) in (b"HTTP/1.1 408", b"HTTP/1.1 429")
    finally:
        for connection in waiting:
            connection.close()
    time.sleep(1)
    assert memory(own_server) - before < GROWTH
