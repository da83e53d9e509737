"""Large JSON, read and written piece by piece: the same as in one piece, always."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DtypeError, InputError, MalformedError, ShapeError
from service.codecs import jsontext
from service.codecs.rows import RowSpec

SMALL = RowSpec("images", (2, 2, 1))
LATENTS = RowSpec("latents", (3,))
WHOLE = 10**9


def read(body: bytes, spec: RowSpec, piece: int) -> np.ndarray | type[InputError]:
    """The rows, or the kind of refusal, with pieces of that size."""
    before, jsontext.PIECE = jsontext.PIECE, piece
    try:
        return jsontext.decode(body, spec)
    except InputError as exc:
        return type(exc)
    finally:
        jsontext.PIECE = before


def same(body: bytes, spec: RowSpec, piece: int) -> None:
    whole, pieces = read(body, spec, WHOLE), read(body, spec, piece)
    if isinstance(whole, np.ndarray):
        assert isinstance(pieces, np.ndarray), (body, pieces)
        assert (whole.dtype, whole.shape) == (pieces.dtype, pieces.shape)
        np.testing.assert_array_equal(whole, pieces)
    else:
        assert isinstance(pieces, type), (body, whole)


SPACE = st.text(" \t\r\n", max_size=4).map(str.encode)
NUMBER = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.integers(-5, 5).map(str),
).map(str.encode)


@st.composite
def layouts(draw: st.DrawFn) -> bytes:
    """Rows of LATENTS, with white space wherever JSON allows it."""

    def spaced(token: bytes) -> bytes:
        return draw(SPACE) + token + draw(SPACE)

    rows = []
    for _ in range(draw(st.integers(0, 6))):
        numbers = b",".join(spaced(draw(NUMBER)) for _ in range(3))
        rows.append(spaced(b"[" + numbers + b"]"))
    inside = b",".join(rows) or draw(SPACE)
    body = spaced(b'"latents"') + b":" + spaced(b"[" + inside + b"]")
    tail = b" " * draw(st.sampled_from([0, 3, 63, 64, 65, 200]))
    return spaced(b"{" + body + b"}") + tail


@given(layouts(), st.integers(1, 60))
def test_any_layout_cut_anywhere_reads_as_one_piece(body: bytes, piece: int) -> None:
    whole = read(body, LATENTS, WHOLE)
    assert isinstance(whole, np.ndarray)
    same(body, LATENTS, piece)


@given(layouts(), st.integers(1, 60), st.data())
def test_any_damaged_layout_is_refused_where_one_piece_is(
    body: bytes, piece: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(body) - 1))
    damage = data.draw(st.sampled_from([b"", b",", b"[", b"]", b"{", b"}", b'"', b"0", b"x", b" "]))
    same(body[:at] + damage + body[at + data.draw(st.integers(0, 2)) :], LATENTS, piece)


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
@pytest.mark.parametrize("nested", [True, False])
def test_images_cut_anywhere(piece: int, nested: bool) -> None:
    images = np.random.default_rng(0).random((30, 2, 2, 1), dtype=np.float32)
    values = images.tolist() if nested else images[..., 0].tolist()
    ways: list[dict[str, Any]] = [{"indent": 1}, {"separators": (",", ":")}, {}]
    for layout in ways:
        body = json.dumps({"images": values}, **layout).encode()
        found = read(body, SMALL, piece)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, images)


ROW = b"[[0.5,1],[0,0.25]]"
FEW = b",".join([ROW] * 9)
MANY = b",".join([ROW] * 40_000)  # more than 2 · PIECE


def test_the_tables_below_go_the_way_of_large_bodies() -> None:
    assert len(MANY) > 2 * jsontext.PIECE


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"images":[%s]}', None),
        (b' {\n"images" :\t[ %s ] } \r\n', None),
        (b'{"images":[%s]}' + b"\n" * 500, None),
        (b'{"images":[%s %s]}', MalformedError),
        (b'{"images":[%s%s]}', MalformedError),
        (b'{"images":[%s,,%s]}', MalformedError),
        (b'{"images":[%s;%s]}', MalformedError),
        (b'{"images":[,%s]}', MalformedError),
        (b'{"images":[%s,]}', MalformedError),
        (b'{"images":[%s, ]}', MalformedError),
        (b'{"images":[%s', MalformedError),
        (b'{"images":[%s]', MalformedError),
        (b'{"images":[%s]}}', MalformedError),
        (b'{"images":[%s]]}', MalformedError),
        (b'{"images":[%s]} x', MalformedError),
        (b'{"images":[%s]}{"images":[]}', MalformedError),
        (b'{"images":[%s],"dtype":"uint8"}', MalformedError),
        (b'{"dtype":"uint8","images":[%s]}', MalformedError),
        (b'{"images":[%s],"more":[%s]}', MalformedError),
        (b'{"latents":[%s]}', MalformedError),
        (b"[%s]", MalformedError),
        (b"\xef\xbb\xbf" + b'{"images":[%s]}', MalformedError),
        (b'{"images":[%s,[[0.5,NaN],[0,0]]]}', MalformedError),
        (b'{"images":[%s,[[0.5,1e400],[0,0]]]}', MalformedError),
        (b'{"images":[%s,\xff]}', MalformedError),
        (b'{"images":[%s,"a"]}', InputError),
        (b'{"images":["a]",%s]}', InputError),
        (b'{"images":["]]]]}",%s,"[[[["]}', InputError),
        (b'{"images":[[["a","b"],["c","d"]],%s]}', DtypeError),
        (b'{"images":[%s,[[0.5,true],[0,0]]]}', DtypeError),
        (b'{"images":[%s,[[0.5,null],[0,0]]]}', DtypeError),
        (b'{"images":[%s,[[0.5,{}],[0,0]]]}', DtypeError),
        (b'{"images":[%s,null]}', InputError),
        (b'{"images":[%s,0.5]}', InputError),
        (b'{"images":[%s,[[0.5,1],[0]]]}', ShapeError),
        (b'{"images":[%s,[[0.5,1]]]}', ShapeError),
        (b'{"images":[%s,[]]}', ShapeError),
        (b'{"images":[%s,[[0,0],[0,[0]]]]}', ShapeError),
        (b'{"images":[[0,0,0],%s]}', ShapeError),
        (b'{"images":[[%s]]}', ShapeError),
    ],
)
def test_what_is_refused_in_small_is_refused_in_large(
    body: bytes, kind: type[InputError] | None, rows: bytes
) -> None:
    whole = body.replace(b"%s", rows)
    if kind is None:
        assert jsontext.decode(whole, SMALL).shape[1:] == (2, 2, 1)
        return
    with pytest.raises(kind) as caught:
        jsontext.decode(whole, SMALL)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "filling", [b"[", b"]", b"[]", b"[],", b"{", b'"', b",", b" ", b"0", b"0,", b"[[0],", b'{"a":']
)
def test_a_large_body_of_one_thing_is_refused(filling: bytes) -> None:
    for start, end in [(b"", b""), (b'{"images":[', b"]}")]:
        body = start + filling * (2_000_000 // len(filling)) + end
        with pytest.raises(InputError):
            jsontext.decode(body, SMALL)


@pytest.mark.parametrize("filling", [b"0,", b"0.5,", b"[0],", b"[0.5,1],"])
def test_a_row_without_an_end_is_not_parsed(filling: bytes) -> None:
    """A list of millions of numbers would be gigabytes of objects."""
    body = b'{"images":[[' + filling * (8_000_000 // len(filling)) + b"0]]}"
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            jsontext.decode(body, SMALL)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


def test_a_large_body_needs_little_beside_its_rows() -> None:
    body = b'{"images":[%s]}' % b",".join([ROW] * 200_000)
    tracemalloc.start()
    try:
        rows = jsontext.decode(body, SMALL)
        assert tracemalloc.get_traced_memory()[1] < 4 * rows.nbytes + 16 * jsontext.PIECE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 7, 100])
@pytest.mark.parametrize("piece", [1, 200, WHOLE])
def test_writing_in_pieces_is_writing_at_once(
    size: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).normal(size=(size, 2, 2, 1)).astype(np.float32)
    whole = jsontext.encode(rows, "images")
    monkeypatch.setattr(jsontext, "PIECE", piece)
    assert jsontext.encode(rows, "images") == whole
    np.testing.assert_array_equal(jsontext.decode(whole, SMALL), rows)


@pytest.mark.parametrize(
    "names", [("a.png", "b.png"), ("ü", "数"), ('"', "\\"), ("\0", "\n"), ("", "")]
)
def test_names_are_written_behind_the_rows(names: tuple[str, str]) -> None:
    rows = np.ones((2, 3), np.float32)
    for write in (jsontext.encode, jsontext.encode_base64):
        told: dict[str, Any] = json.loads(write(rows, "latents", names))
        assert told["names"] == list(names)
        assert "names" not in json.loads(write(rows, "latents"))


def test_base64_is_little_endian_float32_a_row() -> None:
    rows = np.array([[1, -0.0, np.float32(1e-45)], [3e38, 5, 6]], np.float32)
    told = json.loads(jsontext.encode_base64(rows, "latents"))
    assert list(told) == ["latents", "encoding"]
    found = b"".join(base64.b64decode(text) for text in told["latents"])
    assert found == rows.astype("<f4").tobytes()
    assert json.loads(jsontext.encode_base64(rows[:0], "latents"))["latents"] == []


def by_the_book(body: bytes) -> np.ndarray | None:
    """What Python's own parser and numpy make of a body, None where they refuse it."""
    try:
        message = json.loads(body.decode())
        rows = np.asarray(message["images"])
        kinds = list(message) == ["images"] and rows.dtype.kind in "iuf"
        return SMALL.conform(rows.astype(np.float32)) if kinds or not rows.size else None
    except (ValueError, KeyError, TypeError, InputError):
        return None


