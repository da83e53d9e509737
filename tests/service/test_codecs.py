"""Codecs in tables: what each format reads, exactly, and everything that it refuses."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zlib
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from common.errors import DtypeError, InputError, MalformedError, ShapeError
from service.codecs import jsontext, npy, png
from service.codecs.rows import RowSpec
from service.codecs.steps import finish

GREY = RowSpec("images", (8, 8, 1))
COLOUR = RowSpec("images", (12, 8, 3))
SMALL = RowSpec("images", (2, 2, 1))
LATENTS = RowSpec("latents", (4,))


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("spec", "received", "rows"),
    [
        (GREY, (3, 8, 8, 1), 3),
        (GREY, (0, 8, 8, 1), 0),
        (GREY, (8, 8, 1), 1),
        (GREY, (3, 8, 8), 3),
        (GREY, (8, 8), 1),
        (COLOUR, (5, 12, 8, 3), 5),
        (COLOUR, (12, 8, 3), 1),
        (LATENTS, (3, 4), 3),
        (LATENTS, (4,), 1),
        (LATENTS, (4, 4), 4),
        (LATENTS, (0, 4), 0),
    ],
)
def test_accepted_shapes(spec: RowSpec, received: tuple[int, ...], rows: int) -> None:
    array = np.arange(np.prod(received), dtype=np.float32).reshape(received)
    made = spec.conform(array)
    assert made.shape == (rows, *spec.shape)
    np.testing.assert_array_equal(made.ravel(), array.ravel())
    assert array.size == 0 or np.shares_memory(made, array)


@pytest.mark.parametrize(
    ("spec", "received"),
    [
        (GREY, (64,)),
        (GREY, (3, 8, 8, 3)),
        (GREY, (3, 1, 8, 8)),
        (GREY, (1, 3, 8, 8, 1)),
        (GREY, (3, 28, 28, 1)),
        (GREY, ()),
        (GREY, (0,)),
        (COLOUR, (12, 8)),
        (COLOUR, (5, 12, 8)),
        (COLOUR, (5, 8, 12, 3)),
        (COLOUR, (5, 12, 8, 1)),
        (LATENTS, (3, 16)),
        (LATENTS, (3, 4, 1)),
        (LATENTS, (3,)),
    ],
)
def test_refused_shapes_name_both(spec: RowSpec, received: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as caught:
        spec.conform(np.zeros(received, np.float32))
    assert str(received) in caught.value.received
    assert ", ".join(["N", *map(str, spec.shape)]) in caught.value.expected


# ---------------------------------------------------------------- npy


def saved(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def npy_file(header: str, data: bytes = b"", *, version: int = 1, align: int = 64) -> bytes:
    """An npy file whose header says whatever it likes."""
    length = 2 if version == 1 else 4
    text = header.encode() + b"\n"
    text = text[:-1] + b" " * (-(8 + length + len(text)) % align) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def header(shape: str, descr: str = "'|u1'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
UNIT = np.random.default_rng(0).random((3, 8, 8, 1), dtype=np.float32)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("array", [PIXELS, UNIT, PIXELS[:0], UNIT[0], PIXELS[0, :, :, 0]])
def test_npy_reads(array: np.ndarray, version: tuple[int, int]) -> None:
    found = npy.decode(saved(array, version), GREY)
    assert found.dtype == array.dtype
    assert found.shape[1:] == GREY.shape
    np.testing.assert_array_equal(found.ravel(), array.ravel())


def test_npy_is_read_without_a_copy() -> None:
    body = saved(UNIT)
    assert np.shares_memory(npy.decode(body, GREY), np.frombuffer(body, np.uint8))


def test_npy_of_odd_alignment_is_read_right() -> None:
    body = npy_file(header("(3, 8, 8, 1)", "'<f4'"), UNIT.tobytes(), align=1)
    np.testing.assert_array_equal(npy.decode(body, GREY), UNIT)


def test_npy_latents_are_float32_alone() -> None:
    latents = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(npy.decode(saved(latents), LATENTS), latents)
    with pytest.raises(DtypeError, match="expected float32"):
        npy.decode(saved(latents.astype(np.uint8)), LATENTS)


ONE = PIXELS[:1].tobytes()
HUGE = "99999999999999999999999"
NPY_REFUSALS: list[tuple[str, bytes, type[InputError]]] = [
    ("empty body", b"", MalformedError),
    ("BentoML's empty body", b"{}", MalformedError),
    ("magic alone", b"\x93NUMPY", MalformedError),
    ("other magic", b"\x94NUMPY" + saved(PIXELS)[6:], MalformedError),
    ("version 3", saved(PIXELS, (3, 0)), MalformedError),
    ("version 9", b"\x93NUMPY\x09\x00" + saved(PIXELS)[8:], MalformedError),
    ("header cut", saved(PIXELS)[:40], MalformedError),
    ("header longer than the file", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", MalformedError),
    ("header not a dictionary", npy_file("[1, 2]", ONE), MalformedError),
    ("header not Python", npy_file("{'descr': ", ONE), MalformedError),
    ("header calls a function", npy_file("__import__('os').getcwd()", ONE), MalformedError),
    ("header deeply nested", npy_file("(" * 2000 + ")" * 2000, ONE), MalformedError),
    ("header too long", npy_file(header("(1, 8, 8, 1)") + " " * 5000, ONE), MalformedError),
    ("header without a shape", npy_file("{'descr': '|u1', 'fortran_order': False}"),
     MalformedError),
    ("header with bytes that are no text", npy_file(header("(1, 8)")).replace(b"u1", b"\xff1"),
     MalformedError),
    ("unknown dtype", npy_file(header("(1, 8, 8, 1)", "'|q9'"), ONE), MalformedError),
    ("shape of floats", npy_file(header("(1.0, 8, 8, 1)"), ONE), MalformedError),
    ("shape a list", npy_file(header("[1, 8, 8, 1]"), ONE), MalformedError),
    ("truncated by a byte", saved(PIXELS)[:-1], MalformedError),
    ("truncated to the header", npy_file(header("(1, 8, 8, 1)")), MalformedError),
    ("a trailing byte", saved(PIXELS) + b"\0", MalformedError),
    ("two files", saved(PIXELS) * 2, MalformedError),
    ("zero rows and data", saved(PIXELS[:0]) + ONE, MalformedError),
    ("a shape that lies", npy_file(header("(1000000000000, 8, 8, 1)"), ONE), MalformedError),
    ("a shape beyond 64 bits", npy_file(header(f"({HUGE}, 8, 8, 1)"), ONE), MalformedError),
    ("one negative side", npy_file(header("(-1, 8, 8, 1)"), ONE), InputError),
    ("two negative sides", npy_file(header("(-1, -1, 64, 1)"), ONE), InputError),
    ("two negative sides that fit", npy_file(header("(-2, -4, 8, 1)"), ONE), InputError),
    ("a negative side and no rows", npy_file(header("(0, -8, 8, 1)")), InputError),
    ("no rows of impossible size", npy_file(header(f"(0, {HUGE}, 8, 1)")), InputError),
    ("impossibly many rows of nothing", npy_file(header(f"({HUGE}, 0, 8, 1)")), InputError),
    ("a hundred axes", npy_file(header(str((1,) * 100 + (64,))), ONE), InputError),
    ("true as a side", npy_file(header("(True, 9, 8, 1)"), bytes(72)), InputError),
    ("Fortran order", saved(np.asfortranarray(PIXELS)), DtypeError),
    ("big-endian", saved(UNIT.astype(">f4")), DtypeError),
    ("bool", saved(PIXELS > 9), DtypeError),
    ("int8", saved(PIXELS.view(np.int8)), DtypeError),
    ("float16", saved(UNIT.astype(np.float16)), DtypeError),
    ("float64", saved(UNIT.astype(np.float64)), DtypeError),
    ("complex", saved(UNIT.astype(np.complex64)), DtypeError),
    ("text", saved(np.array(["a"])), DtypeError),
    ("dates", saved(np.array(["2026-01-01"], "M8[D]")), DtypeError),
    ("structured", saved(np.zeros(3, [("a", "u1"), ("b", "f4")])), DtypeError),
    ("structured of one field", saved(np.zeros((1, 8, 8, 1), [("a", "u1")])), DtypeError),
    ("arrays inside", npy_file(header("(1, 8)", "('|u1', (8,))"), ONE), DtypeError),
    ("objects", saved(np.array([1, None], object)), DtypeError),
    ("wrong size", saved(np.zeros((1, 9, 9, 1), np.uint8)), ShapeError),
    ("no axes", saved(np.uint8(3).reshape(1)[0:1].reshape(())), ShapeError),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind"), [case[1:] for case in NPY_REFUSALS], ids=[case[0] for case in NPY_REFUSALS]
)
def test_npy_refuses(body: bytes, kind: type[InputError]) -> None:
    with pytest.raises(kind) as caught:
        npy.decode(body, GREY)
    assert len(str(caught.value)) < 1000


class Trap:
    """Unpickling it would leave a trace."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


