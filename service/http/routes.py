"""The table of routes: read by dispatch, by the OpenAPI document and by the test of the docs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GET = ("GET", "HEAD")
POST = ("POST",)
BENTOML = "bentoml"  # the handler of routes that BentoML's own app answers
MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table.

    Args:
        path: literal, or with `{names}`; `{file}` stands for a closed set of file names.
        methods: those that the route answers; others get 405.
        handler: the name of a handler in `Gateway`, or BENTOML.
        label: its name in metrics; empty: the path.
        key: whether it needs the API key, where one is set.
        docs: whether it is served with DENOISER_DOCS=on only.
        alias: whether it is another name or a part of a route above it, and so not documented.
    """

    path: str
    methods: tuple[str, ...]
    handler: str
    label: str = ""
    key: bool = True
    docs: bool = False
    alias: bool = False


ROUTES = (
    Route("/encode", POST, "operate"),
    Route("/decode", POST, "operate"),
    Route("/denoise", POST, "operate"),
    Route("/model", GET, "manifest"),
    Route("/metrics", GET, BENTOML),
    Route("/livez", GET, BENTOML, key=False),
    Route("/readyz", GET, BENTOML, key=False),
    Route("/healthz", GET, BENTOML, key=False),
    # Descriptions and pages
    Route("/docs.json", GET, "document", docs=True),
    Route("/schema.json", GET, BENTOML, docs=True),
    Route("/api", GET, BENTOML, docs=True),
    Route("/static_content/{file}", GET, BENTOML, "/static_content", docs=True, alias=True),
    Route("/", GET, "root", key=False, docs=True),
    Route("/playground", GET, "playground", key=False, docs=True),
    Route("/playground/{file}", GET, "playground", "/playground", key=False, docs=True, alias=True),
    # The Open Inference Protocol; tritonclient asks for "/v2/"
    Route("/v2", GET, "server_metadata"),
    Route("/v2/", GET, "server_metadata", "/v2", alias=True),
    Route("/v2/health/live", GET, "live", key=False),
    Route("/v2/health/ready", GET, "ready", key=False),
    Route("/v2/repository/index", POST, "repository_index"),
    Route(MODEL + "/infer", POST, "infer"),
    Route(MODEL, GET, "model_metadata"),
    Route(MODEL + "/ready", GET, "model_ready"),
    Route(MODEL + "/config", GET, "model_config"),
    Route(VERSION + "/infer", POST, "infer", MODEL + "/infer"),
    Route(VERSION, GET, "model_metadata", MODEL),
    Route(VERSION + "/ready", GET, "model_ready", MODEL + "/ready"),
    Route(VERSION + "/config", GET, "model_config", MODEL + "/config"),
)


class Router:
    """Finds the route of a path: a dict lookup, and a few patterns for paths with parameters.

    Args:
        files: label of a `{file}` route → the names that it serves.
        docs: DENOISER_DOCS; without it, the routes marked `docs` do not exist.
    """

    def __init__(self, files: Mapping[str, Iterable[str]], *, docs: bool) -> None:
        self._literal: dict[str, Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for route in ROUTES:
            if route.docs and not docs:
                continue
            if "{file}" in route.path:
                for name in files[route.label]:
                    self._literal[route.path.replace("{file}", name)] = route
            elif "{" in route.path:
                pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]*)", route.path)
                self._patterns.append((re.compile(pattern), route))
            else:
                self._literal[route.path] = route

    def find(self, path: str) -> tuple[Route | None, dict[str, str]]:
        """The route of `path`, or None; and the values of its parameters."""
        if (route := self._literal.get(path)) is not None:
            return route, {}
        for pattern, route in self._patterns:
            if match := pattern.fullmatch(path):
                return route, match.groupdict()
        return None, {}


def documented() -> list[str]:
    """The paths that the docs must name; those of the V2 protocol as one, `/v2/…`."""
    paths = (route.path for route in ROUTES if not route.alias)
    return list(dict.fromkeys("/v2/…" if path.startswith("/v2") else path for path in paths))
