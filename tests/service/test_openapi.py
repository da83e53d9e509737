"""The OpenAPI document: well formed, and the same routes, statuses and types as the gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import numpy as np
import prometheus_client
import pytest

from service.engine import Engine
from service.http.formats import FORM, JSON, NPY, OPERATIONS, PNG
from service.http.gateway import Gateway
from service.http.metrics import Metrics
from service.http.openapi import STATUSES, document
from service.http.v2 import models as v2_models
from service.settings import Settings
from tests.support.asgi import Inner, ask, npy, post
from tests.support.tiny import some_images

KEY = "a-key-of-some-length"
# Pages for people, and the document itself; /v2/ is an alias that tritonclient needs.
UNDECLARED = {"/v2/"}  # another spelling of /v2


@pytest.fixture(params=["", KEY], ids=["open", "guarded"])
def told(engine: Engine, request: pytest.FixtureRequest) -> Any:
    """The document as it goes over the wire."""
    made = document(engine.manifest, Settings(api_key=request.param))
    return json.loads(json.dumps(made))


def operations(told: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in told["paths"].items():
        for method, operation in item.items():
            if method in ("get", "post", "put", "delete", "patch", "head", "options", "trace"):
                yield path, method, operation


def filled(path: str) -> str:
    return path.replace("{model}", "encoder").replace("{version}", "1")


def test_its_form(told: Any) -> None:
    assert re.fullmatch(r"3\.1\.\d", told["openapi"])
    assert told["info"]["title"] and told["info"]["version"]
    assert set(told) <= {"openapi", "info", "paths", "components", "security"}
    identifiers = []
    for path, method, operation in operations(told):
        assert operation["summary"], (method, path)
        assert operation["responses"], (method, path)
        names = set(re.findall(r"{(\w+)}", path))
        given = [*told["paths"][path].get("parameters", []), *operation.get("parameters", [])]
        assert {p["name"] for p in given if p["in"] == "path"} == names
        assert all(p["required"] for p in given if p["in"] == "path")
        identifiers.append(operation.get("operationId", f"{method} {path}"))
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
    assert len(set(identifiers)) == len(identifiers)


def test_every_schema_is_one_and_every_reference_leads_somewhere(told: Any) -> None:
    found = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "schema" in node:
                found.append(node["schema"])
            if "$ref" in node:
                target: Any = told
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
                found.append(target)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(told["paths"])
    assert len(found) > 50
    for schema in found:
        if "$ref" not in schema:
            jsonschema_rs.meta.validate(schema)


def test_every_declared_operation_is_a_route(engine: Engine, told: Any) -> None:
    for path, method, _ in operations(told):
        reply = ask(engine, method.upper(), filled(path), inner=Inner())
        assert reply is not None
        assert reply.status not in (404, 405), (method, path)


def test_every_route_is_declared(engine: Engine, told: Any) -> None:
    """The gateway's own tables, and what it allows at each path."""
    metrics = Metrics(registry=prometheus_client.CollectorRegistry())
    gateway = Gateway(Inner(), engine=lambda: engine, metrics=lambda: metrics, settings=Settings())
    paths = {path for path in gateway._routes if path not in UNDECLARED}
    paths -= {path for path in paths if path.startswith("/playground/")}  # parts of that page
    for rest in gateway._models:
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            paths.add(prefix + (f"/{rest}" if rest else ""))
    assert paths == set(told["paths"])
    for path in paths:
        refused = ask(engine, "DELETE", filled(path))
        assert refused is not None
        allowed = {method.lower() for method in refused.headers["allow"].split(", ")} - {"head"}
        assert allowed == {m for p, m, _ in operations(told) if p == path}


def test_the_key_is_declared_where_it_is_asked_for(engine: Engine) -> None:
    guarded = document(engine.manifest, Settings(api_key=KEY))
    assert guarded["security"] and guarded["components"]["securitySchemes"]
    for path, method, operation in operations(guarded):
        reply = ask(engine, method.upper(), filled(path), api_key=KEY)
        assert reply is not None
        asks = reply.status == 401
        assert ("401" in operation["responses"]) is asks, path
        assert (operation.get("security") == []) is not asks, path
    unguarded = document(engine.manifest, Settings())
    assert "security" not in unguarded
    assert '"401"' not in json.dumps(unguarded)


