"""gzip and deflate, both ways, with a cap on what a body may expand to."""

from __future__ import annotations

import re
import zlib

from common.errors import MalformedError, TooLargeError, UnsupportedTypeError

# zlib's window bits: 31 reads and writes gzip, 15 the zlib format that HTTP calls deflate.
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}

WORTHWHILE = 1024  # bytes; below this a compressed answer saves no packet
LEVEL = 1  # the cheapest: digits of floats are nearly noise


def decode(body: bytes, encoding: str, *, limit: int) -> bytes:
    """The body without its Content-Encoding.

    Raises:
        UnsupportedTypeError: another encoding, or several. MalformedError: broken or cut short.
        TooLargeError: it expands beyond `limit` bytes; no more than that is ever allocated.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOW:
        raise UnsupportedTypeError(
            f"Content-Encoding {name!r}"[:80], expected="gzip or deflate", hint="Use one of them."
        )
    reader = zlib.decompressobj(_WINDOW[name])
    try:
        plain = reader.decompress(body, limit + 1)
    except zlib.error as exc:
        raise MalformedError(
            f"a {name} body that does not decompress",
            expected=f"a whole {name} stream",
            hint="Compress it again.",
        ) from exc
    if len(plain) > limit:
        raise TooLargeError(
            f"a {name} body of {len(body)} bytes that expands beyond {limit}",
            expected=f"at most {limit} bytes",
            hint="Send fewer rows at a time.",
        )
    if not reader.eof or reader.unused_data:
        raise MalformedError(
            f"a {name} body that is cut short or has bytes behind its end",
            expected=f"one whole {name} stream",
            hint="Compress it again.",
        )
    return plain


def choose(accept_encoding: str | None, size: int, *, text: bool) -> str | None:
    """The encoding for an answer of `size` bytes, or None.

    Most HTTP clients accept several encodings by habit. Float bytes shrink by a quarter at a cost
    beyond that of computing them, so anything but text is compressed only for a client that names
    a single encoding, as one does on purpose.
    """
    if not accept_encoding or size < WORTHWHILE:
        return None
    asked = {}
    for item in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        asked[name] = not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", p) for p in parameters)
    if not text and len(asked) > 1:
        return None
    return next((name for name in ("gzip", "deflate") if asked.get(name)), None)


def encode(body: bytes, encoding: str) -> bytes:
    """The body compressed as "gzip" or "deflate"."""
    writer = zlib.compressobj(LEVEL, zlib.DEFLATED, _WINDOW[encoding])
    return writer.compress(body) + writer.flush()
