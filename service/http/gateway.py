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
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

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
from service.http.endpoints import Endpoints, json_answer
from service.http.formats import OPERATIONS, Operation
from service.http.metrics import Metrics
from service.http.openapi import document
from service.http.v2 import inference as v2
from service.http.v2 import models as v2_models
from service.settings import Settings

log = logging.getLogger("denoiser")

HEALTH = ("/livez", "/readyz", "/healthz")
PAGES = (pages.API_PAGE, "/schema.json")

Handler = Callable[[Scope, Body, Receive], Awaitable[Answer]]


@dataclass(frozen=True)
class Route:
    """Where a path leads: `label` is its name in metrics, `handler` None means BentoML."""

    label: str
    methods: tuple[str, ...]
    handler: Handler | None = None
    open: bool = False  # answered without an API key


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
        self._routes = self._fixed_routes(static)
        self._models = self._model_routes()
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
        route = self._find(path)
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
            if route.handler is None:
                if path == "/metrics":
                    self._metrics().flush()
                safety: tuple[Header, ...] = ()
                if path == pages.API_PAGE:
                    scope, safety = {**scope, "path": "/"}, pages.API_HEADERS
                await self._delegate(scope, receive, send, safety)
                return
            answer = await route.handler(scope, body, receive)
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

    def _find(self, path: str) -> Route | None:
        """The route of a path: one of the fixed ones, or a model's under /v2."""
        if (route := self._routes.get(path)) is not None:
            return route
        parts = path.split("/")
        if len(parts) < 4 or parts[1:3] != ["v2", "models"]:
            return None
        model, rest = parts[3], parts[4:]
        version = None
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        make = self._models.get("/".join(rest))
        return make(model, version) if make else None

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

    def _fixed_routes(self, static: Iterable[str]) -> dict[str, Route]:
        get, post = ("GET", "HEAD"), ("POST",)
        endpoints = self._endpoints
        routes = {path: Route(path, get, open=True) for path in HEALTH}
        routes["/metrics"] = Route("/metrics", get)
        if self._settings.docs:
            routes["/docs.json"] = Route("/docs.json", get, self._answer(self._document))
            routes |= {path: Route(path, get) for path in PAGES}
            routes |= {f"/static_content/{name}": Route("/static_content", get) for name in static}
            routes["/"] = Route("/", get, pages.to_playground, open=True)
            for path, file in pages.load().items():
                routes[path] = Route(pages.PAGE, get, pages.file_handler(file), open=True)
        for path, operation in OPERATIONS.items():

            async def operate(
                scope: Scope, body: Body, receive: Receive, operation: Operation = operation
            ) -> Answer:
                return await endpoints.operate(scope, body, receive, operation)

            routes[path] = Route(path, post, operate)
        manifest = self._answer(lambda: self._engine().manifest.as_dict())
        routes["/model"] = Route("/model", get, manifest)
        server = self._answer(v2_models.server_metadata)
        routes |= {path: Route("/v2", get, server) for path in ("/v2", "/v2/")}
        for state in ("live", "ready"):
            path = f"/v2/health/{state}"
            routes[path] = Route(path, get, self._answer(dict), open=True)
        index = "/v2/repository/index"
        routes[index] = Route(index, post, self._answer(v2_models.repository_index))
        return routes

    def _model_routes(self) -> dict[str, Callable[[str, str | None], Route]]:
        """What may follow /v2/models/{model}[/versions/{version}]."""

        def reading(rest: str, content: Callable[[str], object]) -> Callable[..., Route]:
            def make(model: str, version: str | None) -> Route:
                async def handler(scope: Scope, body: Body, receive: Receive) -> Answer:
                    v2_models.check_model(model, version)
                    return json_answer(content(model))

                return Route("/v2/models/{model}" + rest, ("GET", "HEAD"), handler)

            return make

        def inferring(model: str, version: str | None) -> Route:
            async def handler(scope: Scope, body: Body, receive: Receive) -> Answer:
                v2_models.check_model(model, version)
                return await self._endpoints.infer(scope, body, receive, model)

            return Route("/v2/models/{model}/infer", ("POST",), handler)

        return {
            "": reading("", lambda m: v2_models.model_metadata(m, self._engine().manifest)),
            "ready": reading("/ready", lambda m: {"name": m, "ready": True}),
            "config": reading(
                "/config", lambda m: v2_models.model_config(m, self._engine().manifest)
            ),
            "infer": inferring,
        }

    def _answer(self, content: Callable[[], object]) -> Handler:
        async def handler(scope: Scope, body: Body, receive: Receive) -> Answer:
            return json_answer(content())

        return handler

    def _document(self) -> object:
        return document(self._engine().manifest, self._settings)


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
