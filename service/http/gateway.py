"""The outermost ASGI app of a worker: our routes answered directly, the rest left to BentoML.

BentoML's own path costs a request more than the network does (tracing, an access log, metrics with
a series for each unknown path), has no body limit, and tells errors in forms of its own. So this
project's routes are answered before it, and only BentoML's health, metrics and pages pass through,
their errors rewritten.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Iterable

from common.errors import DenoiserError, MethodError, NotFoundError, UnauthorizedError
from service.engine import Engine
from service.http import pages, problem
from service.http.asgi import (
    Answer,
    App,
    Body,
    Budget,
    DisconnectedError,
    Header,
    Message,
    Receive,
    Scope,
    Send,
    send_answer,
    send_refusal,
)
from service.http.endpoints import Endpoints
from service.http.metrics import Metrics
from service.http.routes import BENTOML, Route, Router
from service.http.v2 import inference as v2
from service.settings import Settings

log = logging.getLogger("denoiser")


class Gateway:
    """ASGI app around BentoML's.

    Args:
        bentoml_app: BentoML's own app for this worker.
        engine, metrics: called at each request; BentoML makes both before the first.
        static: file names under /static_content/ that BentoML's page needs.
    """

    def __init__(
        self,
        bentoml_app: App,
        *,
        engine: Callable[[], Engine],
        metrics: Callable[[], Metrics],
        settings: Settings,
        static: Iterable[str] = (),
    ) -> None:
        self._bentoml = bentoml_app
        self._engine = engine
        self._metrics = metrics
        self._settings = settings
        self._budget = Budget(settings.max_buffered)
        self._endpoints = Endpoints(engine, settings, metrics)
        self._router = Router(docs=settings.docs, pages=pages.load(), static=static)
        self._flusher: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._flusher is None:
                self._flusher = asyncio.create_task(self._flush_each_second())
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._bentoml(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path, method = scope["path"], scope["method"]
        route, parameters = self._router.find(path)
        body = Body(scope, receive, self._budget)
        try:
            self._authorize(route, body)
            if route is None:
                raise NotFoundError(
                    "a path that is not a route", expected="a known route", hint="See /docs.json."
                )
            if method not in route.methods:
                raise MethodError(
                    f"{method} on {route.label}",
                    expected=" or ".join(route.methods),
                    hint="See /docs.json for what each route answers.",
                )
            if route.handler == BENTOML:
                if path == "/metrics":
                    self._metrics().flush()
                safety: tuple[Header, ...] = ()
                if path == pages.API_PAGE:  # BentoML serves it at /
                    scope, safety = {**scope, "path": "/"}, pages.API_HEADERS
                await self._delegate(scope, receive, send, safety)
                return
            handler = getattr(self._endpoints, route.handler)
            answer = await handler(scope, body, receive, **parameters)
        except DisconnectedError:
            return
        except DenoiserError as error:
            answer = _refusal(error, path)
            self._metrics().refused(error.slug)
        except Exception:
            log.exception("%s %s failed", method, route.label if route else "an unknown path")
            answer = _failure(path)
        extra = ((b"x-model-fingerprint", self._engine().manifest.fingerprint.encode("ascii")),)
        if body.unread and answer.status >= 400:
            await send_refusal(answer, extra, body, send)
        else:
            await send_answer(answer, extra, method, send)
        label = route.label if route else "unknown"
        self._metrics().answered(label, answer.status, time.perf_counter() - started)

    async def _flush_each_second(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._metrics().flush()

    def _authorize(self, route: Route | None, body: Body) -> None:
        key = self._settings.api_key
        if not key or (route is not None and route.open):
            return
        scheme, _, token = (body.header(b"authorization") or "").partition(" ")
        right = hmac.compare_digest(token.strip().encode("latin-1"), key.encode())
        if scheme.lower() != "bearer" or not right:
            raise UnauthorizedError(
                "a request without the API key" if not token else "a wrong API key",
                expected="Authorization: Bearer and the key",
                hint="Ask whoever runs this service for it.",
            )

    async def _delegate(
        self, scope: Scope, receive: Receive, send: Send, extra: tuple[Header, ...] = ()
    ) -> None:
        """BentoML's answer with `extra` headers; its errors as problem documents."""
        begun = replaced = False

        async def rewrite(message: Message) -> None:
            nonlocal begun, replaced
            if message["type"] == "http.response.start" and message["status"] >= 400:
                replaced = True
                status = message["status"]
                answer = Answer(problem.from_status(status), problem.MEDIA_TYPE, status)
                await send_answer(answer, (), scope["method"], send)
            elif not replaced:
                begun = True
                if extra and message["type"] == "http.response.start":
                    message = {**message, "headers": [*message.get("headers", ()), *extra]}
                await send(message)

        try:
            await self._bentoml(scope, receive, rewrite)
        except Exception:
            log.exception("BentoML failed on %s", scope["path"])
            if not begun and not replaced:
                answer = Answer(problem.from_status(500), problem.MEDIA_TYPE, 500)
                await send_answer(answer, (), scope["method"], send)


def _failure(path: str) -> Answer:
    """What is told of an error that is ours: nothing but the status."""
    if _is_v2(path):
        return Answer(v2.failure(), "application/json", 500)
    return Answer(problem.from_status(500), problem.MEDIA_TYPE, 500)


def _is_v2(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def _refusal(error: DenoiserError, path: str) -> Answer:
    """An error in the form of the route it happened on: /v2 has its own."""
    headers: tuple[Header, ...] = ()
    if isinstance(error, MethodError):
        headers = ((b"allow", error.expected.replace(" or ", ", ").encode()),)
    elif error.status == 429:
        headers = ((b"retry-after", b"1"),)
    elif error.status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    if _is_v2(path):
        return Answer(v2.error(error), "application/json", error.status, headers)
    return Answer(problem.from_error(error), problem.MEDIA_TYPE, error.status, headers)
