"""Content negotiation in tables."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import (
    InputError,
    MalformedError,
    NotAcceptableError,
    OptionError,
    ShapeError,
    TooLargeError,
    UnsupportedTypeError,
)
from service.codecs import jsontext, npy, png
from service.codecs.rows import RowSpec
from service.codecs.steps import finish
from service.http import formats
from service.http.formats import FORM, JSON, NPY, OPERATIONS, PNG, ZIP
from service.http.query import PLAIN, Options

ENCODE, DECODE, DENOISE = OPERATIONS["/encode"], OPERATIONS["/decode"], OPERATIONS["/denoise"]


def decode(*arguments: Any, **options: Any) -> formats.Rows:
    return finish(formats.decode(*arguments, **options))


def encode(*arguments: Any, **options: Any) -> bytes:
    return finish(formats.encode(*arguments, **options))


@pytest.mark.parametrize(
    ("content_type", "media_type"),
    [
        (None, JSON),
        ("", JSON),
        ("application/json", JSON),
        ("APPLICATION/Json", JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/json;charset=utf-8", JSON),
        (" application/json ;x", JSON),
        ("application/x-npy", NPY),
        ("Application/X-NPY; version=1", NPY),
        ("image/png", PNG),
        ("IMAGE/PNG;q=1", PNG),
        ("multipart/form-data; boundary=x", FORM),
    ],
)
def test_content_types_that_are_read(content_type: str | None, media_type: str) -> None:
    assert formats.read_type(DENOISE, content_type) == media_type


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/jsonx", "json", "*/*", "image/*", "image/jpeg", ";", "a" * 9999,
     "application/json, application/x-npy", "application/octet-stream", "multipart/mixed",
     "application/vnd.bentoml+pickle"],
)  # fmt: skip
def test_other_content_types_are_refused_with_the_list(content_type: str) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        formats.read_type(DENOISE, content_type)
    assert caught.value.expected == " or ".join((JSON, NPY, PNG, FORM))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("media_type", [PNG, FORM])
def test_latents_do_not_come_as_pictures(media_type: str) -> None:
    with pytest.raises(UnsupportedTypeError, match=media_type):
        formats.read_type(DECODE, media_type)
    assert formats.read_type(ENCODE, media_type) == media_type


NEGOTIATED = [
    # without Accept: the request's type, else JSON
    (DENOISE, None, JSON, JSON),
    (DENOISE, None, NPY, NPY),
    (DENOISE, None, PNG, PNG),
    (DENOISE, "", NPY, NPY),
    (DENOISE, "*/*", NPY, NPY),
    (DENOISE, " */* ", PNG, PNG),
    (ENCODE, None, PNG, JSON),
    (ENCODE, "*/*", PNG, JSON),
    (DECODE, None, NPY, NPY),
    (DENOISE, None, FORM, ZIP),
    (DENOISE, "*/*", FORM, ZIP),
    (ENCODE, None, FORM, JSON),
    (DENOISE, "application/zip", NPY, ZIP),
    (DENOISE, "application/*", FORM, ZIP),
    (DENOISE, "multipart/form-data, application/json;q=0.1", FORM, JSON),
    # one type
    (DENOISE, "application/json", NPY, JSON),
    (DENOISE, "application/x-npy", JSON, NPY),
    (DENOISE, "image/png", JSON, PNG),
    (DENOISE, "Image/PNG", JSON, PNG),
    (DENOISE, "application/json; charset=utf-8", NPY, JSON),
    (DENOISE, "image/png;q=0.001", JSON, PNG),
    # several types
    (DENOISE, "application/json, image/png", PNG, PNG),
    (DENOISE, "application/json, image/png", NPY, JSON),
    (DENOISE, "application/json;q=0.5, image/png", JSON, PNG),
    (DENOISE, "application/json;q=0.5,image/png;q=0.6", JSON, PNG),
    (DENOISE, "application/json ; q=0.7 , image/png ; q=0.6", PNG, JSON),
    (DENOISE, "application/json;Q=0.1, image/png;Q=0.2", JSON, PNG),
    (DENOISE, "text/html, application/x-npy;q=0.1", JSON, NPY),
    (DENOISE, "application/json;v=1;q=0.1, image/png;q=0.2", JSON, PNG),
    # wildcards
    (DENOISE, "image/*", JSON, PNG),
    (DENOISE, "application/*", PNG, JSON),
    (DENOISE, "application/*", NPY, NPY),
    (DENOISE, "text/html, */*;q=0.8", NPY, NPY),
    (DENOISE, "image/*, */*;q=0.5", JSON, PNG),
    (DENOISE, "text/html,application/xhtml+xml,image/webp,*/*;q=0.8", JSON, JSON),
    (DECODE, "image/*;q=0.9, application/*;q=0.8", JSON, PNG),
    # the more specific range counts, whatever the order
    (DENOISE, "application/*, application/json;q=0.1", JSON, NPY),
    (DENOISE, "application/json;q=0.1, application/*", JSON, NPY),
    (DENOISE, "*/*, image/png;q=0.1", PNG, JSON),
    (DENOISE, "*/*;q=0.1, image/*;q=0.2", JSON, PNG),
    (DENOISE, "*/*, application/*;q=0.5", JSON, PNG),
    # q=0: not this one
    (DENOISE, "*/*, application/json;q=0", JSON, NPY),
    (DENOISE, "application/json;q=0, */*;q=0.1", JSON, NPY),
    (DENOISE, "*/*, image/*;q=0", PNG, JSON),
    (DENOISE, "application/*;q=0, image/png;q=0.1", JSON, PNG),
    # a quality that is no number is ignored
    (DENOISE, "application/json;q=high, image/png;q=0.1", JSON, PNG),
    (DENOISE, "application/json;q=nan, image/png;q=0.1", JSON, PNG),
    (DENOISE, ",, application/x-npy ,", JSON, NPY),
]


@pytest.mark.parametrize(("operation", "accept", "request_type", "response_type"), NEGOTIATED)
def test_negotiation(
    operation: formats.Operation, accept: str | None, request_type: str, response_type: str
) -> None:
    assert formats.write_type(operation, accept, request_type) == response_type


@pytest.mark.parametrize(
    ("operation", "accept"),
    [
        (DENOISE, "text/html"),
        (DENOISE, "image/jpeg"),
        (DENOISE, "application/json;q=0"),
        (DENOISE, "*/*;q=0"),
        (DENOISE, "*/*;q=0.0"),
        (DENOISE, "application/json;q=-1"),
        (DENOISE, "application/json;q=nan"),
        (DENOISE, "json"),
        (DENOISE, "*"),
        (DENOISE, "multipart/form-data"),
        (ENCODE, "application/zip"),
        (ENCODE, "image/png"),
        (ENCODE, "image/*"),
        (DENOISE, "x" * 10_000),
    ],
)
def test_nothing_acceptable(operation: formats.Operation, accept: str) -> None:
    with pytest.raises(NotAcceptableError) as caught:
        formats.write_type(operation, accept, JSON)
    assert caught.value.expected == " or ".join(operation.writes)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("operation", "response_type", "received", "option", "dtype"),
    [
        (ENCODE, NPY, np.uint8, None, "float32"),
        (ENCODE, JSON, np.uint8, None, "float32"),
        (ENCODE, NPY, np.float32, "uint8", "float32"),
        (DECODE, NPY, np.float32, None, "float32"),
        (DECODE, NPY, np.float32, "uint8", "uint8"),
        (DECODE, PNG, np.float32, None, "uint8"),
        (DECODE, ZIP, np.float32, "float32", "uint8"),
        (DENOISE, NPY, np.uint8, None, "uint8"),
        (DENOISE, NPY, np.uint8, "float32", "float32"),
        (DENOISE, NPY, np.float32, None, "float32"),
        (DENOISE, JSON, np.uint8, "uint8", "float32"),
        (DENOISE, PNG, np.float32, "float32", "uint8"),
    ],
)
def test_the_dtype_of_an_answer(
    operation: formats.Operation, response_type: str, received: type, option: Any, dtype: str
) -> None:
    options = Options(dtype=option)
    assert formats.answer_dtype(operation, response_type, np.zeros(1, received), options) == dtype


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
GREY = RowSpec("images", (8, 8, 1))


def form(bodies: list[bytes], names: list[str]) -> tuple[bytes, str]:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
        + body
        for name, body in zip(names, bodies, strict=True)
    ]
    return b"\r\n".join([*parts, b"--x--\r\n"]), "multipart/form-data; boundary=x"


def test_one_image_is_a_png_and_two_are_not() -> None:
    one = encode(PIXELS[:1], PNG, DENOISE, names=(), options=PLAIN)
    with Image.open(io.BytesIO(one)) as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS[0, :, :, 0])
    for some in (PIXELS, PIXELS[:0]):
        with pytest.raises(NotAcceptableError, match=f"{len(some)} images as one PNG"):
            encode(some, PNG, DENOISE, names=(), options=PLAIN)


def test_names_go_into_json_and_zip() -> None:
    message = json.loads(encode(PIXELS / 255, JSON, DENOISE, names=("a", "ü", ""), options=PLAIN))
    assert message["names"] == ["a", "ü", ""]
    packed = encode(PIXELS, ZIP, DENOISE, names=("a.png", "ü", ""), options=PLAIN)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.namelist() == ["a.png", "ü.png", "00002.png"]


def test_latents_as_base64_only_where_they_are_asked_for() -> None:
    latents = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    options = Options(encoding="base64")
    message = json.loads(encode(latents, JSON, ENCODE, names=(), options=options))
    found = [np.frombuffer(base64.b64decode(text), "<f4") for text in message["latents"]]
    np.testing.assert_array_equal(found, latents)
    assert message["encoding"] == "base64"
    images = json.loads(encode(PIXELS / 255, JSON, DENOISE, names=(), options=options))
    assert list(images) == ["images"]
    as_npy = encode(latents, NPY, ENCODE, names=(), options=options)
    np.testing.assert_array_equal(np.load(io.BytesIO(as_npy)), latents)


def test_a_form_is_rows_in_order_with_their_names() -> None:
    names = ["b.png", "a.png", "ü.png"]
    body, content_type = form([png.encode(image) for image in PIXELS], names)
    rows = decode(body, FORM, GREY, content_type=content_type, options=PLAIN, max_rows=3)
    np.testing.assert_array_equal(rows.array, PIXELS)
    assert rows.names == tuple(names)
    with pytest.raises(TooLargeError, match="at most 2"):
        decode(body, FORM, GREY, content_type=content_type, options=PLAIN, max_rows=2)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (b"", MalformedError),
        (b"https://example.org/a.png", MalformedError),
        (npy.encode(PIXELS), MalformedError),
        (png.encode(np.zeros((9, 9, 1), np.uint8)), ShapeError),
    ],
)
def test_a_fault_in_a_form_names_the_part(broken: bytes, kind: type[InputError]) -> None:
    bodies = [png.encode(PIXELS[0]), broken, png.encode(PIXELS[1])]
    body, content_type = form(bodies, ["a.png", "b.png", "c.png"])
    with pytest.raises(kind, match=r"part 2 of 3 \(b\.png\)"):
        decode(body, FORM, GREY, content_type=content_type, options=PLAIN, max_rows=9)


@pytest.mark.parametrize("options", [Options(fit="contain"), Options(invert=True)])
def test_arrays_are_neither_fitted_nor_inverted(options: Options) -> None:
    for media_type, body in [(NPY, npy.encode(PIXELS)), (JSON, b'{"images": []}')]:
        with pytest.raises(OptionError, match="fit or invert"):
            decode(body, media_type, GREY, options=options, max_rows=9)
    assert decode(png.encode(PIXELS[0]), PNG, GREY, options=options, max_rows=9).array.shape == (
        1,
        8,
        8,
        1,
    )


@pytest.mark.parametrize("media_type", [NPY, JSON])
def test_rows_are_counted(media_type: str) -> None:
    body = (
        npy.encode(PIXELS) if media_type == NPY else finish(jsontext.encode(PIXELS / 255, "images"))
    )
    assert len(decode(body, media_type, GREY, options=PLAIN, max_rows=3).array) == 3
    with pytest.raises(TooLargeError, match="3 rows; expected at most 2"):
        decode(body, media_type, GREY, options=PLAIN, max_rows=2)


def test_an_operation_reads_and_writes_what_it_can_hold() -> None:
    for operation in OPERATIONS.values():
        assert JSON in operation.writes
        assert NPY in operation.reads
        pictures = {PNG, FORM, ZIP}
        assert not pictures & set(operation.reads) or operation.source == "images"
        assert not pictures & set(operation.writes) or operation.answer == "images"


def test_a_form_of_huge_images_to_be_fitted_is_refused_by_their_headers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = png.encode(np.zeros((64, 64, 1), np.uint8))
    parts = b"".join(
        b"--x\r\nContent-Disposition: form-data\r\n\r\n" + image + b"\r\n" for _ in "ab"
    )
    body, spec = parts + b"--x--\r\n", RowSpec("images", (8, 8, 1))
    how: Any = {"content_type": f"{FORM}; boundary=x", "max_rows": 9}
    fitted = decode(body, FORM, spec, options=Options(fit="contain"), **how)
    assert fitted.array.shape == (2, 8, 8, 1)
    monkeypatch.setattr(formats, "MAX_FITTED", 2 * 64 * 64 - 1)
    with pytest.raises(TooLargeError, match="8,192 pixels"):
        decode(body, FORM, spec, options=Options(fit="contain"), **how)
