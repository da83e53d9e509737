"""`denoiser_client.client` against the real process."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import httpx
import numpy as np
import pytest

from common.errors import (
    DenoiserError,
    DtypeError,
    RangeError,
    ShapeError,
    TooLargeError,
    UnauthorizedError,
)
from denoiser_client.client import (
    AsyncDenoiserClient,
    DenoiserClient,
    RemoteError,
    UnavailableError,
)
from service.engine import Engine
from tests.support.processes import Server, free_port
from tests.support.wire import KEY, some_images

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-4}


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 100])
def test_arrays_of_any_length_in_order(server: Server, local_engine: Engine, rows: int) -> None:
    images = some_images(rows)
    unit = (images / np.float32(255)).astype(np.float32)
    latents = local_engine.encode(images)
    with DenoiserClient(server.url, batch=8) as client:
        np.testing.assert_allclose(client.encode(images), latents, **CLOSE)
        np.testing.assert_allclose(client.encode(unit), latents, **CLOSE)
        np.testing.assert_allclose(client.decode(latents), local_engine.decode(latents), **CLOSE)
        np.testing.assert_allclose(client.denoise(unit), local_engine.denoise(unit), **CLOSE)
        small = client.denoise(images)
    assert (small.dtype, small.shape) == (np.uint8, images.shape)
    wanted = local_engine.denoise(images, dtype="uint8")
    assert np.abs(small.astype(int) - wanted).max(initial=0) <= 1


def test_the_asynchronous_client_alike(server: Server, local_engine: Engine) -> None:
    sent = [some_images(20 + n, seed=n) for n in range(6)]

    async def ask() -> list[np.ndarray]:
        async with AsyncDenoiserClient(server.url, batch=6, parallel=3) as client:
            assert (await client.model())["latent_size"] == 16
            return await asyncio.gather(*(client.encode(images) for images in sent))

    for images, found in zip(sent, asyncio.run(ask()), strict=True):
        np.testing.assert_allclose(found, local_engine.encode(images), **CLOSE)


@pytest.mark.parametrize("order", ["fortran", "reversed", "strided", "list"])
def test_arrays_of_any_memory_layout(server: Server, local_engine: Engine, order: str) -> None:
    images = some_images(12)
    sent = {
        "fortran": np.asfortranarray(images),
        "reversed": images[::-1],
        "strided": np.repeat(images, 2, axis=0)[::2],
        "list": images,
    }[order]
    wanted = local_engine.encode(np.ascontiguousarray(sent))
    with DenoiserClient(server.url, batch=5) as client:
        np.testing.assert_allclose(client.encode(sent), wanted, **CLOSE)


def test_from_many_threads(server: Server, local_engine: Engine) -> None:
    found: dict[int, np.ndarray] = {}
    with DenoiserClient(server.url, batch=4) as client:

        def ask(n: int) -> None:
            found[n] = client.encode(some_images(10, seed=n))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 8
    for n, latents in found.items():
        np.testing.assert_allclose(latents, local_engine.encode(some_images(10, seed=n)), **CLOSE)


WRONG: list[tuple[np.ndarray, type[DenoiserError]]] = [
    (np.zeros((20, 32, 32, 1), np.uint8), ShapeError),
    (np.zeros((20, 28, 28, 1), np.float64), DtypeError),
    (np.full((20, 28, 28, 1), 2, np.float32), RangeError),
]


@pytest.mark.parametrize(("images", "kind"), WRONG)
@pytest.mark.parametrize("batch", [4, 100])
def test_errors_are_those_of_the_service(
    server: Server, images: np.ndarray, kind: type[DenoiserError], batch: int
) -> None:
    with DenoiserClient(server.url, batch=batch) as client, pytest.raises(kind) as caught:
        client.encode(images)
    assert caught.value.received and caught.value.expected and caught.value.hint

    async def ask() -> None:
        async with AsyncDenoiserClient(server.url, batch=batch) as client:
            await client.encode(images)

    with pytest.raises(kind):
        asyncio.run(ask())


def test_other_errors(server: Server, small_server: Server) -> None:
    with DenoiserClient(f"{server.url}/nothing") as client, pytest.raises(DenoiserError) as caught:
        client.model()
    assert caught.value.status == 404
    with DenoiserClient(small_server.url) as client, pytest.raises(TooLargeError):
        client.encode(some_images(60))


def test_the_api_key(guarded_server: Server) -> None:
    for key in (None, "a-wrong-key-of-some-length"):
        with DenoiserClient(guarded_server.url, key) as client, pytest.raises(UnauthorizedError):
            client.encode(some_images(1))
    with DenoiserClient(guarded_server.url, api_key=KEY) as client:
        assert client.encode(some_images(1)).shape == (1, 16)


def test_what_is_too_busy_is_sent_again(guarded_server: Server, local_engine: Engine) -> None:
    """The server has one place; the client's four requests in flight take turns."""
    images = some_images(6000)
    right = {"Authorization": f"Bearer {KEY}"}

    def refusals() -> float:
        text = httpx.get(f"{guarded_server.url}/metrics", headers=right).text
        found = [line for line in text.splitlines() if 'refusals_total{reason="busy"}' in line]
        return float(found[0].split()[-1]) if found else 0.0

    before = refusals()
    with DenoiserClient(guarded_server.url, KEY, batch=1500, parallel=4, retries=20) as client:
        found = client.denoise(images)
    assert refusals() > before
    wanted = local_engine.denoise(images, dtype="uint8")
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with DenoiserClient(url, retries=1) as client, pytest.raises(UnavailableError, match="2 tries"):
        client.encode(some_images(1))


def test_somebody_else_listens() -> None:
    """A listener that hangs up, and one that answers something else."""
    for answer, kind in [
        (b"", UnavailableError),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", RemoteError),
    ]:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve(listener: socket.socket = listener, answer: bytes = answer) -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with DenoiserClient(url, retries=0) as client, pytest.raises(kind):
                client.model()
            thread.join()


def test_a_closed_client_can_be_closed_again(server: Server) -> None:
    client = DenoiserClient(server.url)
    client.close()
    client.close()
