"""A client for the service: arrays of any length in, arrays out, sync and async.

A call is split into requests that are in flight together; the result keeps the order of the rows.
What the service was too busy for (429, 503) is sent again later: its functions are pure.
"""

from __future__ import annotations

import asyncio
import io
import random
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from denoiser_client.errors import ModelChangedError, UnavailableError, error_of

Array = NDArray[Any]
Floats = NDArray[np.float32]
Output = Literal["latents", "denoised", "scores"]
T = TypeVar("T")

NPY = "application/x-npy"
FINGERPRINT = "x-model-fingerprint"  # on every result of the service
ROUTES = {"latents": "/encode", "denoised": "/denoise"}
SCORED = "?score=true"
RETRIED = (429, 503)
FIRST_PAUSE = 0.1  # seconds; doubled with each try, with jitter to spread clients out
MAX_PAUSE = 10.0  # seconds
MAX_SCORED = 256  # images in one request with scores, which come in a header


class AsyncDenoiserClient:
    """Talks to one service; use it as an async context manager, or call `aclose`.

    Args:
        url: address of the service, e.g. "http://127.0.0.1:3000".
        api_key: sent as `Authorization: Bearer …`.
        batch: rows in one request.
        parallel: requests in flight at once.
        retries: further tries of a request that got 429 or 503 or no connection.
        timeout: seconds for one request.

    Every call raises RefusedError for input that the service does not accept, RemoteError for its
    other errors, UnavailableError without an answer, ModelChangedError when the service's model
    was replaced during the call.
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
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout)
        self._free = asyncio.Semaphore(parallel)
        self._batch = batch
        self._retries = retries

    async def encode(self, images: ArrayLike) -> Floats:
        """uint8 or float32 images (N, H, W, C) → float32 latents (N, latent_size)."""
        return await self._call("/encode", images)

    async def decode(self, latents: ArrayLike) -> Floats:
        """float32 latents (N, latent_size) → float32 images (N, H, W, C) in [0, 1]."""
        return await self._call("/decode", latents)

    async def denoise(self, images: ArrayLike) -> Array:
        """Noisy images → clean ones of the same shape and dtype."""
        return await self._call("/denoise", images)

    async def score(self, images: ArrayLike) -> Floats:
        """Novelty scores: float32 (N,), 0 = typical of the training data, 1 = unlike it."""
        return (await self.run(("scores",), images))["scores"]

    async def run(self, outputs: Sequence[Output], images: ArrayLike) -> dict[str, Array]:
        """Several results for the same images by the same model, by name.

        Args:
            outputs: any of "latents" (as `encode`), "denoised" (as `denoise`) and "scores" (as
                `score`; they need no further request).
            images: uint8 or float32 (N, H, W, C).
        """
        names = [name for name in outputs if name in ROUTES] or ["latents"]
        routes = [ROUTES[name] for name in names]
        if "scores" in outputs:
            routes[0] += SCORED
        answers = await self._send_split(routes, images)
        result = dict(zip(names, map(_joined, answers), strict=True))
        if "scores" in outputs:
            texts = ",".join(part.headers.get("x-scores", "") for part in answers[0]).split(",")
            result["scores"] = np.array([float(text) for text in texts if text], np.float32)
        return {name: result[name] for name in outputs}

    async def model(self) -> dict[str, Any]:
        """The manifest of the model that is served."""
        return dict((await self._send("GET", "/model", b"")).json())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _call(self, route: str, rows: ArrayLike) -> Array:
        return _joined((await self._send_split([route], rows))[0])

    async def _send_split(self, routes: list[str], rows: ArrayLike) -> list[list[httpx.Response]]:
        """Requests of up to `batch` rows, in flight together; each route's responses in order."""
        rows = np.atleast_1d(np.asarray(rows))
        batch = min(self._batch, MAX_SCORED) if SCORED in routes[0] else self._batch

        async def send(route: str, start: int) -> httpx.Response:
            stream = io.BytesIO()
            async with self._free:
                np.save(stream, np.ascontiguousarray(rows[start : start + batch]))
                return await self._send("POST", route, stream.getvalue())

        # At least one request, also for no rows: the service knows the result's shape.
        starts = range(0, max(1, len(rows)), batch)
        tasks = [asyncio.ensure_future(send(route, at)) for route in routes for at in starts]
        try:
            responses = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        fingerprints = {response.headers[FINGERPRINT] for response in responses}
        if len(fingerprints) > 1:
            raise ModelChangedError(
                f"parts of {len(fingerprints)} models", expected="one model", hint="Call again."
            )
        count = len(starts)
        return [responses[at : at + count] for at in range(0, len(responses), count)]

    async def _send(self, method: str, route: str, body: bytes) -> httpx.Response:
        """One request, sent again with growing pauses while the service is busy or not up."""
        for tries in range(1, self._retries + 2):
            error: httpx.RequestError | None = None
            wait = FIRST_PAUSE * 2 ** (tries - 1)
            try:
                response = await self._http.request(method, route, content=body)
                if response.status_code not in RETRIED:
                    break
                reason = f"status {response.status_code}"
                seconds = response.headers.get("retry-after", "")
                wait = max(wait, int(seconds) if seconds.isdecimal() else 0)
            except httpx.RequestError as exc:
                error, reason = exc, f"{type(exc).__name__}: {exc}"
            if tries > self._retries or (error and not isinstance(error, httpx.ConnectError)):
                received = f"{self._http.base_url}: {reason} ({tries} tries)"
                raise UnavailableError(received, expected="an answer") from error
            await asyncio.sleep(min(MAX_PAUSE, wait) * random.uniform(0.75, 1.25))
        if response.is_error or FINGERPRINT not in response.headers:
            raise error_of(response)
        return response


class DenoiserClient:
    """`AsyncDenoiserClient` for code without an event loop; the same arguments and methods.

    Safe to use from many threads; use it as a context manager, or call `close`.
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
        self._client = AsyncDenoiserClient(
            url, api_key, batch=batch, parallel=parallel, retries=retries, timeout=timeout
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def encode(self, images: ArrayLike) -> Floats:
        """As `AsyncDenoiserClient.encode`."""
        return self._wait(self._client.encode(images))

    def decode(self, latents: ArrayLike) -> Floats:
        """As `AsyncDenoiserClient.decode`."""
        return self._wait(self._client.decode(latents))

    def denoise(self, images: ArrayLike) -> Array:
        """As `AsyncDenoiserClient.denoise`."""
        return self._wait(self._client.denoise(images))

    def score(self, images: ArrayLike) -> Floats:
        """As `AsyncDenoiserClient.score`."""
        return self._wait(self._client.score(images))

    def run(self, outputs: Sequence[Output], images: ArrayLike) -> dict[str, Array]:
        """As `AsyncDenoiserClient.run`."""
        return self._wait(self._client.run(outputs, images))

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

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result; an interrupted wait cancels the call."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()


def _joined(responses: Sequence[httpx.Response]) -> Array:
    """The npy arrays of the responses, joined along their rows."""
    return np.concatenate([np.load(io.BytesIO(response.content)) for response in responses])
