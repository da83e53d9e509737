"""Fixtures for tests against real processes."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from service.engine import Engine
from tests.support.processes import BUNDLE, SERVING, Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped bundle, served from the environment that has no TensorFlow."""
    require_serving()
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


KEY = "a-key-of-some-length"
ORIGIN = "https://page.example"
SMALL = {
    "DENOISER_MAX_BODY": "100000",
    "DENOISER_MAX_BUFFERED": "250000",
    "DENOISER_MAX_ROWS": "20",
    "DENOISER_CONCURRENCY": "4",
    "DENOISER_TIMEOUT": "1",
}
GUARDED = {
    "DENOISER_API_KEY": KEY,
    "DENOISER_CORS_ORIGINS": ORIGIN,
    "DENOISER_DOCS": "off",
    "DENOISER_CONCURRENCY": "1",
}


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with the small limits of `SMALL`."""
    require_serving()
    with serving(tmp_path_factory.mktemp("small"), settings=SMALL) as running:
        yield running


@pytest.fixture(scope="session")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with the API key, the CORS origin and the single place of `GUARDED`."""
    require_serving()
    with serving(tmp_path_factory.mktemp("guarded"), settings=GUARDED) as running:
        yield running


@pytest.fixture(scope="session")
def local_engine() -> Engine:
    """The engine of the shipped bundle in this process: what answers are compared with."""
    require_serving()
    return Engine.load(BUNDLE, threads=1)


def as_npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def from_npy(body: bytes) -> np.ndarray:
    found: np.ndarray = np.load(io.BytesIO(body), allow_pickle=False)
    return found


def some_images(count: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, 28, 28, 1)"""
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)


def exchange(
    server: Server, sent: bytes, *, then: Callable[[socket.socket], None] | None = None
) -> bytes:
    """Bytes over a bare connection; what came back until the server closed it."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        connection.sendall(sent)
        if then is not None:
            then(connection)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def require_serving() -> None:
    if not (SERVING / "bentoml").exists():
        pytest.skip("no .venv-serve: make env-serve")
    if not BUNDLE.is_dir():
        pytest.skip("no bundles/mnist in this checkout")
