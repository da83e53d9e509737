"""The outermost ASGI app of a worker: our routes answered directly, the rest left to BentoML.

BentoML's own path costs a request more than the network does (tracing, metrics with a series for
each unknown path, an access log, a second routing). So the routes of this project are answered
before it: body → codec → engine → codec. Health, metrics and docs stay BentoML's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson

from service import formats, problem
from service.codecs.rows import RowSpec
from service.engine import Engine
from service.errors import DenoiserError, MethodError, RangeError, TooLargeError
from service.formats import OPERATIONS, Operation

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("denoiser")

# A body up to this size is answered on the event loop: parsing and computing a chunk takes less
# time than handing it to a thread and back would save.
INLINE_BYTES = 16 * 1024


class DisconnectedError(Exception):
    """The client went away before its body was complete."""


@dataclass(frozen=True)
class Answer:
    """A complete response."""

    body: bytes
    media_type: str
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Gateway:
    """ASGI app around BentoML's; `engine` is called at each request, when BentoML has made it."""

    def __init__(self, bentoml_app: App, *, engine: Callable[[], Engine], max_body: int) -> None:
        self._bentoml = bentoml_app
        self._engine = engine
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if scope["type"] != "http" or (path not in OPERATIONS and path != "/model"):
            await self._bentoml(scope, receive, send)
            return
        try:
            answer = await self._answer(scope, receive)
        except DisconnectedError:
            return
        except DenoiserError as error:
            answer = _problem(error)
        except Exception:
            log.exception("%s %s failed", scope["method"], path)
            answer = Answer(problem.from_status(500), problem.MEDIA_TYPE, 500)
        await _send(answer, self._engine().manifest.fingerprint, scope["method"], send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        if scope["path"] == "/model":
            _require_method(scope, "GET", "HEAD")
            return Answer(orjson.dumps(self._engine().manifest.as_dict()), formats.JSON)
        _require_method(scope, "POST")
        operation = OPERATIONS[scope["path"]]
        headers: dict[str, bytes] = {}
        for key, value in scope["headers"]:  # a repeated field means its values, comma-joined
            name = key.decode("latin-1")
            headers[name] = headers[name] + b", " + value if name in headers else value
        came = formats.read_type(operation, _text(headers.get("content-type")))
        goes = formats.write_type(operation, _text(headers.get("accept")), came)
        dtype = _dtype_option(scope.get("query_string", b""))
        body = await _read_body(receive, headers.get("content-length"), self._max_body)

        def work() -> bytes:
            return answer_rows(self._engine(), operation, body, came, goes, dtype)

        if len(body) <= INLINE_BYTES:
            return Answer(work(), goes)
        return Answer(await asyncio.get_running_loop().run_in_executor(None, work), goes)


def answer_rows(
    engine: Engine, operation: Operation, body: bytes, came: str, goes: str, dtype: str | None
) -> bytes:
    """Decode a body, run the model, encode the answer.

    Args:
        came, goes: media types of body and answer.
        dtype: "uint8" or "float32" for npy answers, None for that of the body.

    Raises:
        InputError
    """
    manifest = engine.manifest
    shape = manifest.image_shape if operation.source == "images" else (manifest.latent_size,)
    rows = formats.decode(body, came, RowSpec(operation.source, shape))
    chosen = formats.answer_dtype(operation, goes, rows)
    if dtype and goes == formats.NPY and operation.answer == "images":
        chosen = dtype
    answer = engine.submit(operation.model, rows, dtype=chosen).result()  # type: ignore[arg-type]
    return formats.encode(answer, goes, operation)


def _require_method(scope: Scope, *allowed: str) -> None:
    if scope["method"] not in allowed:
        raise MethodError(
            f"{scope['method']} {scope['path']}",
            expected=" or ".join(allowed),
            todo="See /docs.json for what each route answers.",
        )


def _dtype_option(query: bytes) -> str | None:
    """The `dtype` of the query string, checked."""
    values = parse_qs(query.decode("latin-1")).get("dtype")
    if not values:
        return None
    if values[-1] not in ("uint8", "float32"):
        raise RangeError(
            f"dtype={values[-1][:40]!r}", expected="uint8 or float32", todo="Correct the query."
        )
    return values[-1]


async def _read_body(receive: Receive, content_length: bytes | None, limit: int) -> bytes:
    """The whole body, counted as it arrives."""
    if content_length is not None and content_length.isdigit():
        claimed = int(content_length[:20])  # longer ones are too large all the same
        if claimed > limit:
            raise _too_large(claimed, limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(size, limit)
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(size: int, limit: int) -> TooLargeError:
    return TooLargeError(
        f"a body of {size} bytes or more",
        expected=f"at most {limit}",
        todo="Send fewer rows at a time, or uint8 npy, which is the smallest format.",
    )


def _problem(error: DenoiserError) -> Answer:
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, MethodError):
        headers = ((b"allow", error.expected.replace(" or ", ", ").encode()),)
    if isinstance(error, TooLargeError):
        headers = ((b"connection", b"close"),)  # do not go on reading what was refused
    return Answer(problem.from_error(error), problem.MEDIA_TYPE, error.status, headers)


async def _send(answer: Answer, fingerprint: str, method: str, send: Send) -> None:
    headers = [
        (b"content-type", answer.media_type.encode()),
        (b"content-length", str(len(answer.body)).encode()),
        (b"x-model-fingerprint", fingerprint.encode()),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = b"" if method == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value is not None else None
