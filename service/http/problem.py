"""Errors over HTTP: problem details, RFC 9457."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from common.errors import DenoiserError

MEDIA_TYPE = "application/problem+json"


def from_error(error: DenoiserError) -> bytes:
    """The problem document of one of our errors."""
    members = {
        "type": f"urn:denoiser:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "received": error.received,
        "expected": error.expected,
    }
    return orjson.dumps({**members, "hint": error.hint} if error.hint else members)


def from_status(status: int) -> bytes:
    """The problem document of a status alone, for errors that are not ours."""
    return orjson.dumps(
        {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    )
