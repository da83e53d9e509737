"""gzip and deflate, both ways: bombs, broken streams, and whom an answer is compressed for."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError, MalformedError, TooLargeError, UnsupportedTypeError
from service.codecs import compression
from service.codecs.compression import PIECE
from service.codecs.steps import finish

TEXT = b"Some text, again. " * 100


def decode(body: bytes, encoding: str, *, limit: int) -> bytes:
    return finish(compression.decode(body, encoding, limit=limit))


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("GZip", gzip.compress(TEXT, mtime=0)),
        (" gzip ", gzip.compress(TEXT, mtime=0)),
        ("x-gzip", gzip.compress(TEXT, mtime=0)),
        ("deflate", zlib.compress(TEXT)),
        ("identity", TEXT),
        ("", TEXT),
    ],
)
def test_encodings_that_are_read(encoding: str, body: bytes) -> None:
    assert decode(body, encoding, limit=len(TEXT)) == TEXT
    if body != TEXT:
        with pytest.raises(TooLargeError, match=str(len(TEXT) - 1)):
            decode(body, encoding, limit=len(TEXT) - 1)


@pytest.mark.parametrize(
    "encoding",
    ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "identity, gzip", "gzip;q=1", "*",
     "x" * 10_000],
)  # fmt: skip
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        decode(gzip.compress(TEXT, mtime=0), encoding, limit=10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [10_000_000, 200_000_000])
def test_a_bomb_allocates_no_more_than_the_limit(encoding: str, size: int) -> None:
    writer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    bomb = b"".join(writer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000))
    bomb += writer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            decode(bomb, encoding, limit=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 2_500_000 + len(bomb)
    finally:
        tracemalloc.stop()


GZIP, DEFLATE = gzip.compress(TEXT, mtime=0), zlib.compress(TEXT)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b""),
        ("gzip", TEXT),
        ("gzip", DEFLATE),
        ("gzip", GZIP[:-1]),
        ("gzip", GZIP[:10]),
        ("gzip", GZIP + b"\0"),
        ("gzip", GZIP + GZIP),
        ("gzip", GZIP[:-6] + bytes([GZIP[-6] ^ 1]) + GZIP[-5:]),
        ("deflate", b""),
        ("deflate", GZIP),
        ("deflate", DEFLATE[:-1]),
        ("deflate", DEFLATE + b"\0"),
        ("deflate", DEFLATE[:-1] + bytes([DEFLATE[-1] ^ 1])),
    ],
)
def test_broken_streams_are_malformed(encoding: str, body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(body, encoding, limit=10_000)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_read_or_refused(body: bytes, encoding: str) -> None:
    for some in (body, GZIP[:10] + body):
        try:
            assert len(decode(some, encoding, limit=100)) <= 100
        except InputError:
            continue


@given(st.binary(max_size=2000), st.sampled_from(["gzip", "deflate"]))
def test_round_trip(body: bytes, encoding: str) -> None:
    packed = finish(compression.encode(body, encoding))
    assert decode(packed, encoding, limit=len(body)) == body
    assert (gzip if encoding == "gzip" else zlib).decompress(packed) == body


BIG = compression.MIN_SIZE


@pytest.mark.parametrize(
    ("accept", "size", "text", "binary"),
    [
        (None, BIG, None, None),
        ("", BIG, None, None),
        ("gzip", BIG - 1, None, None),
        ("gzip", BIG, "gzip", "gzip"),
        ("GZIP", BIG, "gzip", "gzip"),
        ("deflate", BIG, "deflate", "deflate"),
        ("gzip;q=0.5", BIG, "gzip", "gzip"),
        # what browsers, httpx and curl --compressed say by habit: text alone
        ("gzip, deflate", BIG, "gzip", None),
        ("deflate, gzip", BIG, "gzip", None),
        ("gzip, deflate, br, zstd", BIG, "gzip", None),
        # not this one
        ("gzip;q=0", BIG, None, None),
        ("gzip; q = 0", BIG, None, None),
        ("gzip;q=0.0", BIG, None, None),
        ("gzip;q=0.00", BIG, None, None),
        ("gzip;q=0.000", BIG, None, None),
        ("gzip;q=0, deflate", BIG, "deflate", None),
        ("br", BIG, None, None),
        ("identity", BIG, None, None),
        ("gzipx", BIG, None, None),
        ("*;q=0", BIG, None, None),
        ("," * 1000, BIG, None, None),
    ],
)
def test_whom_an_answer_is_compressed_for(
    accept: str | None, size: int, text: str | None, binary: str | None
) -> None:
    assert compression.choose(accept, size, text=True) == text
    assert compression.choose(accept, size, text=False) == binary


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 7])
def test_large_bodies_are_read_in_pieces(size: int) -> None:
    plain = bytes(range(256)) * (size // 256 + 1)
    packed = gzip.compress(plain[:size])
    assert decode(packed, "gzip", limit=size) == plain[:size]
    assert gzip.decompress(finish(compression.encode(plain[:size], "gzip"))) == plain[:size]
    if size:
        with pytest.raises(TooLargeError):
            decode(packed, "gzip", limit=size - 1)
