"""The outermost ASGI app of a worker: answers our routes, passes BentoML's on.

BentoML's own request path takes longer than the network (tracing, an access log, a metrics series
for each unknown path), has no body limit and its own forms of errors. So our routes are answered
before it. Only its health, metrics and pages are passed on, and their errors are rewritten.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import orjson

from common import memory
from common.errors import DenoiserError, MethodError, NotFoundError, UnauthorizedError
from service.engine import Engine
from service.http import pages, problem
from service.http.asgi import (
    App,
    Body,
    Budget,
    DisconnectedError,
    Header,
    Message,
    Receive,
    Response,
    Scope,
    Send,
    send_refusal,
    send_response,
)
from service.http.endpoints import Endpoints
from service.http.formats import JSON, OPERATIONS
from service.http.metrics import Metrics
from service.http.openapi import document
from service.http.routes import BENTOML, Route, Router
from service.http.v2 import inference as v2
from service.http.v2 import models as v2_models
from service.settings import Settings

log = logging.getLogger("denoiser")

Handler = Callable[[Scope, Body, Receive], Awaitable[Response]]


class Gateway:
    """ASGI app around BentoML's.

    Args:
        bentoml_app: BentoML's own app for this worker.
        engine: called at each request; BentoML creates the engine before the first one.
        metrics: the same.
        settings: limits, API key and whether there are docs.
        static: file names under /static_content/ that BentoML's page loads.
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
        files = {"/static_content": static, "/playground": pages.names()}
        self._router = Router(files, docs=settings.docs)
        self._handlers = self._make_handlers()
        self._flusher: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer HTTP, close WebSockets, leave the lifespan to BentoML."""
        if scope["type"] == "http":
            if self._flusher is None:
                self._flusher = asyncio.create_task(self._flush_each_second())
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._bentoml(scope, receive, send)
            if self._flusher is not None:  # the worker ends: write what the last second counted
                self._flusher.cancel()
                self._metrics().flush()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path, method = scope["path"], scope["method"]
        route, scope["path_params"] = self._router.find(path)
        label = (route.label or route.path) if route else "unknown"
        body = Body(scope, receive, self._budget)
        try:
            self._authorize(route, body)
            if route is None:
                raise NotFoundError("an unknown path", expected="a route", hint="See /docs.json.")
            if method not in route.methods:
                raise MethodError(f"{method} on {label}", expected=" or ".join(route.methods))
            if route.handler == BENTOML:
                await self._pass_on(scope, receive, send)
                return
            response = await self._handlers[route.handler](scope, body, receive)
        except DisconnectedError:
            body.release()
            return
        except DenoiserError as error:
            body.release()
            response = _refusal(error, path, route)
            self._metrics().refused(error.slug)
        except Exception:
            log.exception("%s %s failed", method, label)
            response = _internal_error(path)
        extra = ((b"x-model-fingerprint", self._engine().manifest.fingerprint.encode("ascii")),)
        try:
            if body.unread and response.status >= 400:
                await send_refusal(response, extra, body, send)
            else:
                await send_response(response, extra, method, send)
        finally:
            body.release()
        self._metrics().answered(label, response.status, time.perf_counter() - started)

    async def _flush_each_second(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._metrics().flush()
            if self._budget.quiet():  # or glibc keeps what large requests left, in pieces
                await asyncio.to_thread(memory.trim)

    def _authorize(self, route: Route | None, body: Body) -> None:
        key = self._settings.api_key
        if not key or (route is not None and not route.key):
            return
        scheme, _, token = (body.header(b"authorization") or "").partition(" ")
        equal = hmac.compare_digest(token.strip().encode("latin-1"), key.encode())
        if scheme.lower() != "bearer" or not equal:
            raise UnauthorizedError(
                "a request without the API key" if not token else "a wrong API key",
                expected="Authorization: Bearer and the key",
            )

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send BentoML's response, with its errors as problem documents."""
        path, started = scope["path"], False
        extra: tuple[Header, ...] = ()
        if path == "/metrics":
            self._metrics().flush()
            self._metrics().forget_dead_workers()
        elif path == pages.API_PAGE:
            scope, extra = {**scope, "path": "/"}, pages.API_HEADERS

        async def send_problem(status: int) -> None:
            response = Response(problem.from_status(status), problem.MEDIA_TYPE, status)
            await send_response(response, (), scope["method"], send)

        replaced = False

        async def rewrite(message: Message) -> None:
            nonlocal started, replaced
            if message["type"] == "http.response.start":
                started = True
                if message["status"] >= 400:
                    replaced = True
                    await send_problem(message["status"])
                    return
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            if not replaced:
                await send(message)

        try:
            await self._bentoml(scope, receive, rewrite)
        except Exception:
            log.exception("BentoML failed on %s", path)
            if not started:
                await send_problem(500)

    def _make_handlers(self) -> dict[str, Handler]:
        """The handlers, by their names in the table of routes."""
        contents: dict[str, Callable[[Mapping[str, str]], object]] = {
            "manifest": lambda _: self._engine().manifest.as_dict(),
            "document": lambda _: document(self._engine().manifest, self._settings),
            "live": lambda _: {"live": True},
            "ready": lambda _: {"ready": True},
            "server_metadata": lambda _: v2_models.server_metadata(),
            "repository_index": lambda _: v2_models.repository_index(),
            "model_metadata": lambda params: v2_models.model_metadata(
                params["model"], self._engine().manifest
            ),
            "model_ready": lambda params: {"name": params["model"], "ready": True},
            "model_config": lambda params: v2_models.model_config(
                params["model"], self._engine().manifest
            ),
        }
        return {
            "operate": self._operate,
            "infer": self._infer,
            "playground": pages.playground,
            "root": pages.root,
            **{name: _json_handler(content) for name, content in contents.items()},
        }

    async def _operate(self, scope: Scope, body: Body, receive: Receive) -> Response:
        return await self._endpoints.operate(scope, body, receive, OPERATIONS[scope["path"]])

    async def _infer(self, scope: Scope, body: Body, receive: Receive) -> Response:
        params = scope["path_params"]
        v2_models.check_model(params["model"], params.get("version"))
        return await self._endpoints.infer(scope, body, receive, params["model"])


def _json_handler(content: Callable[[Mapping[str, str]], object]) -> Handler:
    """A handler that answers `content` of the path's parameters."""

    async def handler(scope: Scope, body: Body, receive: Receive) -> Response:
        params = scope["path_params"]
        if "model" in params:
            v2_models.check_model(params["model"], params.get("version"))
        return Response(orjson.dumps(content(params)), JSON)

    return handler


def _is_v2(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def _internal_error(path: str) -> Response:
    """500 without details."""
    if _is_v2(path):
        return Response(v2.failure(), JSON, 500)
    return Response(problem.from_status(500), problem.MEDIA_TYPE, 500)


def _refusal(error: DenoiserError, path: str, route: Route | None) -> Response:
    """An error in the form of its route: /v2 has the protocol's own."""
    headers: tuple[Header, ...] = ()
    if error.status == 405 and route is not None:
        headers = ((b"allow", ", ".join(route.methods).encode()),)
    elif error.status == 429:
        headers = ((b"retry-after", b"1"),)
    elif error.status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    if _is_v2(path):
        return Response(v2.error(error), JSON, error.status, headers)
    return Response(problem.from_error(error), problem.MEDIA_TYPE, error.status, headers)
