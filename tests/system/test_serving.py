"""The service under a real `bentoml serve`, in the environment without TensorFlow."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from common.arrays import Array
from service.bundle import Bundle
from tests.support.paths import BUNDLE, ROOT, SERVING
from tests.support.processes import Server, environment, free_port, require_serving, serving

NPY = {"Content-Type": "application/x-npy"}


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    return Bundle.open(BUNDLE).golden()


def as_npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def from_npy(response: httpx.Response) -> Array:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-npy"
    answer: Array = np.load(io.BytesIO(response.content), allow_pickle=False)
    return answer


def test_the_serving_environment_has_no_tensorflow() -> None:
    require_serving()
    for package in ("tensorflow", "keras", "tf2onnx", "onnx", "sklearn"):
        done = subprocess.run([SERVING / "python", "-c", f"import {package}"], capture_output=True)
        assert done.returncode != 0, f"{package} is in .venv-serve"


def test_npy_answers_are_the_golden_ones(server: Server, golden: dict[str, Array]) -> None:
    for route, sent, expected in [
        ("encode", golden["images"], golden["latents"]),
        ("decode", golden["latents"], golden["decoded"]),
        ("denoise", golden["images"], golden["denoised"]),
    ]:
        result = from_npy(httpx.post(f"{server.url}/{route}", content=as_npy(sent), headers=NPY))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_json_answers_are_the_golden_ones(server: Server, golden: dict[str, Array]) -> None:
    for route, key, sent, answer_key, expected in [
        ("encode", "images", golden["images"], "latents", golden["latents"]),
        ("decode", "latents", golden["latents"], "images", golden["decoded"]),
        ("denoise", "images", golden["images"][..., 0], "images", golden["denoised"]),
    ]:
        response = httpx.post(f"{server.url}/{route}", json={key: sent.tolist()})
        assert response.status_code == 200, response.text
        result = np.array(response.json()[answer_key], np.float32)
        np.testing.assert_allclose(result, expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_one_image_alone_is_a_batch_of_one(server: Server, golden: dict[str, Array]) -> None:
    body = as_npy(golden["images"][3, :, :, 0])
    latents = from_npy(httpx.post(f"{server.url}/encode", content=body, headers=NPY))
    np.testing.assert_allclose(latents, golden["latents"][3:4], atol=1e-3)


def test_no_rows_give_no_rows(server: Server) -> None:
    empty = np.empty((0, 28, 28, 1), np.float32)
    latents = from_npy(httpx.post(f"{server.url}/encode", content=as_npy(empty), headers=NPY))
    assert latents.shape == (0, 16)


def test_uint8_is_answered_as_uint8_without_the_dtype_option(server: Server) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), dtype=np.uint8)
    url = f"{server.url}/denoise"
    small = from_npy(httpx.post(url, content=as_npy(images), headers=NPY))
    exact = from_npy(httpx.post(f"{url}?dtype=float32", content=as_npy(images), headers=NPY))
    assert small.dtype == np.uint8 and exact.dtype == np.float32
    np.testing.assert_array_equal(small, np.rint(exact * 255))


def test_a_png_is_encoded_and_denoised(server: Server, golden: dict[str, Array]) -> None:
    pixels = np.rint(golden["images"][0, :, :, 0] * 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    headers = {"Content-Type": "image/png"}
    denoised = httpx.post(f"{server.url}/denoise", content=stream.getvalue(), headers=headers)
    assert denoised.headers["content-type"] == "image/png"
    pixels_out = np.asarray(Image.open(io.BytesIO(denoised.content)), np.float32) / 255
    # Input and output were both rounded to 8 bits.
    np.testing.assert_allclose(pixels_out, golden["denoised"][0, :, :, 0], atol=0.03)
    encoded = httpx.post(f"{server.url}/encode", content=stream.getvalue(), headers=headers)
    assert np.array(encoded.json()["latents"]).shape == (1, 16)


def test_each_answer_names_the_model(server: Server) -> None:
    manifest = httpx.get(f"{server.url}/model").json()
    assert manifest == Bundle.open(BUNDLE).manifest.as_dict()
    good = httpx.post(f"{server.url}/decode", json={"latents": [[0.0] * 16]})
    bad = httpx.post(f"{server.url}/decode", json={"latents": [[0.0] * 15]})
    assert (good.status_code, bad.status_code) == (200, 422)
    for response in (good, bad):
        assert response.headers["X-Model-Fingerprint"] == manifest["fingerprint"]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (415, {"Content-Type": "text/csv"}, b"1,2"),
        (400, {"Content-Type": "application/json"}, b""),
        (400, {"Content-Type": "application/json"}, b'{"images": [[NaN]]}'),
        (422, {"Content-Type": "application/json"}, b'{"images": [[1, 2], [3]]}'),
        (422, {"Content-Type": "application/json"}, b'{"images": "pixels"}'),
        (400, NPY, b"not numpy"),
        (422, NPY, as_npy(np.zeros((1, 32, 32, 1), np.float32))),
        (422, NPY, as_npy(np.zeros((1, 28, 28, 1), np.float64))),
        (422, NPY, as_npy(np.full((1, 28, 28, 1), 1.5, np.float32))),
        (422, NPY, as_npy(np.full((50, 28, 28, 1), np.nan, np.float32))),
        (400, NPY, as_npy(np.zeros((1, 28, 28, 1), np.float32))[:-1]),
        (400, {"Content-Type": "image/png"}, b"\x89PNG\r\n\x1a\n, nearly"),
        (406, {**NPY, "Accept": "text/html"}, as_npy(np.zeros((1, 28, 28, 1), np.uint8))),
    ],
)
def test_bad_input_is_a_problem_document(
    server: Server, status: int, headers: dict[str, str], body: bytes
) -> None:
    response = httpx.post(f"{server.url}/denoise", content=body, headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["received"] and document["expected"]
    assert "Traceback" not in response.text and str(ROOT) not in response.text


def test_bentoml_s_own_routes_still_answer(server: Server) -> None:
    for route in ("/livez", "/readyz", "/metrics", "/docs.json", "/schema.json"):
        assert httpx.get(f"{server.url}{route}").status_code == 200, route


def test_bentoml_s_client_works(server: Server, golden: dict[str, Array]) -> None:
    # In its own interpreter: the client leaves temporary folders to the garbage collector.
    script = (
        "import bentoml, json, sys\n"
        "with bentoml.SyncHTTPClient(sys.argv[1]) as client:\n"
        "    print(json.dumps(client.encode(images=json.load(sys.stdin))))"
    )
    done = subprocess.run(
        [SERVING / "python", "-c", script, server.url],
        input=json.dumps(golden["images"].tolist()),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    latents = np.array(json.loads(done.stdout)["latents"])
    np.testing.assert_allclose(latents, golden["latents"], atol=1e-3)


def test_every_curl_of_the_docs_answers(server: Server, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    docs = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    curls = re.findall(r"^curl -s .+$", docs, re.M)
    assert len(curls) >= 5
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for curl in curls:
        line = curl.replace("curl -s", "curl -sS --fail", 1)
        line = line.replace("http://127.0.0.1:3000", server.url)
        subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, capture_output=True)
    with zipfile.ZipFile(tmp_path / "clean.zip") as archive:
        assert len(archive.namelist()) == 2
    for name in ("clean.png", "mean.png"):
        with Image.open(tmp_path / name) as image:
            assert image.size == (28, 28)


def test_plain_bentoml_serve_in_the_project_s_root(tmp_path: Path) -> None:
    require_serving()
    port = free_port()
    command = [str(SERVING / "bentoml"), "serve"]  # bentofile.yaml names the service
    settings = {"DENOISER_HOST": "127.0.0.1", "DENOISER_PORT": str(port)}
    with serving(tmp_path, command=command, port=port, settings=settings) as running:
        assert httpx.get(f"{running.url}/model").json()["name"] == "mnist"


@pytest.mark.parametrize("damage", ["missing", "hash", "setting"])
def test_a_service_that_cannot_start_prints_why_and_ends(tmp_path: Path, damage: str) -> None:
    require_serving()
    bundle = tmp_path / "bundle"
    settings = {"DENOISER_BUNDLE": str(bundle)}
    if damage == "hash":
        shutil.copytree(BUNDLE, bundle)
        weights = bytearray((bundle / "encoder.onnx").read_bytes())
        weights[len(weights) // 2] ^= 1
        (bundle / "encoder.onnx").write_bytes(weights)
    if damage == "setting":
        settings["DENOISER_THREADS"] = "many"
    done = subprocess.run(
        [SERVING / "bentoml", "serve", "service.app:Denoiser", "--port", str(free_port())],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert {"missing": "no folder", "hash": "encoder.onnx", "setting": "DENOISER_THREADS"}[
        damage
    ] in done.stderr