def test_formats_are_those_of_the_operations(told: Any) -> None:
    for path, operation in OPERATIONS.items():
        declared = told["paths"][path]["post"]
        assert tuple(declared["requestBody"]["content"]) == operation.reads
        assert tuple(declared["responses"]["200"]["content"]) == operation.writes


REFUSED: list[tuple[str, bytes, str, dict[str, Any]]] = [
    ("400", b"{", JSON, {}),
    ("400", b"{", NPY, {}),
    ("400", b"{", PNG, {}),
    ("400", b"{", FORM, {}),
    ("406", b"{}", JSON, {"headers": {"accept": "text/html"}}),
    ("408", b"{}", JSON, {"pause": 0.3, "timeout": 0.1}),
    ("413", b"{}" * 2000, JSON, {"max_body": 1024}),
    ("415", b"{}", "text/csv", {}),
    ("415", b"{}", JSON, {"headers": {"content-encoding": "br"}}),
    ("422", b'{"images": [[0]]}', JSON, {}),
    ("422", b"{}", JSON, {"query": b"dtype=x&encoding=x"}),
    ("429", b'{"images": []}', JSON, {"max_buffered": 10, "max_body": 1024}),
]


@pytest.mark.parametrize(("status", "body", "content_type", "more"), REFUSED)
def test_each_refusal_is_declared_with_its_type(
    engine: Engine, status: str, body: bytes, content_type: str, more: dict[str, Any]
) -> None:
    declared = document(engine.manifest, Settings())["paths"]
    for path in ("/encode", "/denoise"):
        reply = post(engine, path, body, content_type, **more)
        assert str(reply.status) == status, reply.body
        assert list(declared[path]["post"]["responses"][status]["content"]) == [
            reply.headers["content-type"]
        ]
    for statuses in (operation["responses"] for _, _, operation in operations({"paths": declared})):
        assert set(statuses) <= {"200", "307", *STATUSES}


def test_answers_and_errors_fit_their_schemas(engine: Engine) -> None:
    told = document(engine.manifest, Settings())
    components = {"components": told["components"]}
    images, latents = some_images(3), np.ones((3, 4), np.float32)
    for path, method, body, content_type, query in [
        ("/encode", "post", npy(images), NPY, b""),
        ("/encode", "post", npy(images), NPY, b"encoding=base64"),
        ("/decode", "post", npy(latents), NPY, b""),
        ("/denoise", "post", npy(images), NPY, b""),
        ("/denoise", "post", npy(images[:, :3]), NPY, b""),
        ("/denoise", "post", b"x", "text/csv", b""),
        ("/model", "get", b"", "", b""),
        ("/v2", "get", b"", "", b""),
        ("/v2/models/{model}", "get", b"", "", b""),
        ("/v2/models/{model}/infer", "post", b"{}", JSON, b""),
        ("/v2/repository/index", "post", b"", "", b""),
    ]:
        headers = {"accept": JSON, **({"content-type": content_type} if content_type else {})}
        reply = ask(
            engine, method.upper(), filled(path), chunks=[body], headers=headers, query=query
        )
        assert reply is not None
        response = told["paths"][path][method]["responses"][str(reply.status)]
        schema = response["content"][reply.headers["content-type"]]["schema"]
        jsonschema_rs.validate({**schema, **components}, reply.json)


def test_requests_that_fit_their_schemas_are_answered(engine: Engine) -> None:
    told = document(engine.manifest, Settings())
    schema = told["paths"]["/encode"]["post"]["requestBody"]["content"][JSON]["schema"]
    good = {"images": some_images(2).tolist()}
    jsonschema_rs.validate(schema, good)
    assert post(engine, "/encode", json.dumps(good).encode()).status == 200
    wrong: list[dict[str, Any]] = [
        {"images": [[0]]},
        {"images": good["images"], "x": 1},
        {"latents": []},
    ]
    for bad in wrong:
        assert not jsonschema_rs.is_valid(schema, bad)
        assert post(engine, "/encode", json.dumps(bad).encode()).status in (400, 422)
    tensor = {"name": "latents", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}
    infer = told["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"][JSON]
    jsonschema_rs.validate(infer["schema"], {"inputs": [tensor]})
    body = json.dumps({"inputs": [tensor]}).encode()
    assert post(engine, "/v2/models/decoder/infer", body).status == 200
    assert set(v2_models.INPUTS) == {"encoder", "decoder", "autoencoder"}
