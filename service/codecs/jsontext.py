"""JSON: `{"images": [...]}` or `{"latents": [...]}`, numbers only, for small requests.

A parser holds the interpreter lock and makes an object of each number, so that other requests wait:
some 10 ms a megabyte. Larger arrays travel as npy.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from common.arrays import Array
from common.errors import DtypeError, MalformedError, ShapeError, TooLargeError
from service.codecs.rows import RowSpec

MAX_BYTES = 4 * 2**20  # of a request's JSON, also under /v2
PIECE = 256 * 1024  # bytes written at once: a millisecond or two


def decode(body: bytes, spec: RowSpec) -> Array:
    """The rows under the key `spec.kind`, as float32.

    Raises:
        TooLargeError: more than MAX_BYTES.
        MalformedError: not JSON (NaN, Infinity and numbers beyond float64 are not), or no such key.
        ShapeError: ragged lists, or another shape. DtypeError: anything that is not a number.
    """
    check_size(len(body))
    _refuse_booleans(body, spec)
    message, folded = _parse(body, spec)
    if not isinstance(message, dict) or set(message) != {spec.kind}:
        keys = sorted(map(str, message)) if isinstance(message, dict) else type(message).__name__
        raise MalformedError(
            f"JSON with {keys}"[:200],
            expected=f'an object with the one key "{spec.kind}"',
            hint=f"Send {_example(spec)}.",
        )
    values = message[spec.kind]
    if not isinstance(values, list):
        raise DtypeError(
            f'"{spec.kind}" as {type(values).__name__}',
            expected="nested lists of numbers",
            hint=f"Send {_example(spec)}.",
        )
    if not values:
        return np.empty((0, *spec.shape), np.float32)
    return spec.conform(_array(values, spec, folded=folded))


def check_size(size: int) -> None:
    """Refuse JSON of more than MAX_BYTES.

    Raises:
        TooLargeError
    """
    if size > MAX_BYTES:
        raise TooLargeError(
            f"{size} bytes of JSON",
            expected=f"at most {MAX_BYTES}",
            hint="Send larger arrays as application/x-npy, or as binary tensors under /v2.",
        )


def encode(rows: Array, key: str, names: Sequence[str] = (), scores: Array | None = None) -> bytes:
    """`{key: rows}`, and `names` and `scores`, float32 (N,), where there are any.

    float32 is written in the fewest digits that read back to the same float32.
    """
    each = max(1, PIECE // (20 * max(1, rows[0].size))) if len(rows) else 1
    pieces = [_dumps(rows[at : at + each]) for at in range(0, len(rows), each)]
    joined = b",".join(piece[1:-1] for piece in pieces)
    return b'{"%s":[%s]%s%s}' % (key.encode(), joined, _names(names), _scores(scores))


def encode_base64(
    rows: Array, key: str, names: Sequence[str] = (), scores: Array | None = None
) -> bytes:
    """As `encode`, each row as base64 of its little-endian float32 bytes: a third of the size."""
    texts = [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in rows]
    tail = _names(names) + _scores(scores)
    return b'{"%s":%s,"encoding":"base64"%s}' % (key.encode(), orjson.dumps(texts), tail)


def _names(names: Sequence[str]) -> bytes:
    return b',"names":' + orjson.dumps([*names]) if names else b""


def _scores(scores: Array | None) -> bytes:
    return b',"scores":' + _dumps(scores) if scores is not None else b""


def _dumps(rows: Array) -> bytes:
    """Rows as nested lists.

    A list for each number of a one-channel image costs five times the number itself, so those
    brackets are put in afterwards: `a,b` becomes `a],[b`, and `],[` between rows `]],[[`.
    """
    one_channel = rows.ndim == 4 and rows.shape[-1] == 1
    plain = np.ascontiguousarray(rows[..., 0] if one_channel else rows)
    text = orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"[%s]" % text.replace(b",", b"],[") if one_channel else text


def _without_channel(text: bytes, spec: RowSpec) -> bytes | None:
    """The inverse of what `_dumps` does to one-channel images, or None where it does not apply.

    What comes out has one pair of brackets too many around the rows. Each comma of the text must
    separate two one-number lists, so that no other nesting is taken for this one.
    """
    if len(spec.shape) != 3 or spec.shape[-1] != 1 or spec.shape[-2] == 1:
        return None
    text = text.replace(b", ", b",")  # as Python's json writes; there are no strings with commas
    if b"],[" not in text or text.count(b"],[") != text.count(b","):
        return None
    return text.replace(b"],[", b",")


def _array(values: list[Any], spec: RowSpec, *, folded: bool) -> Array:
    """Parsed values as float32, with the channel axis that was folded away."""
    return _numbers(_unfolded(values, spec), spec)[..., None] if folded else _numbers(values, spec)


def _unfolded(values: list[Any], spec: RowSpec) -> list[Any]:
    """The rows inside the pair of brackets too many: a second item was outside the rows' list."""
    if len(values) != 1 or not isinstance(values[0], list):
        raise _not_json("unexpected character behind the rows", spec)
    rows: list[Any] = values[0]
    return rows


def _refuse_booleans(body: bytes, spec: RowSpec) -> None:
    if b"true" in body or b"false" in body:  # numpy would make numbers of them
        raise DtypeError(
            f'"{spec.kind}" with true or false',
            expected="nested lists of numbers",
            hint="Send 1 and 0.",
        )


def _parse(text: bytes, spec: RowSpec) -> tuple[Any, bool]:
    """The parsed text, and whether its channel axis was folded away."""
    folded = _without_channel(text, spec)
    if folded is not None:
        try:
            return orjson.loads(folded), True
        except orjson.JSONDecodeError:
            pass  # the error of the original text is the one that helps
    return _loads(text, spec), False


def _loads(text: bytes, spec: RowSpec) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise _not_json(str(exc), spec) from exc


def _not_json(reason: str, spec: RowSpec) -> MalformedError:
    return MalformedError(f"a body that is not JSON ({reason})", expected=_example(spec))


def _numbers(values: list[Any], spec: RowSpec) -> Array:
    """Nested lists of numbers as float32."""
    try:
        array = np.asarray(values)
    except ValueError as exc:
        raise ShapeError(
            "lists of unequal lengths",
            expected="rows that all have the same shape",
            hint="Pad or split them.",
        ) from exc
    if array.dtype.kind not in "iuf":
        raise DtypeError(
            f'"{spec.kind}" with values that are not numbers',
            expected="nested lists of numbers",
            hint="Send numbers without quotes, and no null or true.",
        )
    with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which the engine refuses
        return array.astype(np.float32)


def _example(spec: RowSpec) -> str:
    return f'{{"{spec.kind}": [[0.0, …], …]}}'
