"""Metrics have labels from closed sets: no request adds a series."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import prometheus_client
import pytest

from service.engine import Engine
from service.http.formats import JSON, NPY
from service.http.gateway import Gateway
from service.http.metrics import Metrics
from service.settings import Settings
from tests.support.asgi import Inner, npy, post
from tests.support.tiny import some_images


class Asker:
    """One gateway with its registry, which gets many requests in one event loop."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._metrics = Metrics(registry=self.registry)
        self._gateway = Gateway(
            Inner(),
            engine=lambda: engine,
            metrics=lambda: self._metrics,
            settings=Settings(**settings),
        )

    def ask(self, *requests: tuple[str, str, bytes, str]) -> None:
        asyncio.run(self._all(requests))

    async def _all(self, requests: tuple[tuple[str, str, bytes, str], ...]) -> None:
        for method, path, body, content_type in requests:
            messages = iter([{"type": "http.request", "body": body}])

            async def receive(messages: Any = messages) -> Any:
                if (message := next(messages, None)) is None:
                    await asyncio.Event().wait()
                return message

            async def send(message: Any) -> None:
                pass

            headers = [(b"content-type", content_type.encode())]
            scope = {
                "type": "http",
                "method": method,
                "path": path,
                "query_string": b"",
                "headers": headers,
            }
            await self._gateway(scope, receive, send)

    def series(self) -> set[str]:
        self._metrics.flush()
        return {
            f"{sample.name}{json.dumps(sample.labels, sort_keys=True)}"
            for family in self.registry.collect()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        self._metrics.flush()
        return self.registry.get_sample_value(name, labels)


def test_ten_thousand_unknown_urls_add_no_series(engine: Engine) -> None:
    asker = Asker(engine)
    urls = [
        *("/unknown/{n}", "/encode/{n}", "/static_content/{n}.js", "/v2/{n}", "/v2/models/m{n}"),
        *("/v2/models/m{n}/infer", "/v2/models/encoder/{n}", "/v2/models/encoder/versions/{n}"),
    ]
    methods = ["GET", "POST", "BREW{n}", "DELETE"]

    def requests(numbers: range) -> list[tuple[str, str, bytes, str]]:
        return [
            (methods[n % 4].format(n=n), urls[n // 4 % 8].format(n=n), b"", f"x/{n}")
            for n in numbers
        ]

    asker.ask(*requests(range(10, 42)))
    before = asker.series()
    asker.ask(*requests(range(1000, 11_000)))
    assert asker.series() == before
    assert asker.value("denoiser_requests_total", route="unknown", status="404") > 1000  # type: ignore[operator]


def test_what_is_counted(engine: Engine) -> None:
    asker = Asker(engine)
    asker.ask(
        ("POST", "/encode", npy(some_images(7)), NPY),
        ("POST", "/encode", npy(some_images(30)), NPY),
        ("POST", "/denoise", npy(some_images(2)), NPY),
        ("POST", "/encode", npy(np.zeros((1, 3, 3, 1), np.uint8)), NPY),
        ("POST", "/encode", b"x", "text/csv"),
        ("GET", "/encode", b"", JSON),
        ("GET", "/model", b"", JSON),
    )
    assert asker.value("denoiser_rows_total", model="encoder") == 37
    assert asker.value("denoiser_rows_total", model="autoencoder") == 2
    assert asker.value("denoiser_rows_total", model="decoder") is None
    assert asker.value("denoiser_engine_seconds_total", model="encoder") > 0  # type: ignore[operator]
    assert asker.value("denoiser_requests_total", route="/encode", status="200") == 2
    assert asker.value("denoiser_requests_total", route="/encode", status="405") == 1
    assert asker.value("denoiser_requests_total", route="/model", status="200") == 1
    assert asker.value("denoiser_request_seconds_count", route="/encode") == 5
    for reason in ("shape", "unsupported-type", "method"):
        assert asker.value("denoiser_refusals_total", reason=reason) == 1
    assert asker.value("denoiser_requests_in_progress") == 0


def test_each_model_of_v2_shares_one_route(engine: Engine) -> None:
    asker = Asker(engine)
    rows = {"encoder": some_images(1), "decoder": np.zeros((1, 4), np.float32)}
    for model, array in rows.items():
        name = "images" if model == "encoder" else "latents"
        tensor = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
        body = json.dumps({"inputs": [{**tensor, "data": array.ravel().tolist()}]}).encode()
        for path in (f"/v2/models/{model}/infer", f"/v2/models/{model}/versions/1/infer"):
            asker.ask(("POST", path, body, JSON))
    route = "/v2/models/{model}/infer"
    assert asker.value("denoiser_requests_total", route=route, status="200") == 4
    assert asker.value("denoiser_rows_total", model="encoder") == 2


@pytest.mark.parametrize("name", ["rows", "engine_seconds", "requests", "refusals"])
def test_the_names_are_those_of_the_documentation(engine: Engine, name: str) -> None:
    reply = post(engine, "/encode", npy(some_images(1)), NPY)
    assert f"# TYPE denoiser_{name}_total counter" in reply.metrics
