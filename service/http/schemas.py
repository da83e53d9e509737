"""Pieces of the OpenAPI document that need no manifest."""

from __future__ import annotations

from typing import Any

from service.http.formats import MAX_HEADER_SCORES, Operation

Json = dict[str, Any]


def parameters(operation: Operation, *, scored: bool) -> list[Json]:
    """The query parameters of a route; score where the bundle has scores."""

    def query(name: str, about: str, *choices: str) -> Json:
        schema = {"type": "string", "enum": list(choices)}
        return {"name": name, "in": "query", "description": about, "schema": schema}

    found = []
    if operation.answer == "images":
        found.append(query("dtype", "dtype of images in npy", "uint8", "float32"))
    else:
        found.append(query("encoding", "how latents stand in JSON", "float", "base64"))
    if operation.source == "images":
        found.append(query("fit", "bring PNGs of other sizes to the model's", "contain", "stretch"))
        found.append(query("invert", "PNGs are dark on light", "true", "false"))
        if scored:
            about = "how unusual each image is, beside the answer"
            found.append(query("score", about, "true", "false"))
    return found


def list_of(items: Json, length: int | None = None) -> Json:
    """An array, of exactly `length` items where that is given."""
    if length is None:
        return {"type": "array", "items": items}
    return {"type": "array", "items": items, "minItems": length, "maxItems": length}


def scores_header() -> Json:
    """X-Scores, on answers that are not JSON."""
    return {
        "description": f"With score=true, unless the answer is JSON: numbers in [0, 1] with commas "
        f"between, one for each of at most {MAX_HEADER_SCORES} images",
        "schema": {"type": "string"},
    }


def scores() -> Json:
    """Scores in JSON."""
    unit = {"type": "number", "minimum": 0, "maximum": 1}
    return {**list_of(unit), "description": "With score=true: how unusual each image is"}


def problem() -> Json:
    """Our errors."""
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "Problem details, RFC 9457",
        "required": ["type", "title", "status"],
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "received": {**text, "description": "what was found"},
            "expected": {**text, "description": "what would have been right"},
            "hint": {**text, "description": "the next step"},
        },
    }


def v2_error() -> Json:
    """Errors under /v2."""
    return {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    }
