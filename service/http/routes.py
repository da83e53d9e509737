"""The table of routes: what is answered, by which handler, and to whom.

Read by the gateway (dispatch), the OpenAPI document and the tests of the docs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

GET, POST = ("GET", "HEAD"), ("POST",)
BENTOML = ""  # no handler of ours: BentoML answers


@dataclass(frozen=True)
class Route:
    """One path, or one shape of paths.

    Attributes:
        path: segments in braces match any one segment and reach the handler by that name.
        methods: those that are answered; others get 405.
        handler: a method of `Endpoints`, or BENTOML.
        open: answered without the API key.
        docs: only with DENOISER_DOCS=on.
        alias: the route whose label, in metrics, and entry in OpenAPI it shares.
    """

    path: str
    methods: tuple[str, ...]
    handler: str = BENTOML
    open: bool = False
    docs: bool = False
    alias: str = ""

    @property
    def label(self) -> str:
        """The name in metrics: one for all paths of the route, so that series are few."""
        return self.alias or self.path


TABLE = (
    Route("/encode", POST, "operate"),
    Route("/decode", POST, "operate"),
    Route("/denoise", POST, "operate"),
    Route("/model", GET, "manifest"),
    Route("/livez", GET, open=True),
    Route("/healthz", GET, open=True),
    Route("/readyz", GET, open=True),
    Route("/metrics", GET),
    Route("/docs.json", GET, "document", docs=True),
    Route("/schema.json", GET, docs=True),
    Route("/api", GET, docs=True),
    Route("/", GET, "to_playground", open=True, docs=True),
    Route("/playground", GET, "page", open=True, docs=True),
    Route("/v2", GET, "v2_server"),
    Route("/v2/", GET, "v2_server", alias="/v2"),
    Route("/v2/health/live", GET, "v2_health", open=True),
    Route("/v2/health/ready", GET, "v2_health", open=True),
    Route("/v2/repository/index", POST, "v2_index"),
    Route("/v2/models/{model}", GET, "v2_model"),
    Route("/v2/models/{model}/ready", GET, "v2_model_ready"),
    Route("/v2/models/{model}/config", GET, "v2_model_config"),
    Route("/v2/models/{model}/infer", POST, "v2_infer"),
)
# The protocol's other spelling of each: only one version is served.
VERSIONED = tuple(
    Route(
        route.path.replace("{model}", "{model}/versions/{version}"),
        route.methods,
        route.handler,
        alias=route.path,
    )
    for route in TABLE
    if "{model}" in route.path
)


class Router:
    """The routes of one server, by path.

    Args:
        docs: whether the routes marked `docs` exist.
        pages: paths of the playground's files. static: those of BentoML's page.
    """

    def __init__(self, *, docs: bool, pages: Iterable[str], static: Iterable[str]) -> None:
        routes = [*TABLE, *VERSIONED]
        routes += [Route(p, GET, "page", open=True, docs=True, alias="/playground") for p in pages]
        routes += [
            Route(f"/static_content/{name}", GET, docs=True, alias="/static_content")
            for name in static
        ]
        served = [route for route in routes if docs or not route.docs]
        self.exact = {route.path: route for route in served if "{" not in route.path}
        self._shapes = [(route.path.split("/"), route) for route in served if "{" in route.path]

    def find(self, path: str) -> tuple[Route | None, dict[str, str]]:
        """The route of a path, or None, and what the segments in braces matched."""
        if (route := self.exact.get(path)) is not None:
            return route, {}
        segments = path.split("/")
        for shape, route in self._shapes:
            if len(shape) == len(segments) and all(
                part == segment or part[:1] == "{"
                for part, segment in zip(shape, segments, strict=True)
            ):
                matched = zip(shape, segments, strict=True)
                return route, {part[1:-1]: text for part, text in matched if part[:1] == "{"}
        return None, {}
