"""gzip and deflate, both ways, with a limit on the decompressed size."""

from __future__ import annotations

import io
import re
import zlib

from common.errors import MalformedError, TooLargeError, UnsupportedTypeError
from service.codecs.steps import Steps

# zlib's window bits: 31 reads and writes gzip, 15 the zlib format that HTTP calls deflate.
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}

MIN_SIZE = 1024  # bytes; a smaller response saves no packet by compression
PIECE = 2**22  # bytes compressed or decompressed in one step
LEVEL = 1  # the fastest: digits of floats hardly compress


def decode(body: bytes, encoding: str, *, limit: int) -> Steps[bytes]:
    """The body without its Content-Encoding; in steps of at most PIECE decompressed bytes.

    Raises:
        UnsupportedTypeError: another encoding, or several. MalformedError: damaged or truncated.
        TooLargeError: more than `limit` bytes when decompressed; no more are ever allocated.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOW:
        raise UnsupportedTypeError(f"Content-Encoding {name!r}"[:80], expected="gzip or deflate")
    reader = zlib.decompressobj(_WINDOW[name])
    plain, size, rest = io.BytesIO(), 0, body
    try:
        while not reader.eof and size <= limit:
            room = min(PIECE, limit + 1 - size)
            written = plain.write(reader.decompress(rest, room))
            size, rest = size + written, reader.unconsumed_tail
            if written < room:  # the input is used up
                break
            yield
    except zlib.error as exc:
        raise MalformedError(
            f"a {name} body that does not decompress",
            expected=f"a whole {name} stream",
        ) from exc
    if size > limit:
        raise TooLargeError(
            f"a {name} body of {len(body)} bytes that expands beyond {limit}",
            expected=f"at most {limit} bytes",
            hint="Send fewer rows per request.",
        )
    if not reader.eof or reader.unused_data:
        raise MalformedError(
            f"a {name} body that is truncated or has bytes after its end",
            expected=f"one whole {name} stream",
        )
    return plain.getvalue()  # its buffer, not a copy


def choose(accept_encoding: str | None, size: int, *, text: bool) -> str | None:
    """The encoding for a response of `size` bytes, or None.

    Most HTTP clients accept several encodings by default. Compressing floats saves a quarter of the
    bytes and takes longer than computing them, so anything but text is compressed only for a client
    that names a single encoding, which is deliberate.
    """
    if not accept_encoding or size < MIN_SIZE:
        return None
    accepted = {}
    for item in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        accepted[name] = not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", p) for p in parameters)
    if not text and len(accepted) > 1:
        return None
    return next((name for name in ("gzip", "deflate") if accepted.get(name)), None)


def encode(body: bytes, encoding: str) -> Steps[bytes]:
    """The body compressed as "gzip" or "deflate"; in steps."""
    writer = zlib.compressobj(LEVEL, zlib.DEFLATED, _WINDOW[encoding])
    packed = []
    for start in range(0, len(body), PIECE):
        if start:
            yield
        packed.append(writer.compress(body[start : start + PIECE]))
    return b"".join((*packed, writer.flush()))