def test_npy_never_unpickles() -> None:
    body = npy_file(header("(1, 8, 8, 1)", "'|O'"), pickle.dumps([Trap()]))
    with pytest.raises(DtypeError):
        npy.decode(body, GREY)
    assert not Trap.sprung


@pytest.mark.parametrize("shape", ["(10000000000, 8, 8, 1)", f"({HUGE}, 8, 8, 1)"])
def test_npy_allocates_nothing_for_a_shape_that_lies(shape: str) -> None:
    body = npy_file(header(shape, "'<f4'"), ONE)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            npy.decode(body, GREY)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 5), st.just(4))))
def test_npy_round_trip_of_latents(rows: np.ndarray) -> None:
    body = npy.encode(rows)
    assert npy.decode(body, LATENTS).tobytes() == rows.tobytes()
    np.testing.assert_array_equal(np.load(io.BytesIO(body)), rows)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(0, 3), *map(st.just, (8, 8, 1)))))
def test_npy_round_trip_of_images(rows: np.ndarray) -> None:
    np.testing.assert_array_equal(npy.decode(npy.encode(rows), GREY), rows)


@given(st.binary(max_size=300))
def test_npy_of_any_bytes_raises_input_errors_alone(body: bytes) -> None:
    for some in (body, b"\x93NUMPY\x01\x00" + body):
        with pytest.raises(InputError):
            npy.decode(some, GREY)


