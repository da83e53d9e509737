"""`denoiser_client` against the real process."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
from typing import Any

import httpx
import numpy as np
import pytest

from denoiser_client import (
    AsyncDenoiserClient,
    DenoiserClient,
    RefusedError,
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
    assert small.dtype == np.uint8 and small.shape == images.shape
    expected = local_engine.denoise(images, dtype="uint8")
    assert np.abs(small.astype(int) - expected).max(initial=0) <= 1


def test_the_asynchronous_client_alike(server: Server, local_engine: Engine) -> None:
    sent = [some_images(20 + n, seed=n) for n in range(6)]

    async def run() -> list[np.ndarray]:
        async with AsyncDenoiserClient(server.url, batch=6, parallel=3) as client:
            assert (await client.model())["latent_size"] == 16
            return await asyncio.gather(*(client.encode(images) for images in sent))

    for images, latents in zip(sent, asyncio.run(run()), strict=True):
        np.testing.assert_allclose(latents, local_engine.encode(images), **CLOSE)


@pytest.mark.parametrize("order", ["fortran", "reversed", "strided", "contiguous"])
def test_arrays_of_any_memory_layout(server: Server, local_engine: Engine, order: str) -> None:
    images = some_images(12)
    sent = {
        "fortran": np.asfortranarray(images),
        "reversed": images[::-1],
        "strided": np.repeat(images, 2, axis=0)[::2],
        "contiguous": images,
    }[order]
    expected = local_engine.encode(np.ascontiguousarray(sent))
    with DenoiserClient(server.url, batch=5) as client:
        np.testing.assert_allclose(client.encode(sent), expected, **CLOSE)


def test_from_many_threads(server: Server, local_engine: Engine) -> None:
    results: dict[int, np.ndarray] = {}
    with DenoiserClient(server.url, batch=4) as client:

        def encode(n: int) -> None:
            results[n] = client.encode(some_images(10, seed=n))

        threads = [threading.Thread(target=encode, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 8
    for n, latents in results.items():
        np.testing.assert_allclose(latents, local_engine.encode(some_images(10, seed=n)), **CLOSE)


INVALID: list[tuple[np.ndarray, str]] = [
    (np.zeros((20, 32, 32, 1), np.uint8), "shape"),
    (np.zeros((20, 28, 28, 1), np.float64), "dtype"),
    (np.full((20, 28, 28, 1), 2, np.float32), "range"),
]


@pytest.mark.parametrize(("images", "slug"), INVALID)
@pytest.mark.parametrize("batch", [4, 100])
def test_invalid_input_is_refused_in_the_service_s_words(
    server: Server, images: np.ndarray, slug: str, batch: int
) -> None:
    with DenoiserClient(server.url, batch=batch) as client, pytest.raises(RefusedError) as caught:
        client.encode(images)
    error = caught.value
    assert (error.status, error.slug) == (422, slug)
    assert error.received and error.expected and error.received in str(error)

    async def encode() -> None:
        async with AsyncDenoiserClient(server.url, batch=batch) as client:
            await client.encode(images)

    with pytest.raises(RefusedError) as caught:
        asyncio.run(encode())
    assert caught.value.slug == slug


def test_other_errors(server: Server, small_server: Server) -> None:
    with DenoiserClient(f"{server.url}/nothing") as client, pytest.raises(RefusedError) as caught:
        client.model()
    assert (caught.value.status, caught.value.slug) == (404, "not-found")
    large = np.zeros((1, 400, 400, 1), np.uint8)
    with DenoiserClient(small_server.url) as client, pytest.raises(RefusedError) as caught:
        client.encode(large)
    assert (caught.value.status, caught.value.slug) == (413, "too-large")


def test_limits_of_the_server_are_found(small_server: Server, local_engine: Engine) -> None:
    """20 rows and 100,000 bytes in one request: 31 float32 images are too many bytes."""
    images = (some_images(70) / np.float32(255)).astype(np.float32)
    with DenoiserClient(small_server.url, parallel=2) as client:
        np.testing.assert_allclose(client.encode(images), local_engine.encode(images), **CLOSE)


def test_in_a_forked_process(server: Server, local_engine: Engine) -> None:
    """The thread of the client stays in the parent; its connections stay usable there."""
    images = some_images(40)
    with DenoiserClient(server.url, batch=8) as client:
        latents = client.encode(images)

        def encode() -> None:
            np.testing.assert_allclose(client.encode(images), latents, **CLOSE)
            client.close()

        children = [multiprocessing.get_context("fork").Process(target=encode) for _ in range(2)]
        for child in children:
            child.start()
        np.testing.assert_allclose(client.encode(images), latents, **CLOSE)
        for child in children:
            child.join(30)
            child.kill()
        assert [child.exitcode for child in children] == [0, 0]
        np.testing.assert_allclose(client.encode(images), latents, **CLOSE)


def test_the_asynchronous_client_in_one_loop_after_another(server: Server) -> None:
    client = AsyncDenoiserClient(server.url, batch=4, parallel=1)

    async def encode() -> tuple[int, ...]:
        async with client:
            return (await client.encode(some_images(20))).shape

    assert [asyncio.run(encode()) for _ in range(2)] == [(20, 16), (20, 16)]


def test_the_api_key(guarded_server: Server) -> None:
    for key in (None, "a-wrong-key-of-some-length"):
        with DenoiserClient(guarded_server.url, key) as client:
            with pytest.raises(RefusedError) as caught:
                client.encode(some_images(1))
            assert (caught.value.status, caught.value.slug) == (401, "unauthorized")
    with DenoiserClient(guarded_server.url, api_key=KEY) as client:
        assert client.encode(some_images(1)).shape == (1, 16)


def test_latents_denoised_images_and_scores_in_one_call(
    server: Server, local_engine: Engine
) -> None:
    images = some_images(30)
    with DenoiserClient(server.url, batch=8) as client:
        result = client.run(["denoised", "scores", "latents"], images)
    assert list(result) == ["denoised", "scores", "latents"]
    expected = local_engine.denoise(images, dtype="uint8").astype(int)
    assert np.abs(result["denoised"] - expected).max() <= 1
    np.testing.assert_allclose(result["latents"], local_engine.encode(images), **CLOSE)
    np.testing.assert_allclose(result["scores"], local_engine.score(images), **CLOSE)


def test_a_busy_service_is_asked_again(guarded_server: Server, local_engine: Engine) -> None:
    """The server has one place; the client's four requests in flight take turns."""
    images = some_images(6000)
    right = {"Authorization": f"Bearer {KEY}"}

    def refusals() -> float:
        text = httpx.get(f"{guarded_server.url}/metrics", headers=right).text
        lines = [line for line in text.splitlines() if 'refusals_total{reason="busy"}' in line]
        return float(lines[0].split()[-1]) if lines else 0.0

    before = refusals()
    with DenoiserClient(guarded_server.url, KEY, batch=1500, parallel=4, retries=20) as client:
        denoised = client.denoise(images)
    assert refusals() > before
    expected = local_engine.denoise(images, dtype="uint8")
    assert np.abs(denoised.astype(int) - expected).max() <= 1


def test_no_listener() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with DenoiserClient(url, retries=1) as client, pytest.raises(UnavailableError, match="2 tries"):
        client.encode(some_images(1))


def test_another_listener() -> None:
    """One that hangs up, one that fails, one that answers something else."""
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    for answer, kind in [
        (b"", UnavailableError),
        (page, RemoteError),
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
