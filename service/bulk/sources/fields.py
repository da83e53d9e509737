"""Which column of a Parquet file holds the rows, and what its footer tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.errors import DtypeError, MalformedError, OptionError, ShapeError
from service.bulk import arrow
from service.bulk.errors import InputMissingError
from service.codecs.rows import RowSpec

# Names that a column of images or latents usually has, tried in this order.
USUAL = {"images": ("image", "images", "bytes"), "latents": ("latent", "latents", "embedding")}


class Footer(NamedTuple):
    """schema, metadata: as Arrow has them. rows: of each row group."""

    schema: Any
    metadata: Mapping[bytes, bytes] | None
    rows: list[int]


def read_footer(path: Path) -> Footer:
    pa = arrow.load()
    try:
        with pa.parquet.ParquetFile(path) as file:
            groups = file.metadata
            rows = [groups.row_group(at).num_rows for at in range(groups.num_row_groups)]
            schema = file.schema_arrow
            return Footer(schema.remove_metadata(), schema.metadata, rows)
    except pa.ArrowException as exc:
        raise MalformedError(
            f"{path} is no Parquet file ({exc})", expected="a whole one", hint="Write it again."
        ) from exc


def choose(schema: Any, spec: RowSpec, path: Path, column: str) -> str:
    """The column that was named, one of a usual name, or the only one that fits."""
    fits = [name for name in schema.names if _fits(schema.field(name).type, spec.kind)]
    if column:
        if column not in fits:
            raise OptionError(
                f"--column {column}",
                expected=f"one of {', '.join(fits) or f'no column of {spec.kind}'} in {path}",
                hint="Correct it.",
            )
        return column
    for name in USUAL[spec.kind]:
        if name in fits:
            return name
    if not fits:
        raise InputMissingError(
            f"{path} with the columns {', '.join(schema.names)}",
            expected=f"a column of {spec.kind}: "
            + ("image files as binary, or lists of numbers" if spec.kind == "images" else "lists"),
            hint="Name another input.",
        )
    if len(fits) > 1:
        raise OptionError(
            f"{path} with several columns of {spec.kind}",
            expected=f"--column with one of {', '.join(fits)}",
            hint="Name the one to read.",
        )
    return str(fits[0])


def _fits(kind: Any, wanted: str) -> bool:
    types = arrow.load().types
    if _is_list(kind):
        number = kind.value_type
        return bool(types.is_floating(number) or (wanted == "images" and types.is_uint8(number)))
    return wanted == "images" and holds_files(kind)


def holds_files(kind: Any) -> bool:
    """Binary, or a struct with a binary field `bytes`, as Hugging Face's datasets write images."""
    pa = arrow.load()
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and holds_files(kind.field(at).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(kind: Any) -> bool:
    types = arrow.load().types
    tests: list[Callable[[Any], bool]] = [
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
    ]
    return any(test(kind) for test in tests)


def number_of(kind: Any, spec: RowSpec, name: str) -> np.dtype[Any]:
    """The dtype that rows of a list column get; float64 becomes float32."""
    pa = arrow.load()
    if pa.types.is_fixed_size_list(kind) and kind.list_size != prod(spec.shape):
        raise ShapeError(
            f"{name} with lists of {kind.list_size} numbers",
            expected=f"{prod(spec.shape)}, for {spec.kind} of shape {spec.shape}",
            hint="Name another column or another bundle.",
        )
    if pa.types.is_uint8(kind.value_type):
        return np.dtype(np.uint8)
    if pa.types.is_floating(kind.value_type):
        return np.dtype(np.float32)
    raise DtypeError(
        f"{name} of {kind}", expected="lists of uint8 or float", hint="Cast the column."
    )
