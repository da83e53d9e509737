"""JSON: `{"images": [...]}` or `{"latents": [...]}`, numbers only."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from common.arrays import Array, Floats
from common.errors import DtypeError, MalformedError, ShapeError, TooLargeError
from service.codecs.rows import RowSpec
from service.codecs.steps import Steps

# A parser holds the interpreter lock, about 10 ms per MB, and creates an object for each number.
MAX_JSON = 4 * 2**20  # bytes of JSON in one request, also under /v2
PIECE = 256 * 1024  # bytes written at once: 1 to 2 ms
MAX_NUMBER = 16  # bytes that a float32 takes at most, with its comma: -1.1754944e-38,


def decode(body: bytes, spec: RowSpec) -> Floats:
    """The rows under the key `spec.kind`, as float32 (N, *spec.shape).

    Raises:
        TooLargeError: more than MAX_JSON bytes.
        MalformedError: not JSON (which has no NaN or Infinity), or other keys.
        ShapeError: lists of unequal lengths, or another shape.
        DtypeError: anything that is not a number.
    """
    example = f'{{"{spec.kind}": [[0.0, …], …]}}'
    if len(body) > MAX_JSON:
        raise TooLargeError(
            f"{len(body):,} bytes of JSON",
            expected=f"at most {MAX_JSON:,}",
            hint="Send npy (application/x-npy), which is smaller and faster.",
        )
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedError(f"a body that is not JSON ({exc})", expected=example) from exc
    if not isinstance(message, dict) or set(message) != {spec.kind}:
        received = sorted(message) if isinstance(message, dict) else type(message).__name__
        raise MalformedError(
            f"JSON with {received}"[:200],
            expected=f'an object with the one key "{spec.kind}"',
            hint=f"Send {example}.",
        )
    values = message[spec.kind]
    if not isinstance(values, list):
        raise DtypeError(
            f'"{spec.kind}" as {type(values).__name__}',
            expected="nested lists of numbers",
            hint=f"Send {example}.",
        )
    if b"true" in body or b"false" in body:
        raise booleans(spec.kind)
    array = numbers(values, spec.kind) if values else np.empty((0, *spec.shape))
    return to_float32(spec.conform(array))


def numbers(values: list[Any], name: str) -> Array:
    """Nested lists of numbers as an integer or float64 array; booleans count as numbers.

    Raises:
        ShapeError, DtypeError.
    """
    try:
        array = np.asarray(values)
    except ValueError as exc:
        raise ShapeError(
            f'"{name}" with lists of unequal lengths',
            expected="rows of the same shape",
            hint="Pad or split them.",
        ) from exc
    if array.size and array.dtype.kind not in "iuf":
        raise DtypeError(
            f'"{name}" with values that are not numbers',
            expected="nested lists of numbers",
            hint="Send numbers without quotes, and no null or true.",
        )
    return array


def booleans(name: str) -> DtypeError:
    """The error for true and false, which numpy would convert to numbers."""
    return DtypeError(
        f'"{name}" with true or false', expected="nested lists of numbers", hint="Send 1 and 0."
    )


def to_float32(array: Array) -> Floats:
    """As float32; numbers beyond its range become infinity, which the engine refuses."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def encode(
    rows: Array, key: str, names: Sequence[str] = (), scores: Array | None = None
) -> Steps[bytes]:
    """`{key: rows}`, with `names` and `scores`, float32 (N,), where there are any.

    float32 is written in the fewest digits that read back to the same float32. Rows are written in
    pieces, so that other threads run in between, and in steps.
    """
    size = max(1, PIECE // (20 * max(1, rows[0].size))) if len(rows) else 1
    pieces = []
    for start in range(0, len(rows), size):
        if start:
            yield
        pieces.append(_dumps(rows[start : start + size])[1:-1])
    joined = b",".join(pieces)
    return b'{"%s":[%s]%s}' % (key.encode(), joined, _tail(names, scores))


def flat(array: Array) -> Steps[bytes]:
    """All numbers of a float32 array, separated by commas; in steps."""
    numbers, size = array.reshape(-1), PIECE // 20
    pieces = []
    for start in range(0, len(numbers), size):
        if start:
            yield
        piece = np.ascontiguousarray(numbers[start : start + size])
        pieces.append(orjson.dumps(piece, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
    return b",".join(pieces)


def encode_base64(
    rows: Array, key: str, names: Sequence[str] = (), scores: Array | None = None
) -> bytes:
    """As `encode`, each row as base64 of its little-endian float32 bytes: a third of the size."""
    texts = [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in rows]
    tail = _tail(names, scores)
    return b'{"%s":%s,"encoding":"base64"%s}' % (key.encode(), orjson.dumps(texts), tail)


def _tail(names: Sequence[str], scores: Array | None) -> bytes:
    tail = b',"names":' + orjson.dumps([*names]) if names else b""
    return tail + b',"scores":' + _dumps(scores) if scores is not None else tail


def _dumps(rows: Array) -> bytes:
    """Rows as nested lists.

    A list for each number of a one-channel image costs five times as much as the number, so those
    brackets are inserted afterwards: `a,b` becomes `a],[b`, and `],[` between rows `]],[[`.
    """
    one_channel = rows.ndim == 4 and rows.shape[-1] == 1
    array = np.ascontiguousarray(rows[..., 0] if one_channel else rows)
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"[%s]" % text.replace(b",", b"],[") if one_channel else text
