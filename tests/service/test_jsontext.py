"""JSON bodies: layouts, refusals, the size limit; writing in pieces. More in test_codecs.py."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.arrays import Array
from common.errors import DtypeError, InputError, MalformedError, ShapeError, TooLargeError
from service.codecs import jsontext
from service.codecs.rows import RowSpec
from service.codecs.steps import finish
from service.engine import Engine
from tests.support.asgi import post
from tests.support.tiny import some_images

SMALL = RowSpec("images", (2, 2, 1))
LATENTS = RowSpec("latents", (3,))

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
    return spaced(b"{" + spaced(b'"latents"') + b":" + spaced(b"[" + inside + b"]") + b"}")


@given(layouts())
def test_any_layout_is_read(body: bytes) -> None:
    rows = jsontext.decode(body, LATENTS)
    assert rows.dtype == np.float32
    expected = np.array(json.loads(body)["latents"], np.float64).reshape(-1, 3)
    np.testing.assert_array_equal(rows, expected.astype(np.float32))


def reference(body: bytes) -> Array | None:
    """What Python's parser and numpy read in a body; None where they refuse it."""
    try:
        message = json.loads(body.decode())
        rows = np.asarray(message["images"])
        valid = list(message) == ["images"] and rows.dtype.kind in "iuf"
        return SMALL.conform(rows.astype(np.float32)) if valid or not rows.size else None
    except (ValueError, KeyError, TypeError, InputError):
        return None


DAMAGE = [b"", b",", b"[", b"]", b"],[", b"]],[[", b"]]],[[[", b"]]]],[[[[", b"0", b" ", b"[0]"]


@given(st.integers(1, 3), st.booleans(), st.data())
def test_damaged_images_are_read_as_the_reference_reads_them(
    count: int, spaces: bool, data: st.DataObject
) -> None:
    images = np.arange(count * 4).reshape(count, 2, 2, 1).tolist()
    separators = (", ", ": ") if spaces else (",", ":")
    body = json.dumps({"images": images}, separators=separators).encode()
    start = data.draw(st.integers(10, len(body) - 1))
    end = start + data.draw(st.integers(0, 5))
    body = body[:start] + data.draw(st.sampled_from(DAMAGE)) + body[end:]
    expected = reference(body)
    if expected is None:
        with pytest.raises(InputError):
            jsontext.decode(body, SMALL)
    else:
        np.testing.assert_array_equal(jsontext.decode(body, SMALL), expected, err_msg=repr(body))


ROW = b"[[0.5,1],[0,0.25]]"


@pytest.mark.parametrize("count", [9, 40_000])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"images":[%s]}', None),
        (b' {\n"images" :\t[ %s ] } \r\n', None),
        (b'{"images":[%s %s]}', MalformedError),
        (b'{"images":[%s,]}', MalformedError),
        (b'{"images":[%s', MalformedError),
        (b'{"images":[%s]}}', MalformedError),
        (b'{"images":[%s]}{"images":[]}', MalformedError),
        (b'{"images":[%s],"dtype":"uint8"}', MalformedError),
        (b'{"latents":[%s]}', MalformedError),
        (b"[%s]", MalformedError),
        (b'{"images":[%s,[[0.5,NaN],[0,0]]]}', MalformedError),
        (b'{"images":[%s,[[0.5,1e400],[0,0]]]}', MalformedError),
        (b'{"images":[%s,"a"]}', InputError),
        (b'{"images":[[["a","b"],["c","d"]],%s]}', DtypeError),
        (b'{"images":[%s,[[0.5,true],[0,0]]]}', DtypeError),
        (b'{"images":[%s,[[0.5,null],[0,0]]]}', DtypeError),
        (b'{"images":[%s,null]}', InputError),
        (b'{"images":[%s,[[0.5,1],[0]]]}', ShapeError),
        (b'{"images":[%s,[]]}', ShapeError),
        (b'{"images":[[%s]]}', ShapeError),
    ],
)
def test_refusals_are_the_same_for_few_and_many_rows(
    body: bytes, kind: type[InputError] | None, count: int
) -> None:
    whole = body.replace(b"%s", b",".join([ROW] * count))
    if kind is None:
        assert jsontext.decode(whole, SMALL).shape == (count, 2, 2, 1)
        return
    with pytest.raises(kind) as caught:
        jsontext.decode(whole, SMALL)
    assert len(str(caught.value)) < 1000


