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
            result[name] = {
                "images_in_a_request": size,
                "connections": connections,
                "requests_in_a_round": requests,
                "rows": results,
                "engine_images_per_second": asdict(engine_rate),
            }
            title = f"{name}: {size} image{'s' * (size > 1)} per request, {connections} connections"
            print(report.wire(result[name], title) + "\n")
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
    }
    peers = {"BentoML": servers.plain_bentoml}
    if servers.PEERS.exists():
        peers |= {"FastAPI": servers.fastapi, "MLServer": servers.mlserver}
    for name, peer in peers.items():
        start[f"{name}, {cores} workers"] = peer(plain, folder / f"{name}.log", workers=cores)
    return {label: stack.enter_context(server) for label, server in start.items()}


def _single(urls: Mapping[str, str], pixels: Array, rows: Array) -> dict[str, Case]:
    cases = _batches(urls, pixels, rows)
    for label, url in urls.items():
        if label.startswith("BentoML"):
            for route, name in (("each", "ndarray JSON"), ("batched", "ndarray JSON, batched")):
                cases[f"{label}, {name}"] = _json_case(f"{url}/{route}", rows)
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
            cases[f"{label}, ndarray JSON"] = _json_case(f"{url}/each", rows)
        elif not label.startswith("FastAPI"):
            cases[f"{label}, V2 JSON"] = _v2_json(url, rows)
        if label.startswith("ours"):
            cases[f"{label}, JSON"] = _json_case(f"{url}/denoise", rows)
    return cases


def _npy_case(url: str, pixels: Array) -> Case:
    headers = {"Content-Type": NPY, "Accept": NPY}
    return Case(f"{url}/denoise", npy.encode(pixels), headers, lambda body: np.load(BytesIO(body)))


def _json_case(url: str, rows: Array) -> Case:
    """BentoML answers with a bare list, ours with an object."""

    def read(body: bytes) -> Array:
        content = orjson.loads(body)
        images = content["images"] if isinstance(content, dict) else content
        return np.array(images, np.float32)

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
) -> tuple[dict[str, dict[str, Any]], Spread]:
    """Each case's requests/s and latencies, and the engine's own images/s in the same rounds."""
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
    rows = {}
    for label, rounds in loads.items():
        latencies = [seconds for load in rounds for seconds in load.latencies]
        rows[label] = {
            "rate": asdict(Spread.of(tuple(load.rate for load in rounds))),
            "p50": float(np.quantile(latencies, 0.5, method="inverted_cdf")),
            "p99": float(np.quantile(latencies, 0.99, method="inverted_cdf")),
            "refused": sum(load.refused for load in rounds),
        }
    return rows, Spread.of(tuple(engine))


def _engine_rate(models: Models, count: int) -> float:
    """Images per second of `Engine.denoise` in this process, uint8 in and out."""
    images = to_bytes(models.rows("autoencoder", count))
    start = time.perf_counter()
    models.engine.denoise(images, dtype="uint8")
    return count / (time.perf_counter() - start)
