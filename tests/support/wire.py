"""What tests send to real servers: settings, arrays, images, bytes over a bare connection."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable

import numpy as np

from common.arrays import Array, Bytes
from tests.support.processes import Server

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


def as_npy(array: Array) -> bytes:
    """What numpy.save writes."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def from_npy(body: bytes) -> Array:
    """What numpy.load reads."""
    array: Array = np.load(io.BytesIO(body), allow_pickle=False)
    return array


def some_images(count: int, seed: int = 0) -> Bytes:
    """uint8 (count, 28, 28, 1)"""
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)


def exchange(
    server: Server, sent: bytes, *, then: Callable[[socket.socket], None] | None = None
) -> bytes:
    """Send bytes over a bare connection; return what arrives until the server closes it."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        connection.sendall(sent)
        if then is not None:
            then(connection)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)
