"""What the routes do: body → codec → engine → codec, and no arithmetic.

Small work runs on the event loop, where it costs less than passing it to a thread. The rest runs in
the engine's threads (models) and in a few codec threads (JSON, images, compression), so that the
loop stays free for other requests and health checks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from common.arrays import Array
from common.cores import usable_cores
from common.errors import BusyError, MalformedError, TooLargeError
from service.codecs import compression
from service.codecs.jsontext import MAX_JSON
from service.codecs.rows import RowSpec
from service.codecs.steps import Steps, finish, step
from service.engine import Engine, ImageDtype, OutputName
from service.http import formats, query
from service.http.asgi import Body, DisconnectedError, Receive, Response, Scope
from service.http.formats import Operation
from service.http.metrics import Metrics
from service.http.v2 import inference as v2
from service.http.v2.models import INPUTS
from service.settings import Settings

T = TypeVar("T")

# Bodies and responses up to this many bytes, a single image in any format, are parsed and written
# on the event loop. That takes tens of microseconds, less than switching to a thread and back.
INLINE = 16 * 1024


class Endpoints:
    """The handlers of one worker, and their shared engine, limits, threads and counters."""

    def __init__(
        self, engine: Callable[[], Engine], settings: Settings, metrics: Callable[[], Metrics]
    ) -> None:
        self.engine = engine
        self._settings = settings
        self._metrics = metrics
        self._active = 0
        self._codecs = ThreadPoolExecutor(max(2, usable_cores()), thread_name_prefix="codec")

    async def operate(
        self, scope: Scope, body: Body, receive: Receive, operation: Operation
    ) -> Response:
        """Respond to /encode, /decode or /denoise."""
        content_type = body.header(b"content-type")
        request_type = formats.read_type(operation, content_type)
        response_type = formats.write_type(operation, body.header(b"accept"), request_type)
        options = query.read(scope.get("query_string", b""))
        self._check_free()
        try:
            raw = await self._read(body, json=request_type == formats.JSON)
            manifest = self.engine().manifest
            spec = RowSpec(operation.source, manifest.row_shape(operation.source))
            # A PNG to be resized may contain millions of pixels in a few bytes.
            small = request_type == formats.NPY or (len(raw) <= INLINE and options.fit is None)
            row_size = math.prod(spec.shape)
            rows = await self._run(
                formats.decode(
                    raw,
                    request_type,
                    spec,
                    content_type=content_type or "",
                    options=options,
                    max_rows=min(self._settings.max_rows, self._settings.max_body // row_size),
                ),
                small=small,
            )
            if request_type != formats.NPY:  # whose rows are a view of the body
                body.count(rows.array.nbytes)
            scored = bool(manifest.novelty)
            formats.require_scorable(
                operation, response_type, len(rows.array), options, scored=scored
            )
            outputs: list[OutputName] = [operation.output]
            if options.score:
                outputs.append("scores")
            dtype = formats.answer_dtype(operation, response_type, rows.array, options)
            values = math.prod(manifest.row_shape(operation.answer))
            self._reserve(
                body,
                len(rows.array),
                result=values * (1 if dtype == "uint8" else 4),
                response=formats.row_bytes(operation, response_type, values, dtype),
                smaller=formats.NPY,
            )
            results = await self._compute(
                operation.model, operation.source, rows.array, outputs, receive, dtype=dtype
            )
            result, scores, names = results[operation.output], results.get("scores"), rows.names
            answer = await self._run(
                formats.encode(
                    result, response_type, operation, names=names, options=options, scores=scores
                ),
                small=result.nbytes <= INLINE,
            )
            headers: tuple[tuple[bytes, bytes], ...] = ()
            if scores is not None and response_type != formats.JSON:
                headers = (formats.scores_header(scores),)
            return await self._compressed(Response(answer, response_type, headers=headers), body)
        finally:
            self._leave(body)

    async def infer(self, scope: Scope, body: Body, receive: Receive, model: str) -> Response:
        """Respond to /v2/models/{model}/infer."""
        header = body.header(b"inference-header-content-length")
        if header is not None and not (header.isascii() and header.isdigit() and len(header) < 12):
            raise MalformedError(
                "an Inference-Header-Content-Length that is not a number",
                expected="the length of the JSON part",
                hint="Omit it for requests without binary tensors.",
            )
        length = int(header) if header else None
        self._check_free()
        try:
            raw = await self._read(body)
            manifest = self.engine().manifest
            request = await self._call(
                lambda: v2.read(raw, length, model, manifest),
                small=(length or len(raw)) <= INLINE,
            )
            self._check_rows(len(request.rows))
            result_bytes, response_bytes = v2.row_bytes(request, manifest)
            self._reserve(
                body,
                len(request.rows),
                result=result_bytes,
                response=response_bytes,
                smaller="binary tensors",
            )
            outputs = [name for name, _ in request.outputs]
            results = await self._compute(model, INPUTS[model], request.rows, outputs, receive)
            answer, head = await self._run(
                v2.write(request, results, manifest.fingerprint),
                small=sum(array.nbytes for array in results.values()) <= INLINE,
            )
            if head is None:
                return await self._compressed(Response(answer, formats.JSON), body)
            headers = ((b"inference-header-content-length", b"%d" % head),)
            return await self._compressed(
                Response(answer, "application/octet-stream", headers=headers), body
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

    def _reserve(self, body: Body, rows: int, *, result: int, response: int, smaller: str) -> None:
        """Count `rows` of that many bytes in memory and in the response, or refuse them."""
        limit = max(1, self._settings.max_body // response)
        if rows > limit:
            raise TooLargeError(
                f"{rows} rows, which may take {rows * response} bytes in the response",
                expected=f"at most {limit} rows for {self._settings.max_body} bytes",
                hint=f"Split them over several requests, or ask for {smaller}.",
            )
        body.count(rows * (result + response))

    def _check_free(self) -> None:
        """Refuse a request where all places are taken."""
        if self._active >= self._settings.concurrency:
            raise BusyError(
                f"{self._active} active requests in this worker",
                expected=f"fewer than {self._settings.concurrency}",
                hint="Try again in a second.",
            )

    def _enter(self, body: Body) -> None:
        """Count a request as active from when its body is there: slow clients take no place."""
        self._check_free()
        self._active += 1
        body.active = True
        self._metrics().entered()

    def _leave(self, body: Body) -> None:
        """Release the request's place; its bytes are released when the response is sent."""
        if body.active:
            self._active -= 1
            self._metrics().left()

    async def _read(self, body: Body, *, json: bool = False) -> bytes:
        """The whole body, without its Content-Encoding; `json`: of at most MAX_JSON bytes."""
        limit = self._settings.max_body
        if json:
            limit = min(limit, MAX_JSON)
        raw = await body.read(limit=limit, seconds=self._settings.timeout)
        self._enter(body)
        encoding = body.header(b"content-encoding")
        if encoding is None:
            return raw
        work, counted = compression.decode(raw, encoding, limit=limit), 0
        while (plain := await self._call(lambda: step(work), small=False)) is None:
            body.count(compression.PIECE)
            counted += compression.PIECE
        body.count(len(plain[0]) - counted)
        return plain[0]

    async def _compute(
        self,
        model: str,
        source: str,
        rows: Array,
        outputs: Sequence[OutputName],
        receive: Receive,
        *,
        dtype: ImageDtype = "float32",
    ) -> dict[str, Array]:
        """Run the engine, and count the rows under `model`; cancelled if the client disconnects.

        `source` says what `rows` are: "images" or "latents".
        """
        started = time.perf_counter()
        images, latents = (rows, None) if source == "images" else (None, rows)
        future = self.engine().submit(outputs, images=images, latents=latents, dtype=dtype)
        results = await _unless_disconnected(future, receive)
        self._metrics().computed(model, len(rows), time.perf_counter() - started)
        return results

    async def _compressed(self, answer: Response, body: Body) -> Response:
        if answer.media_type in (formats.PNG, formats.ZIP):
            return answer
        encoding = compression.choose(
            body.header(b"accept-encoding"),
            len(answer.body),
            text=answer.media_type == formats.JSON,
        )
        if encoding is None:
            return answer
        small = len(answer.body) <= INLINE
        packed = await self._run(compression.encode(answer.body, encoding), small=small)
        headers = (*answer.headers, (b"content-encoding", encoding.encode()))
        return Response(packed, answer.media_type, answer.status, headers)

    async def _run(self, work: Steps[T], *, small: bool) -> T:
        """Work in steps, each after what waits for a codec thread."""
        if small:
            return finish(work)
        while (result := await self._call(lambda: step(work), small=False)) is None:
            pass
        return result[0]

    async def _call(self, work: Callable[[], T], *, small: bool) -> T:
        if small:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._codecs, work)


async def _unless_disconnected(future: Future[T], receive: Receive) -> T:
    """The future's result; DisconnectedError, and no more chunks, if the client leaves first."""
    if future.done():
        return future.result()
    result = asyncio.wrap_future(future)
    # The body is complete, so the next message can only be a disconnect
    disconnect: asyncio.Future[Any] = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({result, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            result.cancel()
            raise DisconnectedError
        return result.result()
    finally:
        disconnect.cancel()
