"""A client for the service: arrays of any length in, arrays out, sync and async.

A call is split into requests that are in flight together; the result keeps the order of the rows.
The service's functions are pure, so a request is sent again after a broken connection and when the
service is busy (429, 503), and in halves when it is too large (413).
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, Self, TypeVar

import httpx
import numpy as np
from numpy.lib.format import read_array
from numpy.typing import ArrayLike, NDArray

from denoiser_client.connection import connection_options, shown
from denoiser_client.errors import (
    ModelChangedError,
    RefusedError,
    UnavailableError,
    error_of,
    parsed,
)

Array = NDArray[Any]
Floats = NDArray[np.float32]
Output = Literal["latents", "denoised", "scores"]
T = TypeVar("T")

NPY = "application/x-npy"
FINGERPRINT = "x-model-fingerprint"  # on every result of the service
ROUTES = {"latents": "/encode", "denoised": "/denoise"}
SCORED = "?score=true"
BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)
RETRIED = (429, 503)
FIRST_PAUSE = 0.1  # seconds; doubled with each try, with jitter to spread clients out
MAX_PAUSE = 10.0  # seconds
MAX_BYTES = 2**24  # of the rows in one request, far below the service's default limit
MAX_SCORED = 256  # images in one request with scores, which come in a header


class AsyncDenoiserClient:
    """Talks to one service; use it as an async context manager, or call `aclose`.

    Args:
        url: address of the service, e.g. "http://127.0.0.1:3000".
        api_key: sent as `Authorization: Bearer …`.
        batch: maximum rows in one request; fewer where they are large.
        parallel: requests in flight at once.
        retries: further tries of a request that got 429 or 503, or whose connection broke.
        timeout: seconds for one try of a request, from connecting to the last byte.

    Raises ConfigError for an unusable address, key, proxy or certificate file (SSL_CERT_FILE).
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
        self._options = connection_options(url, api_key)
        self._options["headers"] |= {"Content-Type": NPY, "Accept": NPY}
        proxy = self._options["proxy"]
        self._via = f" through the proxy {shown(proxy.url)}" if proxy else ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batch = batch
        self._parallel = parallel
        self._retries = retries
        self._timeout = timeout
        self._limits: dict[object, int] = {}  # rows that were not too large

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
        result = {name: self._joined(parts) for name, parts in zip(names, answers, strict=True)}
        if "scores" in outputs:
            texts = ",".join(part.headers.get("x-scores", "") for part in answers[0]).split(",")
            try:
                result["scores"] = np.array([text for text in texts if text], np.float32)
                if len(result["scores"]) != len(result[names[0]]):
                    raise ValueError("scores are missing")
            except ValueError as exc:
                raise error_of(answers[0][0], self._via) from exc
        return {name: result[name] for name in outputs}

    async def model(self) -> dict[str, Any]:
        """The manifest of the model that is served."""
        response = await self._send("GET", "/model", b"")
        if manifest := parsed(response):
            return manifest
        raise error_of(response, self._via)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connect().aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _connect(self) -> httpx.AsyncClient:
        """The connections of the running event loop: another one, as in a fork, has its own."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._http = httpx.AsyncClient(timeout=None, **self._options)
            self._free = asyncio.Semaphore(self._parallel)
            self._loop = loop
        return self._http

    async def _call(self, route: str, rows: ArrayLike) -> Array:
        return self._joined((await self._send_split([route], rows))[0])

    def _joined(self, responses: Sequence[httpx.Response]) -> Array:
        """The npy arrays of the responses, joined along their rows."""
        try:
            streams = (io.BytesIO(response.content) for response in responses)
            return np.concatenate([read_array(stream, allow_pickle=False) for stream in streams])
        except (ValueError, MemoryError) as exc:  # cut off, or altered on its way
            raise error_of(responses[0], self._via) from exc

    async def _send_split(self, routes: list[str], rows: ArrayLike) -> list[list[httpx.Response]]:
        """Requests of up to `batch` rows, in flight together; each route's responses in order."""
        rows = np.atleast_1d(np.asarray(rows))
        batch = min(self._batch, MAX_BYTES * len(rows) // (rows.nbytes or 1)) or 1
        if SCORED in routes[0]:
            batch = min(batch, MAX_SCORED)
        self._connect()
        # At least one request, also for no rows: the service knows the result's shape.
        starts = range(0, max(1, len(rows)), batch)
        tasks = [
            asyncio.ensure_future(self._send_rows(route, rows[at : at + batch]))
            for route in routes
            for at in starts
        ]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        fingerprints = {part.headers[FINGERPRINT] for parts in answers for part in parts}
        if len(fingerprints) > 1:
            raise ModelChangedError(
                f"parts of {len(fingerprints)} models", expected="one model", hint="Call again."
            )
        count = len(starts)
        groups = (answers[at : at + count] for at in range(0, len(answers), count))
        return [[part for parts in group for part in parts] for group in groups]

    async def _send_rows(self, route: str, rows: Array) -> list[httpx.Response]:
        """One request, or halves of it where the service says that it is too large."""
        key = (route, rows.shape[1:], rows.dtype)
        async with self._free:
            if len(rows) <= self._limits.get(key, len(rows)):
                stream = io.BytesIO()
                np.save(stream, np.ascontiguousarray(rows))
                try:
                    return [await self._send("POST", route, stream.getvalue())]
                except RefusedError as exc:
                    if exc.status != 413 or len(rows) < 2:
                        raise
                self._limits[key] = (len(rows) + 1) // 2
        size = self._limits[key]
        parts = [rows[at : at + size] for at in range(0, len(rows), size)]
        return [one for part in parts for one in await self._send_rows(route, part)]

    async def _send(self, method: str, route: str, body: bytes) -> httpx.Response:
        """One request, sent again with growing pauses while the service is busy or not up."""
        http = self._connect()
        for tries in range(1, self._retries + 2):
            error: Exception | None = None
            wait = FIRST_PAUSE * 2 ** (tries - 1)
            try:
                async with asyncio.timeout(self._timeout):
                    response = await http.request(method, route, content=body)
                if response.status_code not in RETRIED:
                    break
                reason = f"status {response.status_code}"
                seconds = response.headers.get("retry-after", "")
                wait = max(wait, float(seconds) if seconds.isdecimal() else 0)
            except TimeoutError as exc:
                error, reason = exc, f"no whole answer in {self._timeout:g} s"
            except httpx.RequestError as exc:
                error, reason = exc, f"{type(exc).__name__}: {exc}"
            # A certificate that is not accepted, or a port without TLS, stays so.
            broken = isinstance(error, BROKEN) and "[SSL" not in reason
            if tries > self._retries or (error and not broken):
                hint = f"NO_PROXY={http.base_url.host} connects directly." if self._via else ""
                if "CERTIFICATE_VERIFY" in reason:
                    hint = "SSL_CERT_FILE names the file of accepted certificates."
                raise UnavailableError(
                    f"{shown(http.base_url)}{self._via}: {reason} ({tries} tries)",
                    expected="an answer",
                    hint=hint,
                ) from error
            await asyncio.sleep(min(MAX_PAUSE, wait) * random.uniform(0.75, 1.25))
        if response.is_error or FINGERPRINT not in response.headers:
            raise error_of(response, self._via)
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
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
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
        if self._process != os.getpid():  # forked: the thread stayed in the other process
            # Never closed: that would disturb the other process.
            self._inherited = self._loop, vars(self._client).copy()
            self._start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()
