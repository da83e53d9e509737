"""Content negotiation in tables."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service import formats
from service.errors import NotAcceptableError, UnsupportedTypeError
from service.formats import JSON, NPY, OPERATIONS, PNG

ENCODE, DECODE, DENOISE = OPERATIONS["/encode"], OPERATIONS["/decode"], OPERATIONS["/denoise"]


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
    ],
)
def test_content_types_that_are_read(content_type: str | None, media_type: str) -> None:
    assert formats.read_type(DENOISE, content_type) == media_type


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/jsonx", "json", "*/*", "image/*", "image/jpeg", ";", "a" * 9999,
     "application/json, application/x-npy", "application/octet-stream", "multipart/form-data"],
)  # fmt: skip
def test_other_content_types_are_refused_with_the_list(content_type: str) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        formats.read_type(DENOISE, content_type)
    assert caught.value.expected == f"{JSON} or {NPY} or {PNG}"
    assert len(str(caught.value)) < 400


def test_latents_do_not_come_as_png() -> None:
    with pytest.raises(UnsupportedTypeError, match="image/png"):
        formats.read_type(DECODE, PNG)
    assert formats.read_type(ENCODE, PNG) == PNG


NEGOTIATED = [
    # without a wish: what came, else JSON
    (DENOISE, None, JSON, JSON),
    (DENOISE, None, NPY, NPY),
    (DENOISE, None, PNG, PNG),
    (DENOISE, "", NPY, NPY),
    (DENOISE, "*/*", NPY, NPY),
    (DENOISE, " */* ", PNG, PNG),
    (ENCODE, None, PNG, JSON),
    (ENCODE, "*/*", PNG, JSON),
    (DECODE, None, NPY, NPY),
    # one wish
    (DENOISE, "application/json", NPY, JSON),
    (DENOISE, "application/x-npy", JSON, NPY),
    (DENOISE, "image/png", JSON, PNG),
    (DENOISE, "Image/PNG", JSON, PNG),
    (DENOISE, "application/json; charset=utf-8", NPY, JSON),
    (DENOISE, "image/png;q=0.001", JSON, PNG),
    # many wishes
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
    # a quality that is no number is no wish
    (DENOISE, "application/json;q=high, image/png;q=0.1", JSON, PNG),
    (DENOISE, "application/json;q=nan, image/png;q=0.1", JSON, PNG),
    (DENOISE, ",, application/x-npy ,", JSON, NPY),
]


@pytest.mark.parametrize(("operation", "accept", "came", "goes"), NEGOTIATED)
def test_negotiation(
    operation: formats.Operation, accept: str | None, came: str, goes: str
) -> None:
    assert formats.write_type(operation, accept, came) == goes


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
    ("operation", "goes", "came", "dtype"),
    [
        (ENCODE, NPY, np.uint8, "float32"),
        (ENCODE, JSON, np.uint8, "float32"),
        (DECODE, NPY, np.float32, "float32"),
        (DECODE, PNG, np.float32, "uint8"),
        (DENOISE, NPY, np.uint8, "uint8"),
        (DENOISE, NPY, np.float32, "float32"),
        (DENOISE, JSON, np.uint8, "float32"),
        (DENOISE, PNG, np.float32, "uint8"),
    ],
)
def test_the_dtype_of_an_answer(
    operation: formats.Operation, goes: str, came: type, dtype: str
) -> None:
    assert formats.answer_dtype(operation, goes, np.zeros(1, came)) == dtype


def test_one_image_is_a_png_and_two_are_not() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    with Image.open(io.BytesIO(formats.encode(rows[:1], PNG, DENOISE))) as image:
        np.testing.assert_array_equal(np.asarray(image), rows[0, :, :, 0])
    for some in (rows, rows[:0]):
        with pytest.raises(NotAcceptableError, match=f"{len(some)} images as one PNG"):
            formats.encode(some, PNG, DENOISE)


def test_an_operation_reads_and_writes_what_it_has_codecs_for() -> None:
    for operation in OPERATIONS.values():
        assert set(operation.reads) <= set(formats._DECODERS)
        assert JSON in operation.writes
        assert PNG not in (operation.reads if operation.source == "latents" else ())
        assert PNG not in (operation.writes if operation.answer == "latents" else ())
