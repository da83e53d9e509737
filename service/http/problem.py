"""Errors as HTTP tells them: problem details, RFC 9457."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from common.errors import DenoiserError

MEDIA_TYPE = "application/problem+json"


def from_error(error: DenoiserError) -> bytes:
    """The problem document of one of our errors: what came, what was expected, what to do."""
    document = {
        "type": f"urn:denoiser:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "received": error.received,
        "expected": error.expected,
    }
    return orjson.dumps({**document, "hint": error.hint} if error.hint else document)


def from_status(status: int) -> bytes:
    """The problem document of a bare status, for errors that are not ours."""
    return orjson.dumps(
        {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    )
