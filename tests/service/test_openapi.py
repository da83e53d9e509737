"""The OpenAPI document is valid, and agrees with the gateway on routes, statuses and types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from service import __version__
from service.engine import Engine
from service.http.formats import FORM, JSON, NPY, OPERATIONS, PNG
from service.http.openapi import FILE, document
from service.http.routes import ROUTES
from service.http.v2 import models as v2_models
from service.settings import Settings
from tests.support.asgi import Inner, ask, npy, post
from tests.support.tiny import some_images

KEY = "a-key-of-some-length"


@pytest.fixture(params=["", KEY], ids=["open", "guarded"])
def declared(engine: Engine, request: pytest.FixtureRequest) -> Any:
    """The document as clients get it."""
    return json.loads(json.dumps(document(engine.manifest, Settings(api_key=request.param))))


def resolve(document: Any, node: Any) -> Any:
    """`node`, or the component that it refers to."""
    while "$ref" in node:
        path = node["$ref"].removeprefix("#/").split("/")
        node = document
        for part in path:
            node = node[part]
    return node


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in ("get", "post", "put", "delete", "patch", "head", "options", "trace"):
                yield path, method, operation


def filled(path: str) -> str:
    return path.replace("{model}", "encoder").replace("{version}", "1")


def test_its_form(declared: Any) -> None:
    assert re.fullmatch(r"3\.1\.\d", declared["openapi"])
    assert declared["info"]["title"] and declared["info"]["version"]
    assert set(declared) <= {"openapi", "info", "paths", "components", "security"}
    identifiers = []
    for path, method, operation in operations(declared):
        assert operation["summary"], (method, path)
        assert operation["responses"], (method, path)
        names = set(re.findall(r"{(\w+)}", path))
        listed = [*declared["paths"][path].get("parameters", []), *operation.get("parameters", [])]
        parameters = [resolve(declared, parameter) for parameter in listed]
        assert {p["name"] for p in parameters if p["in"] == "path"} == names
        assert all(p["required"] for p in parameters if p["in"] == "path")
        identifiers.append(operation.get("operationId", f"{method} {path}"))
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert resolve(declared, response)["description"]
    assert len(set(identifiers)) == len(identifiers)


def test_every_schema_is_valid_and_every_reference_resolves(declared: Any) -> None:
    schemas = list(declared["components"]["schemas"].values())

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "schema" in node:
                schemas.append(node["schema"])
            resolve(declared, node)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(declared)
    assert len(schemas) > 50
    for schema in schemas:
        jsonschema_rs.meta.validate(schema)


def test_every_component_is_used_and_every_place_is_filled_in(
    scored_engine: Engine, engine: Engine
) -> None:
    full = document(scored_engine.manifest, Settings(api_key=KEY))
    for kind in ("parameters", "headers", "schemas", "responses"):
        for name in full["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in json.dumps(full), name
    for filled in (full, document(engine.manifest, Settings())):
        assert "${" not in json.dumps(filled) and "x-if" not in json.dumps(filled)


def test_values_come_from_the_manifest_and_the_settings(
    colour_engine: Engine, scored_engine: Engine
) -> None:
    settings = Settings(max_rows=123, max_body=4567)
    filled = document(colour_engine.manifest, settings)
    image = filled["components"]["schemas"]["Image"]
    row = image["items"]
    assert [part["minItems"] for part in (image, row, row["items"])] == [12, 8, 3]
    assert [part["maxItems"] for part in (image, row, row["items"])] == [12, 8, 3]
    assert filled["components"]["schemas"]["Latent"]["minItems"] == 4
    body = filled["paths"]["/encode"]["post"]["requestBody"]
    assert "123 rows" in body["description"] and "4567 bytes" in body["description"]
    assert filled["info"]["version"] == __version__
    fingerprint = filled["components"]["headers"]["Fingerprint"]["schema"]["const"]
    assert fingerprint == colour_engine.manifest.fingerprint
    assert "Scores" not in filled["components"]["schemas"]
    assert "Scores" in document(scored_engine.manifest, settings)["components"]["schemas"]


def test_every_declared_operation_is_answered(engine: Engine, declared: Any) -> None:
    for path, method, _ in operations(declared):
        reply = ask(engine, method.upper(), filled(path), inner=Inner())
        assert reply is not None
        assert reply.status not in (404, 405), (method, path)


def test_the_document_and_the_table_of_routes_have_the_same_operations() -> None:
    """The file itself, before it is filled in."""
    table = {
        (route.path, method.lower())
        for route in ROUTES
        if not route.alias
        for method in route.methods
        if method != "HEAD"
    }
    assert table == {(path, method) for path, method, _ in operations(json.loads(FILE.read_text()))}


def test_the_gateway_allows_the_declared_methods(engine: Engine, declared: Any) -> None:
    for path in declared["paths"]:
        refused = ask(engine, "DELETE", filled(path))
        assert refused is not None
        allowed = {method.lower() for method in refused.headers["allow"].split(", ")} - {"head"}
        assert allowed == {m for p, m, _ in operations(declared) if p == path}


def test_the_key_is_declared_where_it_is_required(engine: Engine) -> None:
    guarded = document(engine.manifest, Settings(api_key=KEY))
    assert guarded["security"] and guarded["components"]["securitySchemes"]
    for path, method, operation in operations(guarded):
        reply = ask(engine, method.upper(), filled(path), api_key=KEY)
        assert reply is not None
        required = reply.status == 401
        assert ("401" in operation["responses"]) is required, path
        assert (operation.get("security") == []) is not required, path
    unguarded = document(engine.manifest, Settings())
    assert "security" not in unguarded
    assert '"401"' not in json.dumps(unguarded)


def test_formats_are_those_of_the_operations(declared: Any) -> None:
    for path, operation in OPERATIONS.items():
        item = declared["paths"][path]["post"]
        assert tuple(item["requestBody"]["content"]) == operation.reads
        assert tuple(item["responses"]["200"]["content"]) == operation.writes


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
    declared = document(engine.manifest, Settings())
    for path in ("/encode", "/denoise"):
        reply = post(engine, path, body, content_type, **more)
        assert str(reply.status) == status, reply.body
        response = resolve(declared, declared["paths"][path]["post"]["responses"][status])
        assert list(response["content"]) == [reply.headers["content-type"]]
        assert {name.lower() for name in response["headers"]} <= set(reply.headers)


def test_responses_match_their_schemas(engine: Engine) -> None:
    declared = document(engine.manifest, Settings())
    components = {"components": declared["components"]}
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
        responses = declared["paths"][path][method]["responses"]
        response = resolve(declared, responses[str(reply.status)])
        schema = response["content"][reply.headers["content-type"]]["schema"]
        jsonschema_rs.validate({**schema, **components}, reply.json)


def test_requests_that_match_their_schemas_are_answered(engine: Engine) -> None:
    declared = document(engine.manifest, Settings())
    components = {"components": declared["components"]}

    def schema_of(path: str) -> Any:
        content = declared["paths"][path]["post"]["requestBody"]["content"]
        return {**content[JSON]["schema"], **components}

    schema = schema_of("/encode")
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
    jsonschema_rs.validate(schema_of("/v2/models/{model}/infer"), {"inputs": [tensor]})
    body = json.dumps({"inputs": [tensor]}).encode()
    assert post(engine, "/v2/models/decoder/infer", body).status == 200
    assert set(v2_models.INPUTS) == {"encoder", "decoder", "autoencoder"}
