"""What can go wrong between a client and the service: all are `DenoiserClientError`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import httpx


@dataclass(eq=False)
class DenoiserClientError(Exception):
    """Base of all errors of this package.

    Attributes:
        received: what arrived, e.g. "images of shape (2, 32, 32)".
        expected: what would be valid.
        hint: the next step, a sentence, or "".
        status: the HTTP status; 0 without a response.
        slug: the service's name for the problem, such as "shape" or "too-large"; "" without one.
    """

    received: str = ""
    _: KW_ONLY
    expected: str = ""
    hint: str = ""
    status: int = 0
    slug: str = ""

    def __str__(self) -> str:
        text = f"{self.received}; expected {self.expected}"
        return f"{text}. {self.hint}" if self.hint else text


class ConfigError(DenoiserClientError):
    """The address, the API key, the environment's proxy or its certificate file is unusable."""


class RemoteError(DenoiserClientError):
    """The service answered with an error, or with something that is no result of it."""


class RefusedError(RemoteError):
    """The service refused the request; sent again unchanged, it would be refused again."""


class UnavailableError(DenoiserClientError):
    """No answer: nothing listens, the connection broke, or the service stayed too busy."""


class ModelChangedError(DenoiserClientError):
    """Parts of one result come from different models."""


def parsed(response: httpx.Response) -> dict[str, Any]:
    """The JSON object in a response; empty for anything else."""
    try:
        document = response.json()
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def error_of(response: httpx.Response, via: str = "") -> RemoteError:
    """The exception for a response, from its problem document (RFC 9457) where it has one.

    `via` is what lies between, such as " through the proxy http://proxy:3128".
    """
    status, url = response.status_code, response.url.copy_with(userinfo=b"")
    problem = parsed(response)
    if not {"received", "expected"} <= problem.keys():
        problem = {
            "received": f"status {status} {response.reason_phrase} from {url}{via}",
            "expected": "a result or a problem document",
            "hint": "Check the address and the service's log.",
        }
        if response.has_redirect_location:
            problem["hint"] = f"It redirects to {response.headers['location']}: use that address."
    kind = RefusedError if response.is_client_error else RemoteError
    return kind(
        str(problem["received"]),
        expected=str(problem["expected"]),
        hint=str(problem.get("hint") or ""),
        status=status,
        slug=str(problem.get("type") or "").rpartition(":")[2],
    )
