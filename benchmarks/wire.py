"""Section `wire`: the service over HTTP beside its peers.

All servers run at the same time, on the same cores as the load generator; each round measures them
in turn. Their output is compared with the engine's before anything is timed.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from benchmarks import machine, report, servers
from benchmarks.agreement import DisagreementError
from benchmarks.harness import Spread
from benchmarks.load import Load, drive
from benchmarks.models import Models
from benchmarks.settings import Settings
from common.arrays import Array, to_bytes
from common.cores import usable_cores
from service.codecs import npy

NPY = "application/x-npy"
JSON = {"Content-Type": "application/json"}
INFER = "/v2/models/autoencoder/infer"
TOLERANCE = {"uint8": 1.0, "float32": 1e-4}  # in grey levels; in the unit of images


@dataclass(frozen=True)
class Case:
    """One kind of request to one server; `read` parses its response to images (N, H, W, C)."""

    url: str
    body: bytes
    headers: dict[str, str]
    read: Callable[[bytes], Array]


@dataclass(frozen=True)
class Result:
    """Requests per second and latencies in seconds, over the rounds; ratio to the first row."""

    rate: Spread
    p50: float
    p99: float
    ratio: Spread
    refused: int


def run(settings: Settings, models: Models) -> dict[str, Any]:
    """Three tables: single images, batches of 256, JSON batches of 16; and `wire.json`."""
    rows = models.rows("autoencoder", 256)
    pixels = to_bytes(rows)
    result: dict[str, Any] = {"machine": machine.facts()}
    with TemporaryDirectory(prefix="denoiser-wire-") as folder, ExitStack() as stack:
        urls = _start(models, Path(folder), stack)
        result["servers"] = list(urls)
        for name, make, size, connections, requests in (
            ("single", _single, 1, 16, 1_500),
            ("batches", _batches, 256, 4, 48),
            ("json", _json, 16, 8, 120),
        ):
            cases = make(urls, pixels[:size], rows[:size])
            _check(models, cases, rows[:size], pixels[:size])
            if settings.quick:
                requests = 2 * connections
            send = partial(drive, connections=connections, requests=requests)
            results, engine_rate = _measure(cases, models, size, send, settings)
            title = f"{name}: {size} image{'s' * (size > 1)} per request, {connections} connections"
            print(_table(title, size, results, engine_rate) + "\n")
            result[name] = {
                "images_in_a_request": size,
                "connections": connections,
                "requests_in_a_round": requests,
                "rows": {label: asdict(row) for label, row in results.items()},
                "engine_images_per_second": asdict(engine_rate),
            }
    report.write_json(settings.results / "wire.json", result)
    return result


def _start(models: Models, folder: Path, stack: ExitStack) -> dict[str, str]:
    """Label → address of every server that can run here."""
    cores = usable_cores()
    bundle, plain = models.bundle.resolve(), models.plain_path("autoencoder").resolve()
    one, many = folder / "one.log", folder / "many.log"
    start = {
        f"ours, 1 worker of {cores} threads": servers.ours(bundle, one, workers=1, threads=cores),
        f"ours, {cores} workers of 1 thread": servers.ours(bundle, many, workers=cores, threads=1),
        f"BentoML, {cores} workers": servers.plain_bentoml(
            plain, folder / "bentoml.log", workers=cores
        ),
    }
    if servers.PEERS.exists():
        start[f"FastAPI, {cores} workers"] = servers.fastapi(
            plain, folder / "fastapi.log", workers=cores
        )
        start[f"MLServer, {cores} workers"] = servers.mlserver(
            plain, folder / "mlserver", workers=cores
        )
    return {label: stack.enter_context(server) for label, server in start.items()}


def _single(urls: Mapping[str, str], pixels: Array, rows: Array) -> dict[str, Case]:
    cases = _batches(urls, pixels, rows)
    for label, url in urls.items():
        if label.startswith("BentoML"):
            for route, name in (("each", "ndarray JSON"), ("batched", "ndarray JSON, batched")):
                cases[f"{label}, {name}"] = _ndarray_case(f"{url}/{route}", rows)
    return cases


def _batches(urls: Mapping[str, str], pixels: Array, rows: Array) -> dict[str, Case]:
    cases = {}
    for label, url in urls.items():
        if label.startswith("BentoML"):
            cases[f"{label}, mounted app, npy"] = _npy_case(f"{url}/mounted", pixels)
        elif not label.startswith("MLServer"):
            cases[f"{label}, npy"] = _npy_case(url, pixels)
        if label.startswith("ours"):
            cases[f"{label}, V2 binary"] = _v2_binary(url, pixels)
    return cases


def _json(urls: Mapping[str, str], pixels: Array, rows: Array) -> dict[str, Case]:
    cases = {}
    for label, url in urls.items():
        if label.startswith("BentoML"):
            cases[f"{label}, ndarray JSON"] = _ndarray_case(f"{url}/each", rows)
        elif not label.startswith("FastAPI"):
            cases[f"{label}, V2 JSON"] = _v2_json(url, rows)
        if label.startswith("ours"):
            cases[f"{label}, JSON"] = _json_case(url, rows)
    return cases


def _npy_case(url: str, pixels: Array) -> Case:
    headers = {"Content-Type": NPY, "Accept": NPY}
    return Case(f"{url}/denoise", npy.encode(pixels), headers, lambda body: np.load(BytesIO(body)))


def _json_case(url: str, rows: Array) -> Case:
    def read(body: bytes) -> Array:
        return np.array(orjson.loads(body)["images"], np.float32)

    return Case(f"{url}/denoise", _dumps({"images": rows}), JSON, read)


def _ndarray_case(url: str, rows: Array) -> Case:
    def read(body: bytes) -> Array:
        return np.array(orjson.loads(body), np.float32)

    return Case(url, _dumps({"images": rows}), JSON, read)


def _v2_request(datatype: str, shape: tuple[int, ...], **tensor: Any) -> bytes:
    binary = datatype == "UINT8"
    return _dumps(
        {
            "inputs": [{"name": "images", "datatype": datatype, "shape": shape, **tensor}],
            "outputs": [{"name": "denoised", "parameters": {"binary_data": binary}}],
        }
    )


def _dumps(message: Any) -> bytes:
    return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)


def _v2_binary(url: str, pixels: Array) -> Case:
    head = _v2_request("UINT8", pixels.shape, parameters={"binary_data_size": pixels.nbytes})

    def read(body: bytes) -> Array:
        return np.frombuffer(body[-4 * pixels.size :], np.float32).reshape(pixels.shape)

    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return Case(f"{url}{INFER}", head + pixels.tobytes(), headers, read)


def _v2_json(url: str, rows: Array) -> Case:
    def read(body: bytes) -> Array:
        output = orjson.loads(body)["outputs"][0]
        return np.array(output["data"], np.float32).reshape(rows.shape)

    body = _v2_request("FP32", rows.shape, data=rows.reshape(-1))
    return Case(f"{url}{INFER}", body, JSON, read)


def _check(models: Models, cases: Mapping[str, Case], rows: Array, pixels: Array) -> None:
    """Every server must return what the engine does, or nothing is timed."""
    for label, case in cases.items():
        request = urllib.request.Request(case.url, case.body, case.headers, method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:
            images = case.read(response.read())
        expected = models.engine.denoise(
            rows if "JSON" in label else pixels,
            dtype="uint8" if images.dtype == np.uint8 else "float32",
        )
        difference = float(np.abs(images.astype(np.float32) - expected).max())
        if images.shape != expected.shape or difference > TOLERANCE[images.dtype.name]:
            raise DisagreementError(f"{label} differs from the engine by {difference:.2e}")


def _measure(
    cases: Mapping[str, Case],
    models: Models,
    size: int,
    send: Callable[[str, bytes, dict[str, str]], Load],
    settings: Settings,
) -> tuple[dict[str, Result], Spread]:
    """Each case's result, and the engine's own images per second in the same rounds."""
    loads: dict[str, list[Load]] = {label: [] for label in cases}
    engine: list[float] = []
    for turn in range(settings.sizes.wire_rounds + 1):
        rate = _engine_rate(models, max(size, settings.sizes.images))
        results = {label: send(case.url, case.body, case.headers) for label, case in cases.items()}
        if turn == 0:  # warm-up
            continue
        engine.append(rate)
        for label, load in results.items():
            loads[label].append(load)
    first = next(iter(loads.values()))
    return {
        label: Result(
            rate=Spread.of(tuple(load.rate for load in rounds)),
            p50=_quantile(rounds, 0.5),
            p99=_quantile(rounds, 0.99),
            ratio=Spread.of(
                tuple(load.rate / base.rate for load, base in zip(rounds, first, strict=True))
            ),
            refused=sum(load.refused for load in rounds),
        )
        for label, rounds in loads.items()
    }, Spread.of(tuple(engine))


def _quantile(loads: list[Load], share: float) -> float:
    latencies = [seconds for load in loads for seconds in load.latencies]
    return float(np.quantile(latencies, share, method="inverted_cdf"))


def _engine_rate(models: Models, count: int) -> float:
    """Images per second of `Engine.denoise` in this process, uint8 in and out."""
    images = to_bytes(models.rows("autoencoder", count))
    start = time.perf_counter()
    models.engine.denoise(images, dtype="uint8")
    return count / (time.perf_counter() - start)


def _table(title: str, size: int, results: Mapping[str, Result], engine: Spread) -> str:
    head = [title, "requests/s (range)", "images/s", "of the engine alone", "p50", "p99"]
    rows = [
        [
            label,
            report.rate(row.rate),
            f"{row.rate.median * size:,.0f}",
            f"{100 * row.rate.median * size / engine.median:.0f} %",
            report.duration(row.p50),
            report.duration(row.p99),
        ]
        for label, row in results.items()
    ]
    return report.table(head, rows)
