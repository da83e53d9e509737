"""The footer of a Parquet file, and which of its columns holds the rows."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import MalformedError, OptionError, ShapeError
from service.bulk import arrow
from service.bulk.errors import InputMissingError
from service.bulk.options import IdType
from service.codecs.rows import RowSpec

# Usual names of a column of images or latents, tried in this order.
USUAL = {"images": ("image", "images", "bytes"), "latents": ("latent", "latents", "embedding")}


def read_footer(path: str | Path) -> tuple[Any, Any]:
    """FileMetaData and Schema of a file or URL; `MalformedError` if it is not Parquet."""
    try:
        footer = arrow.parquet.read_metadata(path)
        return footer, footer.schema.to_arrow_schema()
    except (arrow.ArrowException, UnicodeError) as exc:  # UnicodeError: a name that is not UTF-8
        raise MalformedError(f"{path} is no Parquet file ({exc})", expected="a whole one") from exc


def choose(schema: Any, spec: RowSpec, path: str, column: str) -> str:
    """The column named by --column, one of a usual name, or the only one that fits."""
    fitting = [name for name in schema.names if _fits(schema.field(name).type, spec.kind)]
    usual = [name for name in USUAL[spec.kind] if name in fitting]
    types = "lists of numbers, or image files as binary" if spec.kind == "images" else "lists"
    return pick(
        fitting if column else usual[:1] or fitting,
        column,
        received=f"{path} with the columns {', '.join(schema.names)}",
        expected=f"a column of {spec.kind}: {types}",
    )


def pick(fitting: list[str], column: str, *, received: str, expected: str) -> str:
    """The column or array named by --column, or the only one that fits.

    Raises:
        InputMissingError, OptionError: none or several fit; or --column names none of them.
    """
    if not fitting:
        raise InputMissingError(received, expected=expected)
    if column not in fitting and (column or len(fitting) > 1):
        raise OptionError(
            f"--column {column} for {received}" if column else received,
            expected=f"--column with one of {', '.join(fitting)}",
        )
    return column or fitting[0]


def _fits(kind: Any, rows: str) -> bool:
    types = arrow.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        number = kind.value_type
        return bool(types.is_floating(number) or (rows == "images" and types.is_uint8(number)))
    return rows == "images" and holds_files(kind)


def holds_files(kind: Any) -> bool:
    """Binary, or a struct with a binary field `bytes`, as Hugging Face's datasets write images."""
    if arrow.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and holds_files(kind.field(at).type)
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def id_type_of(schema: Any, name: str) -> IdType:
    """Of the column `id`, if there is one: integers stay integers, all else becomes text."""
    at = schema.get_field_index("id")
    kind = schema.field(at).type if at >= 0 else arrow.int64()
    if arrow.types.is_integer(kind):
        return "uint64" if kind == arrow.uint64() else "int64"
    try:
        arrow.nulls(0, kind).cast(arrow.string())
    except arrow.ArrowException as exc:
        received = f"{name} with the column id of type {kind}"
        raise MalformedError(received, expected="integers or text") from exc
    return "string"


def ids_of(column: Any, id_type: IdType) -> Any:
    r"""The ids of a column as `id_type`; bytes that are not UTF-8 become `\xe9`."""
    try:
        return column.cast(id_type)
    except arrow.ArrowInvalid:
        texts = column.cast(arrow.binary()).to_pylist()
        return arrow.array([t and t.decode("utf-8", "backslashreplace") for t in texts], "string")


def number_of(kind: Any, spec: RowSpec, name: str) -> np.dtype[Any]:
    """The dtype of the rows of a list column; float64 becomes float32."""
    types, width = arrow.types, prod(spec.shape)
    if types.is_fixed_size_list(kind) and kind.list_size != width:
        raise ShapeError(
            f"{name} with lists of {kind.list_size} numbers",
            expected=f"{width}, for {spec.kind} of shape {spec.shape}",
            hint="Name another column or another bundle.",
        )
    return np.dtype(np.uint8 if types.is_uint8(kind.value_type) else np.float32)
