"""What the routes do: body → codec → engine → codec, and no arithmetic.

Small work is done on the event loop, where it costs less than a hand-over to a thread; the rest
runs in the engine's threads (models) and in a few threads of its own (JSON, PNG, compression), so
that the loop is free for other requests and for health.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from common.arrays import Array
from common.errors import BusyError, MalformedError, TooLargeError
from service.codecs import compression
from service.codecs.rows import RowSpec
from service.engine import Engine, Scored
from service.http import formats
from service.http import query as options
from service.http.asgi import Body, DisconnectedError, Receive, Scope
from service.http.asgi import Response as Answer
from service.http.formats import Operation
from service.http.metrics import Metrics
from service.http.v2 import inference as v2
from service.runtime.pool import usable_cores
from service.settings import Settings

T = TypeVar("T")

# Bodies and answers up to this many bytes are parsed and written on the event loop: a single image
# in any format. That takes some tens of microseconds, less than a thread's hand-over and back.
INLINE = 16 * 1024


class Endpoints:
    """The handlers of one worker, and what they share: engine, limits, threads, counters."""

    def __init__(
        self, engine: Callable[[], Engine], settings: Settings, metrics: Callable[[], Metrics]
    ) -> None:
        self.engine = engine
        self._settings = settings
        self._metrics = metrics
        self._in_work = 0
        self._codecs = ThreadPoolExecutor(max(2, usable_cores()), thread_name_prefix="codec")

    async def operate(
        self, scope: Scope, body: Body, receive: Receive, operation: Operation
    ) -> Answer:
        """/encode, /decode, /denoise."""
        content_type = body.header(b"content-type")
        received = formats.read_type(operation, content_type)
        goes = formats.write_type(operation, body.header(b"accept"), received)
        wishes = options.read(scope.get("query_string", b""))
        self._enter()
        try:
            raw = await self._read(body)
            manifest = self.engine().manifest
            shape = (
                manifest.image_shape if operation.source == "images" else (manifest.latent_size,)
            )

            def decode() -> formats.Rows:
                return formats.decode(
                    raw,
                    received,
                    RowSpec(operation.source, shape),
                    content_type=content_type or "",
                    options=wishes,
                    max_rows=self._settings.max_rows,
                )

            # a PNG that is to be fitted may hold millions of pixels in a few bytes
            small = received == formats.NPY or (len(raw) <= INLINE and wishes.fit is None)
            rows = await self._run(decode, small=small)
            dtype = formats.answer_dtype(operation, goes, rows.array, wishes)
            formats.require_scorable(
                operation, goes, len(rows.array), wishes, scored=bool(manifest.novelty)
            )
            scores: Array | None = None
            if wishes.score:
                answer_name: Scored = "latents" if operation.answer == "latents" else "denoised"
                both = await self._score(
                    operation.model, rows.array, receive, (answer_name, "scores"), dtype=dtype
                )
                found, scores = both[answer_name], both["scores"]
            else:
                found = await self._compute(operation.model, rows.array, receive, dtype=dtype)

            def encode() -> bytes:
                return formats.encode(
                    found, goes, operation, names=rows.names, options=wishes, scores=scores
                )

            answer = await self._run(encode, small=found.nbytes <= INLINE)
            headers: tuple[tuple[bytes, bytes], ...] = ()
            if scores is not None and goes != formats.JSON:
                headers = (formats.scores_header(scores),)
            return await self._compressed(Answer(answer, goes, headers=headers), body)
        finally:
            self._leave(body)

    async def infer(self, scope: Scope, body: Body, receive: Receive, model: str) -> Answer:
        """/v2/models/{model}/infer"""
        length = body.header(b"inference-header-content-length")
        if length is not None and not (length.isascii() and length.isdigit() and len(length) < 12):
            raise MalformedError(
                "an Inference-Header-Content-Length that is not a number",
                expected="the length of the JSON part",
                hint="Leave it out for requests without binary tensors.",
            )
        self._enter()
        try:
            raw = await self._read(body)
            engine = self.engine()

            def read() -> v2.Request:
                return v2.read(raw, int(length) if length else None, model, engine.manifest)

            small = (int(length) if length else len(raw)) <= INLINE
            request = await self._run(read, small=small)
            self._check_rows(len(request.rows))
            found: dict[str, Array] = {}
            if wanted := v2.scored(request):
                found = await self._score(model, request.rows, receive, wanted)
            else:
                for step, source, name in v2.plan(request):
                    rows = request.rows if source is None else found[source]
                    found[name] = await self._compute(step, rows, receive)

            def write() -> tuple[bytes, int | None]:
                return v2.write(request, found, engine.manifest.fingerprint)

            small = sum(array.nbytes for array in found.values()) <= INLINE
            answer, head = await self._run(write, small=small)
            if head is None:
                return await self._compressed(Answer(answer, formats.JSON), body)
            headers = ((b"inference-header-content-length", b"%d" % head),)
            return await self._compressed(
                Answer(answer, "application/octet-stream", headers=headers), body
            )
        finally:
            self._leave(body)

    def _check_rows(self, rows: int) -> None:
        if rows > self._settings.max_rows:
            raise TooLargeError(
                f"{rows} rows",
                expected=f"at most {self._settings.max_rows}",
                hint="Split them over several requests.",
            )

    def _enter(self) -> None:
        """Count a request as in work, or refuse it."""
        if self._in_work >= self._settings.concurrency:
            raise BusyError(
                f"{self._in_work} requests in work",
                expected="a free place",
                hint="Try again in a second.",
            )
        self._in_work += 1
        self._metrics().entered()

    def _leave(self, body: Body) -> None:
        """The request is answered: its place and its bytes are free."""
        self._in_work -= 1
        self._metrics().left()
        body.release()

    async def _read(self, body: Body) -> bytes:
        """The body as it arrives, then without its Content-Encoding."""
        settings = self._settings
        raw = await body.read(limit=settings.max_body, seconds=settings.timeout)
        encoding = body.header(b"content-encoding")
        if encoding is None:
            return raw

        def expand() -> bytes:
            return compression.decode(raw, encoding, limit=settings.max_body)

        plain = await self._run(expand, small=False)
        body.count(len(plain))
        return plain

    async def _compute(
        self, model: str, rows: Array, receive: Receive, *, dtype: Any = "float32"
    ) -> Array:
        """Run a model; a client that goes away meanwhile takes its unfinished work with it."""
        started = time.perf_counter()
        answer = await _unless_gone(self.engine().submit(model, rows, dtype=dtype), receive)
        self._metrics().computed(model, len(rows), time.perf_counter() - started)
        return answer

    async def _score(
        self,
        model: str,
        images: Array,
        receive: Receive,
        wanted: tuple[Scored, ...],
        *,
        dtype: Any = "float32",
    ) -> dict[str, Array]:
        """As `_compute`, with scores; counted as rows of the model that was asked."""
        started = time.perf_counter()
        future = self.engine().submit_scored(images, wanted, dtype=dtype)
        answer = await _unless_gone(future, receive)
        self._metrics().computed(model, len(images), time.perf_counter() - started)
        return answer

    async def _compressed(self, answer: Answer, body: Body) -> Answer:
        if answer.media_type in (formats.PNG, formats.ZIP):
            return answer
        encoding = compression.choose(
            body.header(b"accept-encoding"),
            len(answer.body),
            text=answer.media_type == formats.JSON,
        )
        if encoding is None:
            return answer

        def compress() -> bytes:
            return compression.encode(answer.body, encoding)

        packed = await self._run(compress, small=len(answer.body) <= INLINE)
        headers = (*answer.headers, (b"content-encoding", encoding.encode()))
        return Answer(packed, answer.media_type, answer.status, headers)

    async def _run(self, work: Callable[[], T], *, small: bool) -> T:
        if small:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._codecs, work)


async def _unless_gone(future: Future[T], receive: Receive) -> T:
    """The future's result; DisconnectedError, and no more chunks, if the client leaves first."""
    if future.done():
        return future.result()
    result = asyncio.wrap_future(future)
    gone: asyncio.Future[Any] = asyncio.ensure_future(
        receive()
    )  # the body is complete: only a disconnect can come
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            result.cancel()
            raise DisconnectedError
        return result.result()
    finally:
        gone.cancel()
