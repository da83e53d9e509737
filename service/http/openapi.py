"""OpenAPI 3.1: every route, format, status and error, made from what the gateway runs with."""

from __future__ import annotations

from typing import Any

from service import __version__
from service.bundle import Manifest
from service.http import schemas
from service.http.formats import FORM, JSON, NPY, OPERATIONS, PNG, ZIP, Operation
from service.http.pages import API_PAGE, PAGE
from service.http.problem import MEDIA_TYPE as PROBLEM
from service.http.schemas import list_of
from service.http.v2 import models as v2_models
from service.settings import Settings

Json = dict[str, Any]

# What each status means, in the words of a reader of the document.
STATUSES = {
    "400": "The body does not parse as what it claims to be",
    "401": "The API key is missing or wrong",
    "404": "No such model or version",
    "405": "A method that the route does not answer",
    "406": "No representation that Accept allows",
    "408": "The body did not arrive in time",
    "413": "More bytes or rows than the limits allow",
    "415": "A Content-Type or Content-Encoding that the route does not read",
    "422": "Wrong shape, dtype, range or option",
    "429": "Too many requests in work; Retry-After says when to try again",
}
WORK = ("400", "405", "406", "408", "413", "415", "422", "429")
BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}


def document(manifest: Manifest, settings: Settings) -> Json:
    """The whole document.

    Args:
        manifest: shapes and the fingerprint come from here.
        settings: with an API key, 401 and the security scheme are declared.
    """
    secured = bool(settings.api_key)
    made = _Paths(manifest, secured=secured)
    components: Json = {"schemas": {"Problem": schemas.problem(), "V2Error": schemas.v2_error()}}
    if secured:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Denoiser",
            "version": __version__,
            "summary": "Encode, decode and denoise images with one verified model.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            **made.operations(),
            **made.protocol(),
            "/model": made.reading("The bundle's manifest"),
            "/livez": made.health("The process is alive"),
            "/healthz": made.health("The process is alive"),
            "/readyz": made.health("The model is loaded and verified"),
            "/metrics": made.reading("Prometheus metrics", media_type="text/plain"),
            "/docs.json": made.reading("This document"),
            "/schema.json": made.reading("BentoML's own description, for its client"),
            "/": made.moved("Leads to the playground"),
            PAGE: made.health("The playground, a page for people", media_type="text/html"),
            API_PAGE: made.reading("BentoML's page for trying the API", media_type="text/html"),
        },
        "components": components,
        **({"security": [{"key": []}]} if secured else {}),
    }


