"""Every format against the real process: forms of thousands, zips, base64, fitted PNGs, gzip."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import subprocess
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from common.arrays import Array
from service.engine import Engine
from tests.support.processes import Server, environment
from tests.support.wire import as_npy, from_npy, some_images

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-4}


def as_png(pixels: Array | Image.Image) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels[..., 0])
    image.save(stream, "PNG")
    return stream.getvalue()


def from_png(body: bytes) -> Array:
    with Image.open(io.BytesIO(body)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def files(images: Sequence[bytes], names: Sequence[str]) -> list[Any]:
    """Fields of any name."""
    return [
        (f"field-{n % 7}", (name, body, "image/png"))
        for n, (body, name) in enumerate(zip(images, names, strict=True))
    ]


def test_two_thousand_pngs_in_one_form(server: Server, local_engine: Engine) -> None:
    images = some_images(2000)
    names = [f"{uuid.UUID(int=n).hex}-ü.png" for n in range(2000)]
    form = files([as_png(image) for image in images], names)
    encoded = httpx.post(f"{server.url}/encode", files=form, timeout=60)
    assert encoded.status_code == 200, encoded.text[:500]
    document = encoded.json()
    assert document["names"] == names
    expected = local_engine.encode(images)
    np.testing.assert_allclose(np.array(document["latents"], np.float32), expected, **CLOSE)

    denoised = httpx.post(f"{server.url}/denoise", files=form, timeout=60)
    assert denoised.headers["content-type"] == "application/zip"
    clean = local_engine.denoise(images, dtype="uint8")
    with zipfile.ZipFile(io.BytesIO(denoised.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == names
        for name, image in list(zip(names, clean, strict=True))[::97]:
            difference = from_png(archive.read(name)).astype(int) - image[..., 0]
            assert np.abs(difference).max() <= 1

    as_array = httpx.post(
        f"{server.url}/denoise", files=form, headers={"Accept": "application/x-npy"}, timeout=60
    )
    assert np.abs(from_npy(as_array.content).astype(int) - clean).max() <= 1


def test_npy_is_answered_as_a_zip_where_accepted(server: Server, local_engine: Engine) -> None:
    images = some_images(3)
    headers = {"Content-Type": "application/x-npy", "Accept": "application/zip"}
    answer = httpx.post(f"{server.url}/denoise", content=as_npy(images), headers=headers)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["00000.png", "00001.png", "00002.png"]
        denoised = [from_png(archive.read(name)) for name in archive.namelist()]
    clean = local_engine.denoise(images, dtype="uint8")[..., 0]
    assert np.abs(np.array(denoised).astype(int) - clean).max() <= 1


def test_latents_as_base64(server: Server, local_engine: Engine) -> None:
    images = some_images(20)
    url = f"{server.url}/encode?encoding=base64"
    bodies: list[tuple[dict[str, str], bytes]] = [
        (
            {"Content-Type": "application/json"},
            json.dumps({"images": (images / 255).tolist()}).encode(),
        ),
        ({"Content-Type": "application/x-npy", "Accept": "application/json"}, as_npy(images)),
    ]
    for headers, body in bodies:
        document = httpx.post(url, content=body, headers=headers).json()
        assert document["encoding"] == "base64"
        latents = np.array([np.frombuffer(base64.b64decode(t), "<f4") for t in document["latents"]])
        np.testing.assert_allclose(latents, local_engine.encode(images), **CLOSE)


def encode_png(server: Server, body: bytes, query: str = "") -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return httpx.post(f"{server.url}/encode{query}", content=body, headers=headers)


def latents_of(server: Server, body: bytes, query: str = "") -> Array:
    answer = encode_png(server, body, query)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["latents"], np.float32)


def test_pngs_of_every_mode(server: Server, local_engine: Engine) -> None:
    grey = some_images(1)[0, :, :, 0]
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    rgb = Image.fromarray(np.repeat(grey[..., None], 3, axis=2))
    half = Image.fromarray(np.dstack([grey, np.full_like(grey, 128)]), "LA")
    ground = Image.fromarray(np.dstack([grey, np.zeros_like(grey)]), "LA")
    palette = Image.fromarray(grey).convert("P")
    composed = np.array(
        Image.alpha_composite(
            Image.new("RGBA", (28, 28), (255, 255, 255, 255)), half.convert("RGBA")
        )
    )[:, :, 0]
    for image, pixels in [
        (Image.fromarray(grey), grey),
        (deep, grey),
        (rgb, grey),
        (palette, grey),
        (half, composed),
        (ground, np.full_like(grey, 255)),
        (Image.fromarray(grey > 127), np.where(grey > 127, 255, 0).astype(np.uint8)),
    ]:
        result = latents_of(server, as_png(image))
        latents = local_engine.encode(pixels[None, :, :, None])
        np.testing.assert_allclose(result, latents, err_msg=image.mode, **CLOSE)


def test_fit_and_invert(server: Server, local_engine: Engine) -> None:
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 12:16] = 255
    expected = local_engine.encode(digit[None, :, :, None])
    inverted = as_png(Image.fromarray(255 - digit))
    np.testing.assert_allclose(latents_of(server, inverted, "?invert=true"), expected, **CLOSE)
    twice = as_png(Image.fromarray(digit).resize((56, 56), Image.Resampling.NEAREST))
    for fit in ("contain", "stretch"):
        np.testing.assert_allclose(latents_of(server, twice, f"?fit={fit}"), expected, **CLOSE)
    # A column of the digit's height: contain puts it in the middle, stretch makes it wide.
    column = as_png(Image.fromarray(np.full((28, 4), 255, np.uint8)))
    middle = np.zeros((28, 28), np.uint8)
    middle[:, 12:16] = 255
    for fit, pixels in [("contain", middle), ("stretch", np.full_like(middle, 255))]:
        result = latents_of(server, column, f"?fit={fit}")
        np.testing.assert_allclose(result, local_engine.encode(pixels[None, ..., None]), **CLOSE)
    both = as_png(Image.fromarray(np.full((28, 4), 0, np.uint8)))
    result = latents_of(server, both, "?fit=contain&invert=true")
    np.testing.assert_allclose(result, local_engine.encode(middle[None, ..., None]), **CLOSE)
    refused = encode_png(server, twice)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:denoiser:problem:shape")
    assert "56 × 56" in refused.json()["received"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression_both_ways(server: Server, local_engine: Engine, encoding: str) -> None:
    images = some_images(40)
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    expand = gzip.decompress if encoding == "gzip" else zlib.decompress
    expected = local_engine.encode(images)
    body = json.dumps({"images": (images / 255).tolist()}).encode()
    for content_type, plain in [
        ("application/json", body),
        ("application/x-npy", as_npy(images)),
    ]:
        headers = {
            "Content-Type": content_type,
            "Content-Encoding": encoding,
            "Accept-Encoding": encoding,
        }
        with httpx.stream(
            "POST", f"{server.url}/encode", content=compress(plain), headers=headers
        ) as answer:
            raw = b"".join(answer.iter_raw())
        assert (answer.status_code, answer.headers["content-encoding"]) == (200, encoding)
        if content_type == "application/json":
            result = np.array(json.loads(expand(raw))["latents"], np.float32)
        else:
            result = from_npy(expand(raw))
        np.testing.assert_allclose(result, expected, **CLOSE)


def test_identity_is_not_compressed(server: Server) -> None:
    headers = {"Content-Type": "application/x-npy", "Accept-Encoding": "identity"}
    answer = httpx.post(f"{server.url}/encode", content=as_npy(some_images(40)), headers=headers)
    assert "content-encoding" not in answer.headers


def test_curl_speaks_every_format(server: Server, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    images = some_images(2)
    (tmp_path / "a.png").write_bytes(as_png(images[0]))
    (tmp_path / "b.png").write_bytes(as_png(images[1]))
    (tmp_path / "a.npy").write_bytes(as_npy(images))
    (tmp_path / "a.json").write_bytes(json.dumps({"images": (images / 255).tolist()}).encode())
    (tmp_path / "a.json.gz").write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))

    def curl(*arguments: str) -> bytes:
        command = ["curl", "-sS", "--fail-with-body", "--max-time", "20", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kind(name: str) -> tuple[str, str]:
        return "-H", f"Content-Type: {name}"

    encode, denoise = f"{server.url}/encode", f"{server.url}/denoise"
    results = [
        json.loads(answer)["latents"]
        for answer in (
            curl(encode, *kind("application/json"), "--data-binary", "@a.json"),
            curl(
                encode,
                *kind("application/json"),
                "-H",
                "Content-Encoding: gzip",
                "--data-binary",
                "@a.json.gz",
            ),
            curl(
                encode,
                *kind("application/json"),
                "-T",
                "a.json",
                "-X",
                "POST",
                "-H",
                "Transfer-Encoding: chunked",
            ),
            curl(
                encode,
                "--compressed",
                *kind("application/x-npy"),
                "-H",
                "Accept: application/json",
                "--data-binary",
                "@a.npy",
            ),
            curl(encode, "-F", "one=@a.png", "-F", "two=@b.png"),
        )
    ]
    for latents in results[1:]:
        np.testing.assert_allclose(latents, results[0], **CLOSE)
    assert from_png(curl(denoise, *kind("image/png"), "--data-binary", "@a.png")).shape == (28, 28)
    denoised = from_npy(curl(denoise, *kind("application/x-npy"), "--data-binary", "@a.npy"))
    assert denoised.shape == (2, 28, 28, 1) and denoised.dtype == np.uint8
    with zipfile.ZipFile(
        io.BytesIO(curl(denoise, "-F", "x=@a.png", "-F", "x=@b.png;filename=c d.png"))
    ) as archive:
        assert archive.namelist() == ["a.png", "c d.png"]