def test_a_body_over_the_limit_is_refused_with_a_hint_to_npy() -> None:
    body = b'{"images":[%s]}' % ROW
    assert len(jsontext.decode(body.ljust(jsontext.MAX_JSON), SMALL)) == 1
    with pytest.raises(TooLargeError, match="npy"):
        jsontext.decode(body.ljust(jsontext.MAX_JSON + 1), SMALL)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_the_service_refuses_json_over_the_limit(engine: Engine, encoding: str) -> None:
    body = json.dumps({"images": some_images(1).tolist()}).encode()
    for size, status in ((jsontext.MAX_JSON, 200), (jsontext.MAX_JSON + 1, 413)):
        sent = body.ljust(size) if encoding == "identity" else gzip.compress(body.ljust(size))
        reply = post(engine, "/encode", sent, headers={"content-encoding": encoding})
        assert reply.status == status
    assert "npy" in reply.json["hint"] or encoding == "gzip"


@pytest.mark.parametrize(
    "filling", [b"[", b"]", b"[]", b"[],", b"{", b'"', b",", b"0", b"0,", b"[[0],", b'{"a":']
)
def test_a_large_body_of_one_thing_is_refused(filling: bytes) -> None:
    for start, end in [(b"", b""), (b'{"images":[', b"]}")]:
        body = start + filling * (2_000_000 // len(filling)) + end
        with pytest.raises(InputError):
            jsontext.decode(body, SMALL)


@pytest.mark.parametrize("size", [0, 1, 7, 100])
@pytest.mark.parametrize("piece", [1, 200, 10**9])
def test_writing_in_pieces_is_writing_at_once(
    size: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).normal(size=(size, 2, 2, 1)).astype(np.float32)
    whole = finish(jsontext.encode(rows, "images"))
    monkeypatch.setattr(jsontext, "PIECE", piece)
    assert finish(jsontext.encode(rows, "images")) == whole
    np.testing.assert_array_equal(jsontext.decode(whole, SMALL), rows)


@pytest.mark.parametrize(
    "names", [("a.png", "b.png"), ("ü", "数"), ('"', "\\"), ("\0", "\n"), ("", "")]
)
def test_names_are_written_after_the_rows(names: tuple[str, str]) -> None:
    rows = np.ones((2, 3), np.float32)
    for write in (lambda *rest: finish(jsontext.encode(*rest)), jsontext.encode_base64):
        message: dict[str, Any] = json.loads(write(rows, "latents", names))
        assert message["names"] == list(names)
        assert "names" not in json.loads(write(rows, "latents"))


def test_base64_is_little_endian_float32_per_row() -> None:
    rows = np.array([[1, -0.0, np.float32(1e-45)], [3e38, 5, 6]], np.float32)
    message = json.loads(jsontext.encode_base64(rows, "latents"))
    assert list(message) == ["latents", "encoding"]
    data = b"".join(base64.b64decode(text) for text in message["latents"])
    assert data == rows.astype("<f4").tobytes()
    assert json.loads(jsontext.encode_base64(rows[:0], "latents"))["latents"] == []


@pytest.mark.parametrize("size", [3, 400_000])
def test_empty_lists_are_a_wrong_shape_and_not_malformed(size: int) -> None:
    body = b'{"images":[' + b",".join([b"[]"] * size) + b"]}"
    with pytest.raises(ShapeError):
        jsontext.decode(body, RowSpec("images", (28, 28, 1)))