class _Paths:
    """The path items, for one model and one security setting."""

    def __init__(self, manifest: Manifest, *, secured: bool) -> None:
        height, width, channels = manifest.image_shape
        self._manifest = manifest
        self._secured = secured
        self._scored = bool(manifest.novelty)
        number = {"type": "number"}
        unit = {"type": "number", "minimum": 0, "maximum": 1}
        self._rows = {
            "images": list_of(list_of(list_of(list_of(unit, channels), width), height)),
            "latents": list_of(list_of(number, manifest.latent_size)),
        }

    def operations(self) -> Json:
        """/encode, /decode, /denoise."""
        return {
            path: {
                "post": {
                    "operationId": path[1:],
                    "summary": f"{operation.source} to {operation.answer}",
                    "parameters": schemas.parameters(operation, scored=self._scored),
                    "requestBody": {"required": True, "content": self._content_in(operation)},
                    "responses": self._responses(
                        {"description": "The answer", **self._answer(operation)},
                        WORK,
                    ),
                }
            }
            for path, operation in OPERATIONS.items()
        }

    def protocol(self) -> Json:
        """The Open Inference Protocol."""
        model = {
            "name": "model",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "enum": list(v2_models.INPUTS)},
        }
        version = {
            "name": "version",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "enum": [v2_models.VERSION]},
        }
        paths: Json = {
            "/v2": self.reading("Server metadata", v2_errors=True),
            "/v2/health/live": self.health("Alive", media_type=JSON, v2_errors=True),
            "/v2/health/ready": self.health("Ready", media_type=JSON, v2_errors=True),
            "/v2/repository/index": {
                "post": {
                    "operationId": "v2RepositoryIndex",
                    "summary": "The models and their states",
                    "responses": self._responses(
                        {
                            "description": "The models",
                            "content": {JSON: {"schema": {"type": "array"}}},
                        },
                        ("405",),
                        v2_errors=True,
                    ),
                }
            },
        }
        for prefix, parameters in [
            ("/v2/models/{model}", [model]),
            ("/v2/models/{model}/versions/{version}", [model, version]),
        ]:
            for rest, about in [
                ("", "Model metadata"),
                ("/ready", "Whether the model is ready"),
                ("/config", "Model configuration"),
            ]:
                item = self.reading(about, ("404", "405"), v2_errors=True)
                paths[prefix + rest] = {"parameters": parameters, **item}
            paths[f"{prefix}/infer"] = {"parameters": parameters, "post": self._infer()}
        return paths

    def reading(
        self,
        about: str,
        errors: tuple[str, ...] = ("405",),
        *,
        media_type: str = JSON,
        v2_errors: bool = False,
    ) -> Json:
        """A path that answers GET."""
        schema = {"type": "object"} if media_type == JSON else {"type": "string"}
        found = {"description": about, "content": {media_type: {"schema": schema}}}
        return {
            "get": {
                "summary": about,
                "responses": self._responses(found, errors, v2_errors=v2_errors),
            }
        }

    def health(
        self, about: str, *, media_type: str = "text/plain", v2_errors: bool = False
    ) -> Json:
        """A path that answers GET without an API key."""
        item = self.reading(about, media_type=media_type, v2_errors=v2_errors)
        item["get"]["responses"].pop("401", None)
        return {"get": {**item["get"], "security": []}}

    def moved(self, about: str) -> Json:
        """A path that leads elsewhere, for anyone."""
        item = self.health(about)
        responses = item["get"]["responses"]
        responses["307"] = {
            "description": about,
            "headers": {"Location": {"required": True, "schema": {"type": "string"}}},
        }
        del responses["200"]
        return item

    def _infer(self) -> Json:
        header = {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "description": "Bytes of JSON before the binary tensors",
            "schema": {"type": "integer", "minimum": 0},
        }
        tensor = {
            "type": "object",
            "required": ["name", "datatype", "shape"],
            "properties": {
                "name": {"type": "string", "enum": ["images", "latents"]},
                "datatype": {"type": "string", "enum": ["FP32", "UINT8"]},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "data": {"type": "array"},
                "parameters": {"type": "object"},
            },
        }
        request = {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string", "maxLength": 256},
                "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
                "outputs": {"type": "array", "items": {"type": "object"}},
                "parameters": {"type": "object"},
            },
        }
        binary = {"schema": BINARY}
        return {
            "summary": "Inference",
            "parameters": [header],
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": request}, "application/octet-stream": binary},
            },
            "responses": self._responses(
                {
                    "description": "The outputs",
                    "content": {
                        JSON: {"schema": {"type": "object", "required": ["outputs"]}},
                        "application/octet-stream": binary,
                    },
                },
                ("400", "404", "405", "408", "413", "415", "422", "429"),
                v2_errors=True,
            ),
        }

    def _content_in(self, operation: Operation) -> Json:
        files = {"type": "object", "additionalProperties": BINARY, "minProperties": 1}
        by_type = {
            JSON: self._json(operation.source),
            NPY: BINARY,
            PNG: {"type": "string", "contentMediaType": PNG},
            FORM: files,
        }
        return {media_type: {"schema": by_type[media_type]} for media_type in operation.reads}

    def _answer(self, operation: Operation) -> Json:
        """What a good answer has: content, and the header that may carry scores."""
        scored = self._scored and operation.source == "images"
        headers = {"headers": {"X-Scores": schemas.scores_header()}} if scored else {}
        return {"content": self._content_out(operation, scored=scored), **headers}

    def _content_out(self, operation: Operation, *, scored: bool) -> Json:
        latents: Json = {
            "type": "object",
            "required": ["latents"],
            "properties": {
                "latents": {
                    "type": "array",
                    "items": {
                        "oneOf": [
                            list_of({"type": "number"}, self._manifest.latent_size),
                            {"type": "string", "contentEncoding": "base64"},
                        ]
                    },
                },
                "encoding": {"const": "base64"},
                "names": {"type": "array", "items": {"type": "string"}},
            },
        }
        images = self._json("images")
        images["properties"]["names"] = {"type": "array", "items": {"type": "string"}}
        images.pop("additionalProperties")
        if scored:
            for answer in (latents, images):
                answer["properties"]["scores"] = schemas.scores()
        by_type = {
            JSON: latents if operation.answer == "latents" else images,
            NPY: BINARY,
            PNG: {"type": "string", "contentMediaType": PNG},
            ZIP: {"type": "string", "contentMediaType": ZIP},
        }
        return {media_type: {"schema": by_type[media_type]} for media_type in operation.writes}

    def _json(self, key: str) -> Json:
        return {
            "type": "object",
            "required": [key],
            "properties": {key: self._rows[key]},
            "additionalProperties": False,
        }

    def _responses(self, found: Json, errors: tuple[str, ...], *, v2_errors: bool = False) -> Json:
        """200 as given, the named errors, 401 where a key is asked for."""
        media_type, schema = (JSON, "V2Error") if v2_errors else (PROBLEM, "Problem")
        content = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        statuses = sorted({*errors, *(("401",) if self._secured else ())})
        headers = {
            "X-Model-Fingerprint": {
                "description": "Which model answered",
                "schema": {"type": "string", "const": self._manifest.fingerprint},
            }
        }
        return {
            "200": {**found},
            **{
                status: {"description": STATUSES[status], "content": content, "headers": headers}
                for status in statuses
            },
        }
