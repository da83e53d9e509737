"""What can go wrong between the client and the service, beside what the service refuses."""

from __future__ import annotations

import httpx

from common.errors import DenoiserError


class RemoteError(DenoiserError):
    """The service answered with an error that has no class of its own here."""

    title = "The service refused"


class UnavailableError(DenoiserError):
    """No answer: nobody listens, the connection broke, or the service stayed too busy."""

    title = "The service is unavailable"


class ModelChangedError(DenoiserError):
    """Parts of one answer come from different models."""

    title = "The model changed"


def error_of(response: httpx.Response) -> DenoiserError:
    """The service's problem document as the exception that it was made from."""
    try:
        document = response.json()
        kinds = {kind("", expected="", hint="").slug: kind for kind in _kinds(DenoiserError)}
        kind = kinds[document["type"].rpartition(":")[2]]
        return kind(document["received"], expected=document["expected"], hint=document["hint"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return RemoteError(
            f"status {response.status_code} from {response.url}",
            expected="an answer or a problem document",
            hint="Look at the service's log.",
        )


def _kinds(kind: type[DenoiserError]) -> list[type[DenoiserError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _kinds(child))]


def retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks to be left alone; 0 where it does not say."""
    try:
        return float(response.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0


def unavailable(received: str, url: httpx.URL) -> UnavailableError:
    """No answer from that address, and why."""
    return UnavailableError(
        f"{url}: {received}", expected="an answer", hint="Check the address, or try again later."
    )
