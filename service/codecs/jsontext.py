"""JSON: `{"images": [...]}` or `{"latents": [...]}`, numbers only."""

from __future__ import annotations

import numpy as np
import orjson

from service.codecs.rows import Array, RowSpec
from service.errors import DtypeError, MalformedError, ShapeError


def decode(body: bytes, spec: RowSpec) -> Array:
    """The rows under the key `spec.kind`, as float32.

    Raises:
        MalformedError: not JSON (NaN, Infinity and numbers beyond float64 are not), or no such key.
        ShapeError: ragged lists, or another shape. DtypeError: anything that is not a number.
    """
    example = f'{{"{spec.kind}": [[0.0, …], …]}}'
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedError(
            f"a body that is not JSON ({exc})", expected=example, todo="Send valid JSON."
        ) from exc
    if not isinstance(message, dict) or set(message) != {spec.kind}:
        found = sorted(map(str, message)) if isinstance(message, dict) else type(message).__name__
        raise MalformedError(
            f"JSON with {found}"[:200],
            expected=f'an object with the one key "{spec.kind}"',
            todo=f"Send {example}.",
        )
    values = message[spec.kind]
    if not isinstance(values, list):
        raise DtypeError(
            f'"{spec.kind}" as {type(values).__name__}', expected="nested lists of numbers",
            todo=f"Send {example}.",
        )  # fmt: skip
    if b"true" in body or b"false" in body:  # numpy would make numbers of them
        raise DtypeError(
            f'"{spec.kind}" with true or false',
            expected="nested lists of numbers",
            todo="Send 1 and 0.",
        )
    try:
        array = np.asarray(values)
    except ValueError as exc:
        raise ShapeError(
            "lists of unequal lengths",
            expected="rows that all have the same shape",
            todo="Pad or split them.",
        ) from exc
    if array.size == 0 and array.ndim == 1:
        return np.empty((0, *spec.shape), np.float32)
    if array.dtype.kind not in "iuf":
        raise DtypeError(
            f'"{spec.kind}" with values that are not numbers',
            expected="nested lists of numbers",
            todo="Send numbers without quotes, and no null or true.",
        )
    with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which the engine refuses
        return spec.conform(array.astype(np.float32))


def encode(rows: Array, key: str) -> bytes:
    """`{key: rows}`; float32 in the fewest digits that read back to the same float32."""
    array = np.ascontiguousarray(rows)
    return orjson.dumps({key: array}, option=orjson.OPT_SERIALIZE_NUMPY)