@given(st.lists(st.integers(-3, 70), max_size=6), st.integers(0, 80))
def test_npy_of_any_shape_raises_input_errors_alone(shape: list[int], size: int) -> None:
    body = npy_file(header(str(tuple(shape))), bytes(size))
    try:
        rows = npy.decode(body, GREY)
    except InputError:
        return
    assert rows.shape == (size // 64, 8, 8, 1)


# ---------------------------------------------------------------- JSON


def as_json(values: Any, key: str = "images") -> bytes:
    return json.dumps({key: values}).encode()


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b'{"images": [[[[0], [0.25]], [[0.5], [1]]]]}', [0, 0.25, 0.5, 1]),
        (b'{"images": [[[0, 0.25], [0.5, 1]]]}', [0, 0.25, 0.5, 1]),
        (b'{"images": [[0, 0.25], [0.5, 1]]}', [0, 0.25, 0.5, 1]),
        (b'\n{ "images"\t: [[[0,1],[1,0]],[[1,1],[0,0]]] }\r\n', [0, 1, 1, 0, 1, 1, 0, 0]),
        (b'{"images": [[-0.0, 1e-50], [1E0, 10e-1]]}', [0, 0, 1, 1]),
        (b'{"\\u0069mages": [[1, 0], [0, 0]]}', [1, 0, 0, 0]),
        (b'{"images": []}', []),
        (b'{"images": [[123456789012345678901234567890, 0], [0, 0]]}', [1.2345679e29, 0, 0, 0]),
        (b'{"images": [[18446744073709551615, -1], [0, 0]]}', [1.8446744e19, -1, 0, 0]),
        (b'{"images": [[1e39, 0], [-1e300, 0]]}', [np.inf, 0, -np.inf, 0]),
    ],
)
def test_json_reads(body: bytes, values: list[float]) -> None:
    found = jsontext.decode(body, SMALL)
    assert found.dtype == np.float32
    assert found.shape == (len(values) // 4, 2, 2, 1)
    np.testing.assert_array_equal(found.ravel(), np.array(values, np.float32))


JSON_REFUSALS: list[tuple[str, bytes, type[InputError]]] = [
    ("empty body", b"", MalformedError),
    ("blank body", b" \n", MalformedError),
    ("not JSON", b"images", MalformedError),
    ("cut", b'{"images": [[0, 1]', MalformedError),
    ("two documents", b'{"images": []}{"images": []}', MalformedError),
    ("not UTF-8", b'{"images": "\xff"}', MalformedError),
    ("UTF-16", '{"images": []}'.encode("utf-16"), MalformedError),
    ("byte order mark", b"\xef\xbb\xbf{}", MalformedError),
    ("NaN", b'{"images": [[NaN, 0], [0, 0]]}', MalformedError),
    ("Infinity", b'{"images": [[Infinity, 0], [0, 0]]}', MalformedError),
    ("-Infinity", b'{"images": [[-Infinity, 0], [0, 0]]}', MalformedError),
    ("1e400", b'{"images": [[1e400, 0], [0, 0]]}', MalformedError),
    ("hexadecimal", b'{"images": [[0x1, 0], [0, 0]]}', MalformedError),
    ("trailing comma", b'{"images": [[0, 0], [0, 0],]}', MalformedError),
    ("nested 5,000 deep", b'{"images":' + b"[" * 5000 + b"]" * 5000 + b"}", MalformedError),
    ("nested 100,000 deep", b"[" * 100_000, MalformedError),
    ("nested 1,000 deep", b'{"images":' + b"[" * 1000 + b"]" * 1000 + b"}", InputError),
    ("nested 100 deep", b'{"images":' + b"[" * 100 + b"0" + b"]" * 100 + b"}", InputError),
    ("null", b"null", MalformedError),
    ("a list", b"[[0, 0], [0, 0]]", MalformedError),
    ("a number", b"3", MalformedError),
    ("a text", b'"images"', MalformedError),
    ("an empty object", b"{}", MalformedError),
    ("another key", as_json([[0, 0], [0, 0]], "image"), MalformedError),
    ("key in capitals", as_json([[0, 0], [0, 0]], "IMAGES"), MalformedError),
    ("the other route's key", as_json([[0, 0, 0, 0]], "latents"), MalformedError),
    ("an extra key", b'{"images": [[0, 0], [0, 0]], "dtype": "uint8"}', MalformedError),
    ("a hundred extra keys", json.dumps(dict.fromkeys(map(str, range(100)))).encode(),
     MalformedError),
    ("null rows", as_json(None), DtypeError),
    ("text as rows", as_json("0000"), DtypeError),
    ("an object as rows", as_json({"0": 0}), DtypeError),
    ("a number as rows", as_json(0.5), DtypeError),
    ("null inside", as_json([[0, None], [0, 0]]), DtypeError),
    ("text inside", as_json([[0, "0"], [0, 0]]), DtypeError),
    ("all text", as_json([["0", "0"], ["0", "0"]]), DtypeError),
    ("all true", as_json([[True, True], [True, True]]), DtypeError),
    ("true among numbers", as_json([[True, 0.5], [0, 0]]), DtypeError),
    ("false among numbers", as_json([[0.5, 0.5], [0, False]]), DtypeError),
    ("an object inside", as_json([[0, {}], [0, 0]]), DtypeError),
    ("only nulls", as_json([None]), DtypeError),
    ("ragged", as_json([[0, 0], [0]]), ShapeError),
    ("ragged in depth", as_json([[0, 0], [0, [0]]]), ShapeError),
    ("ragged between images", as_json([[[0, 0], [0, 0]], [[0, 0]]]), ShapeError),
    ("list of an empty list", as_json([[]]), ShapeError),
    ("wrong size", as_json([[0, 0, 0], [0, 0, 0]]), ShapeError),
    ("flat", as_json([0, 0, 0, 0]), ShapeError),
    ("five axes", as_json([[[[[0], [0]], [[0], [0]]]]]), ShapeError),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind"), [case[1:] for case in JSON_REFUSALS], ids=[case[0] for case in JSON_REFUSALS]
)
def test_json_refuses(body: bytes, kind: type[InputError]) -> None:
    with pytest.raises(kind) as caught:
        jsontext.decode(body, SMALL)
    assert len(str(caught.value)) < 1000


FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 5), st.just(4)), elements=FINITE))
def test_json_round_trip_is_exact_to_the_last_bit(rows: np.ndarray) -> None:
    body = finish(jsontext.encode(rows, "latents"))
    assert list(json.loads(body)) == ["latents"]
    np.testing.assert_array_equal(jsontext.decode(body, LATENTS), rows)


