"""Section `wire`: the service over HTTP beside what others would put in its place.

Every server is up at the same time, on the same cores as the load generator; a round asks each in
turn. Answers are compared with the engine's before anything is timed.
"""

from __future__ import annotations

import io
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from benchmarks import machine, report, servers
from benchmarks.agreement import DisagreementError
from benchmarks.harness import Spread, percentile
from benchmarks.load import Load, drive
from benchmarks.material import Material
from benchmarks.settings import Settings
from common.arrays import Array
from common.cores import usable_cores
from service.codecs import npy

NPY = "application/x-npy"
TOLERANCE = {"uint8": 1.0, "float32": 1e-4}  # grey levels; the unit of images


@dataclass(frozen=True)
class Case:
    """One server asked in one way; `read` turns its answer into images (N, H, W, C)."""

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


def run(settings: Settings, material: Material, say: Callable[[str], None]) -> dict[str, Any]:
    """Three tables: single images, batches of 256, JSON batches of 16; and `wire.json`."""
    rows = material.rows("autoencoder", 256)
    pixels = np.rint(rows * 255).astype(np.uint8)
    result: dict[str, Any] = {"machine": machine.facts()}
    with TemporaryDirectory(prefix="denoiser-wire-") as folder, ExitStack() as stack:
        urls = _start(material, Path(folder), stack)
        result["servers"] = list(urls)
        for name, make, size, connections, requests in (
            ("single", _single, 1, 16, 1_500),
            ("batches", _batches, 256, 4, 48),
            ("json", _json, 16, 8, 120),
        ):
            cases = make(urls, pixels[:size], rows[:size])
            _agree(material, cases, rows[:size], pixels[:size])
            if settings.quick:
                requests = 2 * connections
            found, engine_rate = _measure(
                cases, material, pixels[:size], connections, requests, settings
            )
            say(_table(name, size, connections, found, engine_rate) + "\n")
            result[name] = {
                "images_in_a_request": size,
                "connections": connections,
                "requests_in_a_round": requests,
                "rows": {label: asdict(row) for label, row in found.items()},
                "engine_images_per_second": asdict(engine_rate),
            }
    report.write_json(settings.results / "wire.json", result)
    return result


def _start(material: Material, folder: Path, stack: ExitStack) -> dict[str, str]:
    """Label → address of every server that can run here."""
    cores = usable_cores()
    bundle, plain = material.bundle.resolve(), material.plain_path("autoencoder").resolve()
    start = {
        f"ours, 1 worker of {cores} threads": partial(
            servers.ours, bundle, folder / "a.log", workers=1, threads=cores
        ),
        f"ours, {cores} workers of 1 thread": partial(
            servers.ours, bundle, folder / "b.log", workers=cores, threads=1
        ),
    }
    start[f"BentoML, {cores} workers"] = partial(
        servers.plain_bentoml, plain, folder / "d.log", workers=cores
    )
    if servers.PEERS.exists():
        start[f"FastAPI, {cores} workers"] = partial(
            servers.fastapi, plain, folder / "c.log", workers=cores
        )
        start[f"MLServer, {cores} workers"] = partial(
            servers.mlserver, plain, folder / "mlserver", workers=cores
        )
    return {label: stack.enter_context(make()) for label, make in start.items()}


def _single(urls: Mapping[str, str], pixels: Array, rows: Array) -> dict[str, Case]:
    cases = _batches(urls, pixels, rows)
    for label, url in urls.items():
        if label.startswith("BentoML"):
            for route, how in (("each", "ndarray JSON"), ("batched", "ndarray JSON, batched")):
                cases[f"{label}, {how}"] = _ndarray_case(f"{url}/{route}", rows)
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
    def read(body: bytes) -> Array:
        answer: Array = np.load(io.BytesIO(body), allow_pickle=False)
        return answer

    return Case(f"{url}/denoise", npy.encode(pixels), {"Content-Type": NPY, "Accept": NPY}, read)


