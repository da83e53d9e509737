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

from service.codecs import npy
from service.errors import DenoiserError

T = TypeVar("T")

NPY = "application/x-npy"
RETRIED = (429, 503)
FIRST_PAUSE = (
    0.1  # seconds; doubled with each try, and jittered so that clients do not march in step
)
LONGEST_PAUSE = 10.0


class RemoteError(DenoiserError):
    """The service answered with an error that has no class of its own here."""

    title = "The service refused"


class UnavailableError(DenoiserError):
    """No answer: nobody listens, the connection broke, or the service stayed too busy."""

    title = "The service is unavailable"


class ModelChangedError(DenoiserError):
    """Parts of one answer come from different models."""

    title = "The model changed"


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
        """Split, send, put together in order."""
        rows = np.asarray(rows)
        places = asyncio.Semaphore(self._parallel)

        async def part(start: int) -> httpx.Response:
            async with places:
                body = npy.encode(rows[start : start + self._batch])
                return await self._send("POST", route, body)

        # At least one request, also for no rows: the service knows the answer's shape.
        async with asyncio.TaskGroup() as group:
            starts = range(0, max(1, len(rows)), self._batch)
            tasks = [group.create_task(part(start)) for start in starts]
        responses = [task.result() for task in tasks]
        made_by = {response.headers.get("x-model-fingerprint") for response in responses}
        if len(made_by) > 1:
            raise ModelChangedError(
                f"parts of one answer from {len(made_by)} models",
                expected="one model",
                todo="Call again: the service was replaced meanwhile.",
            )
        return np.concatenate(
            [np.load(io.BytesIO(response.content), allow_pickle=False) for response in responses]
        )

    async def _send(self, method: str, route: str, body: bytes) -> httpx.Response:
        """One request, with patience."""
        pause, tries = FIRST_PAUSE, 0
        while True:
            try:
                response = await self._http.request(method, route, content=body)
                if response.status_code not in RETRIED:
                    break
                wait = max(pause, _retry_after(response))
                problem: Exception | None = None
            except httpx.ConnectError as exc:
                wait, problem = pause, exc
            except httpx.TransportError as exc:
                raise _unavailable(f"{type(exc).__name__}: {exc}", self._http.base_url) from exc
            if tries == self._retries:
                reason = f"{problem}" if problem else f"{response.status_code} each time"
                raise _unavailable(f"{reason}, {tries + 1} tries", self._http.base_url) from problem
            tries += 1
            await asyncio.sleep(min(LONGEST_PAUSE, wait) * random.uniform(0.75, 1.25))
            pause *= 2
        if response.is_error:
            raise _error_of(response)
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


def _error_of(response: httpx.Response) -> DenoiserError:
    """The service's problem document as the exception that it was made from."""
    try:
        document = response.json()
        kinds = {kind("", expected="", todo="").slug: kind for kind in _kinds(DenoiserError)}
        kind = kinds[document["type"].rpartition(":")[2]]
        return kind(document["came"], expected=document["expected"], todo=document["todo"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return RemoteError(
            f"status {response.status_code} from {response.url}",
            expected="an answer or a problem document",
            todo="Look at the service's log.",
        )


def _kinds(kind: type[DenoiserError]) -> list[type[DenoiserError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _kinds(child))]


def _retry_after(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0


def _unavailable(came: str, url: httpx.URL) -> UnavailableError:
    return UnavailableError(
        f"{url}: {came}", expected="an answer", todo="Check the address, or try again later."
    )
