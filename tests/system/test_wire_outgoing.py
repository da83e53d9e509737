"""No request makes the server open a connection or load a pickle."""

from __future__ import annotations

import json
import pickle
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.processes import Server
from tests.support.wire import as_npy, some_images

PICKLE = "application/vnd.bentoml+pickle"
TYPES = (
    "application/json",
    "application/x-npy",
    "image/png",
    "multipart/form-data",
    PICKLE,
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "text/plain",
    "text/uri-list",
    "application/x-www-form-urlencoded",
    "application/xml",
    "application/vnd.apache.arrow.stream",
    "",
)
ROUTES = (
    "/encode",
    "/decode",
    "/denoise",
    "/v2/models/encoder/infer",
    "/v2/models/decoder/versions/1/infer",
    "/model",
    "/v2",
    "/v2/repository/index",
    "/",
    "/readyz",
    "/metrics",
    "/docs.json",
    "/schema.json",
    "/predict",
    "/__main__",
)


@dataclass
class Listener:
    """A port that the server must not connect to."""

    url: str
    calls: list[Any] = field(default_factory=list)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        listening = Listener(f"http://127.0.0.1:{opened.getsockname()[1]}/image.png")

        def accept() -> None:
            while True:
                try:
                    connection, address = opened.accept()
                except OSError:
                    return
                listening.calls.append(address)
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening
        opened.shutdown(socket.SHUT_RDWR)
        thread.join()


def called(listener: Listener) -> list[Any]:
    time.sleep(0.3)
    return listener.calls


class Payload:
    """Unpickling it opens a URL and writes a file."""

    def __init__(self, url: str, marker: Path) -> None:
        self.code = (
            f"import urllib.request, pathlib; pathlib.Path({str(marker)!r}).write_text('ran'); "
            f"urllib.request.urlopen({url!r}, timeout=2)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (self.code,))


def bodies(url: str) -> list[bytes]:
    """JSON of every form that the service reads, with the URL in each place."""
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 28, 28, 1]}
    values: list[Any] = [
        url,
        [url],
        {"images": url},
        {"images": [url]},
        {"images": [[url]]},
        {"images": {"url": url}},
        {"latents": [url]},
        {"latents": url},
        {"body": url},
        {"url": url},
        {url: url},
        {"inputs": url},
        {"inputs": [url]},
        {"inputs": [{**tensor, "data": url}]},
        {"inputs": [{**tensor, "data": [url]}]},
        {"inputs": [{**tensor, "name": url, "data": [0]}]},
        {"inputs": [{**tensor, "datatype": url, "data": [0]}]},
        {"inputs": [{**tensor, "shape": [url], "data": [0]}]},
        {"inputs": [{**tensor, "parameters": {"binary_data_size": url}}]},
        {"inputs": [{**tensor, "parameters": {"shared_memory_region": url}}]},
        {"inputs": [tensor], "outputs": [{"name": url}]},
        {"inputs": [tensor], "parameters": {"url": url}, "id": url},
    ]
    return [url.encode(), *(json.dumps(value).encode() for value in values)]


def test_urls_in_bodies_of_every_type_on_every_route(server: Server, listener: Listener) -> None:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        for route in ROUTES:
            for content_type in TYPES:
                for body in bodies(listener.url):
                    headers = {"Content-Type": content_type} if content_type else {}
                    answer = client.post(route, content=body, headers=headers)
                    assert answer.status_code < 500
    assert called(listener) == []


def test_urls_in_forms_and_file_names(server: Server, listener: Listener) -> None:
    url = listener.url
    forms: list[dict[str, Any]] = [
        {"data": {"images": url, "url": url}},
        {"files": {"images": (None, url)}},
        {"files": {"images": (url, url.encode(), "image/png")}},
        {"files": {url: (url, b"", url)}},
        {"files": {"images": ("a.png", b"", "image/png", {"Content-Location": url})}},
        {"files": {"images": ("a.png", url.encode(), "message/external-body")}},
    ]
    for route in ROUTES:
        for form in forms:
            assert httpx.post(server.url + route, **form).status_code < 500
    assert called(listener) == []


def test_urls_in_headers_and_queries(server: Server, listener: Listener) -> None:
    url = listener.url
    host = url.removeprefix("http://").removesuffix("/image.png")
    names = (
        "Referer",
        "Origin",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "Forwarded",
        "Host",
        "Content-Location",
        "Link",
        "Content-Type",
        "Accept",
        "Content-Encoding",
        "Bentoml-Url",
        "Authorization",
        "traceparent",
        "Callback",
        "Destination",
    )
    body = as_npy(some_images(1))
    npy = {"Content-Type": "application/x-npy"}
    with httpx.Client(base_url=server.url, timeout=20) as client:
        for route in ROUTES:
            for name in names:
                for value in (url, host):
                    headers = {**npy, name: value}
                    assert client.post(route, content=body, headers=headers).status_code < 500
                    assert client.get(route, headers={name: value}).status_code < 500
            for query in ("url", "images", "body", "callback", "fit", "dtype"):
                answer = client.post(route, params={query: url}, content=body, headers=npy)
                assert answer.status_code < 500
    with socket.create_connection(tuple(server.url.removeprefix("http://").split(":"))) as raw:  # type: ignore[arg-type]
        raw.sendall(f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert b" 404 " in raw.recv(1000) or b" 400 " in raw.recv(1000)
    assert called(listener) == []


def npy_with_objects(payload: bytes, shape: str = "(1, 28, 28, 1)") -> bytes:
    text = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n" + payload


def test_pickles_are_never_run(server: Server, listener: Listener, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    payload = Payload(listener.url, marker)
    packed = pickle.dumps(payload)
    loaded = [
        packed,
        pickle.dumps([payload]),
        npy_with_objects(packed),
        npy_with_objects(packed, "()"),
        as_npy(np.array([payload], object)),
        as_npy(np.array([[1, payload]], object)),
        b"\x80\x05" + packed,
    ]
    with httpx.Client(base_url=server.url, timeout=20) as client:
        for route in ROUTES:
            for body in loaded:
                for content_type in TYPES:
                    for more in (
                        {},
                        {
                            "Payload-Container": "NdarrayContainer",
                            "Payload-Meta": '{"format":"pickle5","with_buffer":false}',
                            "Bentoml-Payload-Container": "DefaultContainer",
                            "Args-Number": "1",
                        },
                    ):
                        headers = {"Content-Type": content_type, "Accept": PICKLE, **more}
                        answer = client.post(route, content=body, headers=headers)
                        assert answer.status_code < 500
                form = {"images": ("a.png", body, PICKLE)}
                assert client.post(route, files=form).status_code < 500
    assert called(listener) == []
    assert not marker.exists()


def test_the_trap_itself_works(listener: Listener, tmp_path: Path) -> None:
    """Otherwise the tests above would prove nothing."""
    marker = tmp_path / "marker"
    with pytest.raises(Exception, match=r"."):
        pickle.loads(pickle.dumps(Payload(listener.url, marker)))
    assert marker.read_text() == "ran"
    assert len(called(listener)) == 1
