"""JSON in and out: sizes up to the limit, damaged bodies, writing in pieces."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DtypeError, InputError, MalformedError, ShapeError, TooLargeError
from service.codecs import jsontext
from service.codecs.rows import RowSpec

SMALL = RowSpec("images", (2, 2, 1))
WHOLE = 10**9


ROW = b"[[0.5,1],[0,0.25]]"
FEW = b",".join([ROW] * 9)
MANY = b",".join([ROW] * 40_000)  # some 0.7 MB


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
    "filling", [b"[", b"]", b"[]", b"[],", b"{", b'"', b",", b"0", b"0,", b"[[0],", b'{"a":']
)
def test_a_large_body_of_one_thing_is_refused(filling: bytes) -> None:
    for start, end in [(b"", b""), (b'{"images":[', b"]}")]:
        body = start + filling * (2_000_000 // len(filling)) + end
        with pytest.raises(InputError):
            jsontext.decode(body, SMALL)


def test_json_is_limited_and_the_refusal_names_npy() -> None:
    body = b'{"images":[%s]}' % b",".join([ROW] * 250_000)
    with pytest.raises(TooLargeError, match="x-npy"):
        jsontext.decode(body, SMALL)
    largest = b'{"images":[%s]}' % ROW
    largest = largest.ljust(jsontext.MAX_BYTES)
    assert jsontext.decode(largest, SMALL).shape == (1, 2, 2, 1)
    with pytest.raises(TooLargeError):
        jsontext.decode(largest + b" ", SMALL)


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
        message: dict[str, Any] = json.loads(write(rows, "latents", names))
        assert message["names"] == list(names)
        assert "names" not in json.loads(write(rows, "latents"))


def test_base64_is_little_endian_float32_a_row() -> None:
    rows = np.array([[1, -0.0, np.float32(1e-45)], [3e38, 5, 6]], np.float32)
    message = json.loads(jsontext.encode_base64(rows, "latents"))
    assert list(message) == ["latents", "encoding"]
    found = b"".join(base64.b64decode(text) for text in message["latents"])
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
    expected = by_the_book(body)
    if expected is None:
        with pytest.raises(InputError):
            jsontext.decode(body, SMALL)
    else:
        np.testing.assert_array_equal(jsontext.decode(body, SMALL), expected, err_msg=repr(body))


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
