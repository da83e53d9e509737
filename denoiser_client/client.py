"""A client for the service: arrays of any length in, arrays out, sync and async.

A call is split into requests that are in flight together; order is kept. The service's functions
are pure, so what it was too busy for (429, 503) is simply sent again, later. Every piece of one
answer must come from the same model: a service that is replaced midway is an error, not a mixture.
"""

from __future__ import annotations

import asyncio
import io
import random
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np

from denoiser_client.errors import (
    ModelChangedError,
    RemoteError,
    UnavailableError,
    error_of,
    retry_after,
    unavailable,
)
from service.codecs import npy

__all__ = [
    "AsyncDenoiserClient",
    "DenoiserClient",
    "ModelChangedError",
    "RemoteError",
    "UnavailableError",
]

T = TypeVar("T")

NPY = "application/x-npy"
RETRIED = (429, 503)
FIRST_PAUSE = (
    0.1  # seconds; doubled with each try, and jittered so that clients do not march in step
)
MAX_PAUSE = 10.0
MAX_SCORED = 256  # images in one request with scores, which come in a header


class AsyncDenoiserClient:
    """Talks to one service; use it as an async context manager, or call `aclose`.

    Args:
        url: where the service is, e.g. "http://127.0.0.1:3000".
        api_key: sent as `Authorization: Bearer …`.
        batch: rows in one request.
        parallel: requests in flight at once.
        retries: further tries of a request that was refused with 429 or 503, or not connected.
        timeout: seconds for one request.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        batch: int = 256,
        parallel: int = 4,
        retries: int = 6,
        timeout: float = 60.0,
    ) -> None:
        headers = {"Content-Type": NPY, "Accept": NPY}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        limits = httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel)
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout, limits=limits
        )
        self._batch = batch
        self._parallel = parallel
        self._retries = retries

    async def encode(self, images: np.ndarray) -> np.ndarray:
        """uint8 or float32 images (N, H, W, C) → float32 latents (N, latent_size).

        Raises:
            InputError and its kinds, as the service names them; UnavailableError;
            ModelChangedError.
        """
        return await _first_error(self._call("/encode", images))

    async def decode(self, latents: np.ndarray) -> np.ndarray:
        """float32 latents (N, latent_size) → float32 images (N, H, W, C) in [0, 1]."""
        return await _first_error(self._call("/decode", latents))

    async def denoise(self, images: np.ndarray) -> np.ndarray:
        """Noisy images → clean ones of the same shape and dtype."""
        return await _first_error(self._call("/denoise", images))

    async def encode_scored(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Latents as in `encode`, and scores as in `score`."""
        return await _first_error(self._call_scored("/encode", images))

    async def denoise_scored(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Clean images as in `denoise`, and how unusual each noisy one is, as in `score`."""
        return await _first_error(self._call_scored("/denoise", images))

    async def score(self, images: np.ndarray) -> np.ndarray:
        """How unusual each image is: float32 (N,) in [0, 1], as `Engine.score` has it.

        Raises:
            OptionError: the model that is served has no scores. Else as `encode`.
        """
        return (await self.encode_scored(images))[1]

    async def model(self) -> dict[str, Any]:
        """The manifest of the model that is served."""
        response = await self._send("GET", "/model", b"")
        manifest: dict[str, Any] = response.json()
        return manifest

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _call(self, route: str, rows: np.ndarray) -> np.ndarray:
        """The answer's rows, put together in order."""
        responses = await self._send_split(route, rows, batch=self._batch)
        return np.concatenate([_array_of(response) for response in responses])

    async def _call_scored(self, route: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The answer's rows and their scores, float32 (N,)."""
        batch = min(self._batch, MAX_SCORED)
        responses = await self._send_split(f"{route}?score=true", rows, batch=batch)
        answers = [_array_of(response) for response in responses]
        scores = [_scores_of(response) for response in responses]
        return np.concatenate(answers), np.concatenate(scores)

    async def _send_split(
        self, route: str, rows: np.ndarray, *, batch: int
    ) -> list[httpx.Response]:
        """Requests of up to `batch` rows, in flight together; their answers in order."""
        rows = np.asarray(rows)
        places = asyncio.Semaphore(self._parallel)

        async def part(start: int) -> httpx.Response:
            async with places:
                body = npy.encode(rows[start : start + batch])
                return await self._send("POST", route, body)

        # At least one request, also for no rows: the service knows the answer's shape.
        async with asyncio.TaskGroup() as group:
            starts = range(0, max(1, len(rows)), batch)
            tasks = [group.create_task(part(start)) for start in starts]
        responses = [task.result() for task in tasks]
        made_by = {response.headers.get("x-model-fingerprint") for response in responses}
        if len(made_by) > 1:
            raise ModelChangedError(
                f"parts of one answer from {len(made_by)} models",
                expected="one model",
                hint="Call again: the service was replaced meanwhile.",
            )
        return responses

    async def _send(self, method: str, route: str, body: bytes) -> httpx.Response:
        """One request, with patience."""
        pause, tries = FIRST_PAUSE, 0
        while True:
            try:
                response = await self._http.request(method, route, content=body)
                if response.status_code not in RETRIED:
                    break
                wait = max(pause, retry_after(response))
                problem: Exception | None = None
            except httpx.ConnectError as exc:
                wait, problem = pause, exc
            except httpx.TransportError as exc:
                raise unavailable(f"{type(exc).__name__}: {exc}", self._http.base_url) from exc
            if tries == self._retries:
                reason = f"{problem}" if problem else f"{response.status_code} each time"
                raise unavailable(f"{reason}, {tries + 1} tries", self._http.base_url) from problem
            tries += 1
            await asyncio.sleep(min(MAX_PAUSE, wait) * random.uniform(0.75, 1.25))
            pause *= 2
        if response.is_error:
            raise error_of(response)
        return response


class DenoiserClient:
    """`AsyncDenoiserClient` for code without an event loop; the same arguments and methods.

    Safe to use from many threads; use it as a context manager, or call `close`.
    """

    def __init__(self, url: str, api_key: str | None = None, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = self._wait(_make(url, api_key, options))

    def encode(self, images: np.ndarray) -> np.ndarray:
        """As `AsyncDenoiserClient.encode`."""
        return self._wait(self._client.encode(images))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """As `AsyncDenoiserClient.decode`."""
        return self._wait(self._client.decode(latents))

    def denoise(self, images: np.ndarray) -> np.ndarray:
        """As `AsyncDenoiserClient.denoise`."""
        return self._wait(self._client.denoise(images))

    def encode_scored(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `AsyncDenoiserClient.encode_scored`."""
        return self._wait(self._client.encode_scored(images))

    def denoise_scored(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `AsyncDenoiserClient.denoise_scored`."""
        return self._wait(self._client.denoise_scored(images))

    def score(self, images: np.ndarray) -> np.ndarray:
        """As `AsyncDenoiserClient.score`."""
        return self._wait(self._client.score(images))

    def model(self) -> dict[str, Any]:
        """As `AsyncDenoiserClient.model`."""
        return self._wait(self._client.model())

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop.is_closed():
            return
        self._wait(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _make(url: str, api_key: str | None, options: dict[str, Any]) -> AsyncDenoiserClient:
    return AsyncDenoiserClient(url, api_key, **options)


async def _first_error(work: Coroutine[Any, Any, T]) -> T:
    """A task group raises a group; one error is what a caller can handle."""
    try:
        return await work
    except BaseExceptionGroup as group:
        found: BaseException = group
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
    raise found


def _array_of(response: httpx.Response) -> np.ndarray:
    """The npy array in a response's body."""
    array: np.ndarray = np.load(io.BytesIO(response.content), allow_pickle=False)
    return array


def _scores_of(response: httpx.Response) -> np.ndarray:
    """The scores in a response's header, float32 (n,)."""
    text = response.headers.get("x-scores", "")
    return np.array([float(number) for number in text.split(",") if number], np.float32)
