"""`denoiser_client` against a service of a few lines: requests, retries, errors."""

from __future__ import annotations

import asyncio
import io
import pickle
import time
from collections.abc import Callable, Coroutine

import httpx
import numpy as np
import pytest

from denoiser_client import (
    DenoiserClient,
    DenoiserClientError,
    ModelChangedError,
    RefusedError,
    RemoteError,
    UnavailableError,
)
from denoiser_client.client import MAX_BYTES

Handler = (
    Callable[[httpx.Request], httpx.Response]
    | Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]
)
ROWS = np.arange(40, dtype=np.float32).reshape(20, 2)
PROBLEM = {
    "type": "urn:denoiser:problem:shape",
    "title": "Wrong shape",
    "status": 422,
    "received": "latents of shape (20, 2)",
    "expected": "(N, 16)",
}


def client_of(handler: Handler, **options: int) -> DenoiserClient:
    client = DenoiserClient("http://service.test", "a-key", **options)
    client._client._options |= {"transport": httpx.MockTransport(handler), "proxy": None}
    return client


def doubled(request: httpx.Request, fingerprint: str = "f") -> httpx.Response:
    """What a service of `x → 2 x` answers."""
    rows = np.load(io.BytesIO(request.content))
    stream = io.BytesIO()
    np.save(stream, 2 * rows)
    headers = {"X-Model-Fingerprint": fingerprint}
    if "score" in request.url.params:
        headers["X-Scores"] = ",".join(map(str, rows[:, 0]))
    return httpx.Response(200, content=stream.getvalue(), headers=headers)


def test_rows_are_split_and_joined_in_order() -> None:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return doubled(request)

    with client_of(handler, batch=3) as client:
        np.testing.assert_array_equal(client.decode(ROWS.tolist()), 2 * ROWS)
        result = client.run(["scores", "denoised"], ROWS)
        assert client.encode(ROWS[:0]).shape == (0, 2)
    np.testing.assert_array_equal(result["scores"], ROWS[:, 0])
    np.testing.assert_array_equal(result["denoised"], 2 * ROWS)
    assert len(requests) == 7 + 7 + 1
    assert {request.headers["authorization"] for request in requests} == {"Bearer a-key"}


@pytest.mark.parametrize("outputs", [["latents"], ["latents", "denoised"]])
def test_results_of_two_models_are_never_joined(outputs: list[str]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        late = request.url.path == "/denoise" or np.load(io.BytesIO(request.content))[0, 0] > 20
        return doubled(request, "new" if late else "old")

    with client_of(handler, batch=20 if len(outputs) == 2 else 5) as client:
        with pytest.raises(ModelChangedError, match="2 models"):
            client.run(outputs, ROWS)  # type: ignore[arg-type]
        np.testing.assert_array_equal(client.encode(ROWS[:5]), 2 * ROWS[:5])


def test_a_busy_service_is_asked_again_after_the_time_that_it_names() -> None:
    times: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        times.append(time.monotonic())
        if len(times) == 1:
            return httpx.Response(429, headers={"Retry-After": "1"})
        return httpx.Response(503) if len(times) == 2 else doubled(request)

    with client_of(handler) as client:
        np.testing.assert_array_equal(client.encode(ROWS), 2 * ROWS)
    assert 0.7 < times[1] - times[0] < 5
    assert 0.1 < times[2] - times[1] < 5


def test_what_is_too_large_is_sent_in_smaller_parts() -> None:
    counts: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        counts.append(len(np.load(io.BytesIO(request.content))))
        return doubled(request) if counts[-1] <= 3 else httpx.Response(413)

    with client_of(handler) as client:
        np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)
        assert counts[:3] == [20, 10, 5]
        counts.clear()
        np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)  # the size is remembered
    assert set(counts) == {3, 2}
    client = client_of(lambda _: httpx.Response(413))
    with client, pytest.raises(RefusedError, match="413"):
        client.decode(ROWS)


def test_large_rows_are_split_by_bytes() -> None:
    sizes: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sizes.append(len(request.content))
        return doubled(request)

    rows = np.ones((9, 2**20), np.float32)  # 4 MiB each
    with client_of(handler) as client:
        np.testing.assert_array_equal(client.decode(rows), 2 * rows)
        client.decode(np.ones((1, 5 * 2**20), np.float32))
    assert len(sizes) == 3 + 1
    assert max(sizes[:3]) < MAX_BYTES + 1024 < sizes[3]


def test_patience_ends() -> None:
    for pause in ("0", "Wed, 21 Oct 2026 07:28:00 GMT"):
        headers = {"Retry-After": pause}
        client = client_of(lambda _, h=headers: httpx.Response(503, headers=h), retries=1)
        with client, pytest.raises(UnavailableError, match=r"status 503 \(2 tries\)"):
            client.encode(ROWS)


def test_a_pause_of_more_digits_than_an_integer_may_have() -> None:
    response = httpx.Response(503, headers={"Retry-After": "9" * 5000})
    client = client_of(lambda _: response, retries=0)
    with client, pytest.raises(UnavailableError, match=r"status 503 \(1 tries\)"):
        client.encode(ROWS)


@pytest.mark.parametrize("text", ["[]", '[["a", 1]]', "3", "<html>", "[" * 100_000])
def test_a_manifest_that_is_none(text: str) -> None:
    response = httpx.Response(200, text=text, headers={"X-Model-Fingerprint": "f"})
    with client_of(lambda _: response) as client, pytest.raises(RemoteError, match="200 OK"):
        client.model()


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (
            httpx.Response(422, json=PROBLEM),
            RefusedError,
            r"of shape \(20, 2\); expected \(N, 16\)",
        ),
        (httpx.Response(404, text="no"), RefusedError, "status 404 Not Found from http"),
        (httpx.Response(500, json={"type": "about:blank"}), RemoteError, "status 500 Internal"),
        (
            httpx.Response(401, json={**PROBLEM, "type": "urn:denoiser:problem:unauthorized"}),
            RefusedError,
            r"expected \(N, 16\)$",
        ),
        (
            httpx.Response(308, headers={"Location": "https://service.test/encode"}),
            RemoteError,
            "redirects to https://service.test/encode: use that address",
        ),
        (httpx.Response(502, json=["odd"]), RemoteError, "status 502 Bad Gateway"),
        (httpx.Response(502, json="received, expected"), RemoteError, "status 502 Bad Gateway"),
        (httpx.Response(502, content=b"[" * 100_000), RemoteError, "status 502 Bad Gateway"),
        (
            httpx.Response(400, json={"received": 1, "expected": [2], "type": None, "hint": None}),
            RefusedError,
            r"^1; expected \[2\]$",
        ),
        (httpx.Response(200, html="<p>"), RemoteError, "status 200 OK .* expected a result"),
    ],
)
def test_errors(response: httpx.Response, kind: type[RemoteError], words: str) -> None:
    client = client_of(lambda _: response)
    with client, pytest.raises(DenoiserClientError, match=words) as caught:
        client.encode(ROWS)
    error = caught.value
    assert type(error) is kind
    assert error.status == response.status_code
    assert error.slug == {401: "unauthorized", 422: "shape"}.get(response.status_code, "")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.status, copy.slug) == (str(error), error.status, error.slug)


def test_the_first_error_of_many_requests_ends_the_call() -> None:
    count = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        await asyncio.sleep(0.001)
        return httpx.Response(422, json=PROBLEM)

    with client_of(handler, batch=1, parallel=2) as client, pytest.raises(RefusedError):
        client.encode(np.repeat(ROWS, 50, axis=0))
    assert count < 20  # of 1,000