def _json_case(url: str, rows: Array) -> Case:
    def read(body: bytes) -> Array:
        return np.array(orjson.loads(body)["images"], np.float32)

    body = orjson.dumps({"images": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Case(f"{url}/denoise", body, {"Content-Type": "application/json"}, read)


def _ndarray_case(url: str, rows: Array) -> Case:
    def read(body: bytes) -> Array:
        return np.array(orjson.loads(body), np.float32)

    body = orjson.dumps({"images": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Case(url, body, {"Content-Type": "application/json"}, read)


def _v2_request(datatype: str, shape: tuple[int, ...], **tensor: Any) -> bytes:
    message = {
        "inputs": [{"name": "images", "datatype": datatype, "shape": list(shape), **tensor}],
        "outputs": [{"name": "denoised", "parameters": {"binary_data": datatype == "UINT8"}}],
    }
    return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)


def _v2_binary(url: str, pixels: Array) -> Case:
    head = _v2_request("UINT8", pixels.shape, parameters={"binary_data_size": pixels.nbytes})

    def read(body: bytes) -> Array:
        return np.frombuffer(body[-4 * pixels.size :], np.float32).reshape(pixels.shape)

    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    path = "/v2/models/autoencoder/infer"
    return Case(f"{url}{path}", head + pixels.tobytes(), headers, read)


def _v2_json(url: str, rows: Array) -> Case:
    def read(body: bytes) -> Array:
        output = orjson.loads(body)["outputs"][0]
        return np.array(output["data"], np.float32).reshape(rows.shape)

    body = _v2_request("FP32", rows.shape, data=rows.reshape(-1))
    headers = {"Content-Type": "application/json"}
    return Case(f"{url}/v2/models/autoencoder/infer", body, headers, read)


def _agree(material: Material, cases: Mapping[str, Case], rows: Array, pixels: Array) -> None:
    """Every server must answer what the engine does, or nothing is timed."""
    for label, case in cases.items():
        request = urllib.request.Request(case.url, case.body, case.headers, method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:
            found = case.read(response.read())
        received = rows if "JSON" in label else pixels
        wanted = material.engine.denoise(
            received, dtype="uint8" if found.dtype == np.uint8 else "float32"
        )
        difference = float(np.abs(found.astype(np.float32) - wanted).max())
        if found.shape != wanted.shape or difference > TOLERANCE[found.dtype.name]:
            raise DisagreementError(f"{label} differs from the engine by {difference:.2e}")


def _measure(
    cases: Mapping[str, Case],
    material: Material,
    pixels: Array,
    connections: int,
    requests: int,
    settings: Settings,
) -> tuple[dict[str, Result], Spread]:
    """Each case's result, and the engine's own images per second in the same rounds."""
    loads: dict[str, list[Load]] = {label: [] for label in cases}
    engine: list[float] = []
    for round_number in range(settings.wire_rounds + 1):
        engine.append(_engine_rate(material, len(pixels), settings))
        for label, case in cases.items():
            load = drive(
                case.url, case.body, case.headers, connections=connections, requests=requests
            )
            loads[label].append(load)
        if round_number == 0:  # warm-up
            engine.clear()
            for kept in loads.values():
                kept.clear()
    first = next(iter(loads.values()))
    return {
        label: Result(
            rate=Spread.of(tuple(load.rate for load in kept)),
            p50=percentile([s for load in kept for s in load.latencies], 0.5),
            p99=percentile([s for load in kept for s in load.latencies], 0.99),
            ratio=Spread.of(
                tuple(mine.rate / base.rate for mine, base in zip(kept, first, strict=True))
            ),
            refused=sum(load.refused for load in kept),
        )
        for label, kept in loads.items()
    }, Spread.of(tuple(engine))


def _engine_rate(material: Material, size: int, settings: Settings) -> float:
    """Images per second of `Engine.denoise` in this process, uint8 in and out."""
    images = np.rint(material.rows("autoencoder", max(size, settings.images)) * 255)
    images = images.astype(np.uint8)
    begun = time.perf_counter()
    material.engine.denoise(images, dtype="uint8")
    return len(images) / (time.perf_counter() - begun)


def _table(
    name: str, size: int, connections: int, found: Mapping[str, Result], engine: Spread
) -> str:
    head = [
        f"{name}: {size} image{'s' * (size > 1)} a request, {connections} connections",
        "requests/s (range)",
        "images/s",
        "of the engine alone",
        "p50",
        "p99",
    ]
    rows = [
        [
            label,
            report.rate(row.rate),
            f"{row.rate.median * size:,.0f}",
            f"{100 * row.rate.median * size / engine.median:.0f} %",
            report.duration(row.p50),
            report.duration(row.p99),
        ]
        for label, row in found.items()
    ]
    return report.table(head, rows)
