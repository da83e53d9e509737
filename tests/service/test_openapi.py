"""The OpenAPI document: well formed, and the same routes, statuses and types as the gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from service.bundle import Manifest
from service.engine import Engine
from service.http.formats import FORM, JSON, NPY, OPERATIONS, PNG
from service.http.openapi import document as filled_in
from service.http.routes import TABLE, VERSIONED
from service.http.v2 import models as v2_models
from service.settings import Settings
from tests.support.asgi import Inner, ask, npy, post
from tests.support.tiny import some_images

KEY = "a-key-of-some-length"


def document(manifest: Manifest, settings: Settings) -> Any:
    """The document with its shared responses, parameters and headers in their places."""
    whole = filled_in(manifest, settings)

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        reference = node.get("$ref", "")
        if re.match("#/components/(responses|parameters|headers)/", reference):
            target: Any = whole
            for part in reference.removeprefix("#/").split("/"):
                target = target[part]
            return resolve(target)
        return {name: resolve(item) for name, item in node.items()}

    return resolve(whole)


@pytest.fixture(params=["", KEY], ids=["open", "guarded"])
def spec(engine: Engine, request: pytest.FixtureRequest) -> Any:
    """The document as it goes over the wire."""
    made = document(engine.manifest, Settings(api_key=request.param))
    return json.loads(json.dumps(made))


STATUSES = {"400", "404", "405", "406", "408", "413", "415", "422", "429"}


def operations(spec: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in spec["paths"].items():
        for method, operation in item.items():
            if method in ("get", "post", "put", "delete", "patch", "head", "options", "trace"):
                yield path, method, operation


def filled(path: str) -> str:
    return path.replace("{model}", "encoder").replace("{version}", "1")


def test_its_form(spec: Any) -> None:
    assert re.fullmatch(r"3\.1\.\d", spec["openapi"])
    assert spec["info"]["title"] and spec["info"]["version"]
    assert set(spec) <= {"openapi", "info", "paths", "components", "security"}
    identifiers = []
    for path, method, operation in operations(spec):
        assert operation["summary"], (method, path)
        assert operation["responses"], (method, path)
        names = set(re.findall(r"{(\w+)}", path))
        given = [*spec["paths"][path].get("parameters", []), *operation.get("parameters", [])]
        assert {p["name"] for p in given if p["in"] == "path"} == names
        assert all(p["required"] for p in given if p["in"] == "path")
        identifiers.append(operation.get("operationId", f"{method} {path}"))
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
    assert len(set(identifiers)) == len(identifiers)


def test_every_schema_is_one_and_every_reference_leads_somewhere(spec: Any) -> None:
    found = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "schema" in node:
                found.append(node["schema"])
            if "$ref" in node:
                target: Any = spec
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
                found.append(target)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(spec["paths"])
    assert len(found) > 50
    for schema in found:
        if "$ref" not in schema:
            jsonschema_rs.meta.validate(schema)


def test_every_declared_operation_is_a_route(engine: Engine, spec: Any) -> None:
    for path, method, _ in operations(spec):
        reply = ask(engine, method.upper(), filled(path), inner=Inner())
        assert reply is not None
        assert reply.status not in (404, 405), (method, path)


def test_every_route_of_the_table_is_declared(engine: Engine, spec: Any) -> None:
    """Each path and its methods, but for other spellings of a path."""
    declared = {route.path: route for route in (*TABLE, *VERSIONED) if route.path != "/v2/"}
    assert set(spec["paths"]) == set(declared)
    for path, route in declared.items():
        methods = {method.lower() for method in route.methods} - {"head"}
        assert methods == {m for p, m, _ in operations(spec) if p == path}
        refused = ask(engine, "DELETE", filled(path))
        assert refused is not None
        assert refused.headers["allow"] == ", ".join(route.methods)


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


def test_formats_are_those_of_the_operations(spec: Any) -> None:
    for path, operation in OPERATIONS.items():
        declared = spec["paths"][path]["post"]
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
    spec = document(engine.manifest, Settings())
    components = {"components": spec["components"]}
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
        response = spec["paths"][path][method]["responses"][str(reply.status)]
        schema = response["content"][reply.headers["content-type"]]["schema"]
        jsonschema_rs.validate({**schema, **components}, reply.json)


def test_requests_that_fit_their_schemas_are_answered(engine: Engine) -> None:
    spec = document(engine.manifest, Settings())
    schema = spec["paths"]["/encode"]["post"]["requestBody"]["content"][JSON]["schema"]
    components = {"components": spec["components"]}
    schema = {**schema, **components}
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
    infer = spec["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"][JSON]
    jsonschema_rs.validate(infer["schema"], {"inputs": [tensor]})
    body = json.dumps({"inputs": [tensor]}).encode()
    assert post(engine, "/v2/models/decoder/infer", body).status == 200
    assert set(v2_models.INPUTS) == {"encoder", "decoder", "autoencoder"}