def test_json_writes_few_digits() -> None:
    assert finish(jsontext.encode(np.array([[0.1, 0.5]], np.float32), "latents")) == (
        b'{"latents":[[0.1,0.5]]}'
    )


def test_json_of_arrays_that_are_not_contiguous() -> None:
    rows = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert json.loads(finish(jsontext.encode(rows[:, ::-1][:1], "latents")))["latents"] == [
        [3, 2, 1, 0]
    ]
    assert json.loads(finish(jsontext.encode(rows[:0], "latents"))) == {"latents": []}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_json_of_any_values_raises_input_errors_alone(values: Any) -> None:
    for body in (json.dumps(values).encode(), as_json(values)):
        try:
            rows = jsontext.decode(body, SMALL)
        except InputError:
            continue
        assert rows.dtype == np.float32
        assert rows.shape[1:] == (2, 2, 1)


# ---------------------------------------------------------------- PNG


def as_png(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def one_colour(mode: str, colour: Any, size: tuple[int, int] = (8, 12)) -> Image.Image:
    """An image of width 8, height 12."""
    return Image.new(mode, size, colour)


def palette(index: int) -> Image.Image:
    image = Image.new("P", (8, 12), index)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


RED_LUMA, GREEN_LUMA = 76, 150  # ITU-R 601: 0.299 and 0.587 of 255
PNG_MODES: list[tuple[str, bytes, int, tuple[int, int, int]]] = [
    ("1-bit white", as_png(one_colour("1", 1)), 255, (255, 255, 255)),
    ("1-bit black", as_png(one_colour("1", 0)), 0, (0, 0, 0)),
    ("grey", as_png(one_colour("L", 77)), 77, (77, 77, 77)),
    ("grey, one value transparent", as_png(one_colour("L", 77), transparency=77), 255, (255,) * 3),
    ("grey, another value transparent", as_png(one_colour("L", 77), transparency=9), 77, (77,) * 3),
    ("grey with alpha, opaque", as_png(one_colour("LA", (77, 255))), 77, (77, 77, 77)),
    ("grey with alpha, half", as_png(one_colour("LA", (200, 128))), 227, (227,) * 3),
    ("grey with alpha, clear", as_png(one_colour("LA", (200, 0))), 255, (255,) * 3),
    ("palette red", as_png(palette(0)), RED_LUMA, (255, 0, 0)),
    ("palette green", as_png(palette(1)), GREEN_LUMA, (0, 255, 0)),
    ("palette, transparent", as_png(palette(1), transparency=1), 255, (255,) * 3),
    ("palette, another transparent", as_png(palette(1), transparency=0), GREEN_LUMA, (0, 255, 0)),
    ("palette with alpha", as_png(palette(1), transparency=bytes([0, 128, 255])), 202,
     (127, 255, 127)),
    ("RGB", as_png(one_colour("RGB", (10, 200, 30))), 124, (10, 200, 30)),
    ("RGB, one colour transparent",
     as_png(one_colour("RGB", (10, 200, 30)), transparency=(10, 200, 30)), 255, (255,) * 3),
    ("RGBA, opaque", as_png(one_colour("RGBA", (10, 200, 30, 255))), 124, (10, 200, 30)),
    ("RGBA, half", as_png(one_colour("RGBA", (10, 200, 30, 128))), 189, (132, 227, 142)),
    ("RGBA, clear", as_png(one_colour("RGBA", (10, 200, 30, 0))), 255, (255,) * 3),
    ("16-bit white", as_png(one_colour("I;16", 65535)), 255, (255, 255, 255)),
    ("16-bit black", as_png(one_colour("I;16", 0)), 0, (0, 0, 0)),
    ("16-bit, half a step up", as_png(one_colour("I;16", 257 * 100 + 129)), 101, (101,) * 3),
    ("16-bit, half a step down", as_png(one_colour("I;16", 257 * 100 + 128)), 100, (100,) * 3),
    ("interlaced words and gamma", as_png(one_colour("L", 77), dpi=(72, 72)), 77, (77, 77, 77)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "grey", "colour"), [case[1:] for case in PNG_MODES], ids=[c[0] for c in PNG_MODES]
)
def test_png_modes(body: bytes, grey: int, colour: tuple[int, int, int]) -> None:
    as_grey = png.decode(body, RowSpec("images", (12, 8, 1)))
    assert as_grey.dtype == np.uint8
    assert as_grey.shape == (1, 12, 8, 1)
    assert set(as_grey.ravel()) == {grey}
    as_colour = png.decode(body, COLOUR)
    assert as_colour.shape == (1, 12, 8, 3)
    assert {tuple(pixel) for pixel in as_colour.reshape(-1, 3)} == {colour}


@pytest.mark.parametrize("spec", [RowSpec("images", (12, 8, 1)), COLOUR])
def test_png_round_trip_keeps_every_pixel_in_its_place(spec: RowSpec) -> None:
    image = np.random.default_rng(0).integers(0, 256, spec.shape, dtype=np.uint8)
    body = png.encode(image)
    assert body.startswith(b"\x89PNG")
    np.testing.assert_array_equal(png.decode(body, spec), image[None])
    with Image.open(io.BytesIO(body)) as stored:
        assert (stored.mode, stored.size) == ("L" if spec.shape[-1] == 1 else "RGB", (8, 12))


def test_png_of_16_bit_pixels_rounds_each(tmp_path: Any) -> None:
    deep = (np.arange(96) * 682).astype(np.uint16).reshape(12, 8)
    found = png.decode(as_png(Image.fromarray(deep)), RowSpec("images", (12, 8, 1)))
    np.testing.assert_array_equal(found[0, :, :, 0], np.rint(deep / 257).astype(np.uint8))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    start = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", start)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def as_format(kind: str) -> bytes:
    stream = io.BytesIO()
    one_colour("L", 77).save(stream, kind)
    return stream.getvalue()


def with_text_bomb() -> bytes:
    words = PngImagePlugin.PngInfo()
    words.add_text("bomb", "a" * 80_000_000, zip=True)
    return as_png(one_colour("L", 0), pnginfo=words)


WHOLE = as_png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 8), dtype=np.uint8)))
PNG_REFUSALS: list[tuple[str, bytes, type[InputError]]] = [
    ("empty body", b"", MalformedError),
    ("BentoML's empty body", b"{}", MalformedError),
    ("JPEG", as_format("JPEG"), MalformedError),
    ("GIF", as_format("GIF"), MalformedError),
    ("BMP", as_format("BMP"), MalformedError),
    ("signature alone", WHOLE[:8], MalformedError),
    ("header alone", WHOLE[:33], MalformedError),
    ("half", WHOLE[: len(WHOLE) // 2], MalformedError),
    ("pixels cut short", png_header(8, 12).replace(b"IDAT", b"IDAx"), MalformedError),
    ("wrong checksum", WHOLE[:29] + b"\0\0\0\0" + WHOLE[33:], MalformedError),
    ("no size", png_header(0, 0), InputError),
    ("other size", as_png(Image.new("L", (9, 12))), ShapeError),
    ("width and height exchanged", as_png(Image.new("L", (12, 8))), ShapeError),
    ("one pixel", as_png(Image.new("L", (1, 1))), ShapeError),
    ("30,000 × 30,000", png_header(30_000, 30_000), InputError),
    ("9,000 × 9,000", png_header(9_000, 9_000), ShapeError),
    ("2³¹ - 1 wide", png_header(2**31 - 1, 1), InputError),
    ("80 MB of text in 80 kB", with_text_bomb(), MalformedError),
]


@pytest.mark.parametrize(
    ("body", "kind"), [case[1:] for case in PNG_REFUSALS], ids=[case[0] for case in PNG_REFUSALS]
)
def test_png_refuses(body: bytes, kind: type[InputError]) -> None:
    with pytest.raises(kind) as caught:
        png.decode(body, RowSpec("images", (12, 8, 1)))
    assert len(str(caught.value)) < 500


def test_png_sizes_are_told_as_people_write_them() -> None:
    with pytest.raises(ShapeError, match=r"9 × 12 pixels; expected 8 × 12"):
        png.decode(as_png(Image.new("L", (9, 12))), COLOUR)


@pytest.mark.parametrize("side", [9_000, 30_000])
def test_png_of_another_size_is_never_decoded(side: int) -> None:
    body = png_header(side, side)
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            png.decode(body, COLOUR)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_png_with_any_one_byte_changed_reads_or_is_an_input_error(at: int, change: int) -> None:
    body = bytearray(WHOLE)
    body[at] ^= change
    try:
        rows = png.decode(bytes(body), RowSpec("images", (12, 8, 1)))
    except InputError:
        return
    assert rows.shape == (1, 12, 8, 1)


@given(st.binary(max_size=100))
def test_png_of_any_bytes_raises_input_errors_alone(body: bytes) -> None:
    for some in (body, WHOLE[:8] + body, WHOLE[:41] + body):
        with pytest.raises(InputError):
            png.decode(some, COLOUR)