DAMAGE = [b"", b",", b"[", b"]", b"],[", b"]],[[", b"]]],[[[", b"]]]],[[[[", b"0", b" ", b"[0]"]


@given(st.integers(1, 3), st.booleans(), st.data())
def test_one_channel_images_read_as_by_the_book(count: int, spaces: bool, data: Any) -> None:
    images = np.arange(count * 4).reshape(count, 2, 2, 1).tolist()
    separators = (", ", ": ") if spaces else (",", ":")
    body = json.dumps({"images": images}, separators=separators).encode()
    at = data.draw(st.integers(10, len(body) - 1))
    cut = data.draw(st.integers(0, 5))
    body = body[:at] + data.draw(st.sampled_from(DAMAGE)) + body[at + cut :]
    wanted = by_the_book(body)
    for piece in (WHOLE, 30, 7):
        found = read(body, SMALL, piece)
        if wanted is None:
            assert isinstance(found, type), body
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=repr(body))


@pytest.mark.parametrize(
    "rows",
    [
        b"[[[[0],[0]],[[0],[0]]]],[[[[1],[1]],[[1],[1]]]]",
        b"[[[[0],[0]],[[0],[0]]]],[[[1],[1]],[[1],[1]]]",
        b"[[[0],[0]],[[0],[0]]],[[[1],[1]],[[1],[1]]]",
        b"[[0,0],[0,0]],[[1,1],[1,1]]",
    ],
)
def test_rows_behind_the_rows_are_no_json(rows: bytes) -> None:
    with pytest.raises(MalformedError):
        jsontext.decode(b'{"images":%s}' % rows, SMALL)


@pytest.mark.parametrize("size", [3, 400_000])
def test_empty_lists_are_a_wrong_shape_and_not_broken_json(size: int) -> None:
    body = b'{"images":[' + b",".join([b"[]"] * size) + b"]}"
    with pytest.raises(ShapeError):
        jsontext.decode(body, RowSpec("images", (28, 28, 1)))
