"""Latents of a Parquet file: their provenance, and a random sample of them in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Array
from common.errors import InputError, MalformedError, RangeError
from service.bulk.errors import ExtraMissingError, InputMissingError
from service.bulk.provenance import Provenance

# Rows that are compared dimension by dimension. They show every difference that matters; with
# millions of rows, the tests would also detect differences that are far too small to matter.
SAMPLE_ROWS = 10_000
# With bundles/mnist, so many are enough to detect inverted images and noise 1.5 times as strong; a
# missing digit takes 1,000.
MIN_ROWS = 100

COLUMN = "latent"

_CREATE_HINT = "Create it with: python -m service encode FOLDER --out latents.parquet."


class TooFewError(InputError):
    """Fewer latents than a comparison needs."""

    status = 422
    title = "Too few latents"


@dataclass(frozen=True)
class Sample:
    """A sample of a file's latents.

    Attributes:
        path: the file.
        provenance: the model of the latents, and the preprocessing of the images.
        rows: latents in the file.
        latents: float32 (at most SAMPLE_ROWS, D), finite, in the file's order.
    """

    path: Path
    provenance: Provenance
    rows: int
    latents: Array


def read(path: Path, *, rng: np.random.Generator) -> Sample:
    """Draw SAMPLE_ROWS latents without replacement, or take all of fewer.

    Memory does not grow with the file. The column `latent` is FixedSizeList<float32, D>; its
    provenance is in the schema's metadata.

    Raises:
        InputMissingError: no such file.
        MalformedError: not Parquet, or not latents.
        TooFewError: fewer than MIN_ROWS rows.
        RangeError: NaN, infinity or null in the sample.
        ExtraMissingError: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as exc:
        raise missing("pyarrow", exc) from exc
    if not path.is_file():
        raise InputMissingError(f"no file {path}", expected="a Parquet file", hint=_CREATE_HINT)
    try:
        with parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, int(file.metadata.num_rows)
            size = _latent_size(path, schema, arrow)
            provenance = Provenance.from_metadata(schema.metadata)
            if provenance is None:
                raise MalformedError(
                    f"{path} without denoiser.fingerprint in its metadata",
                    expected="latents with the fingerprint of their model",
                    hint=_CREATE_HINT,
                )
            if rows < MIN_ROWS:
                raise TooFewError(
                    f"{rows:,} latents in {path}",
                    expected=f"at least {MIN_ROWS}",
                    hint="Collect more: with so few, a change is not distinguishable from chance.",
                )
            indices = np.arange(rows)
            if rows > SAMPLE_ROWS:
                indices = np.sort(rng.choice(rows, SAMPLE_ROWS, replace=False))
            latents = np.concatenate(list(_rows(path, file, size, indices)))
    except (arrow.ArrowException, OSError) as exc:
        raise MalformedError(
            f"{path}, which is not valid Parquet ({str(exc).splitlines()[0]})",
            expected="a whole Parquet file of latents",
            hint=_CREATE_HINT,
        ) from exc
    if not np.isfinite(latents).all():
        raise RangeError(
            f"NaN or infinity among the latents in {path}",
            expected="finite numbers",
        )
    return Sample(path, provenance, rows, latents)


def missing(package: str, exc: ImportError) -> ExtraMissingError:
    """The error for a package that the serving install does not have."""
    return ExtraMissingError(
        f"no {package} ({exc})",
        expected="the extra `drift` of pyproject.toml, which the comparison of latents needs",
        hint="Install it: pip install pyarrow scipy matplotlib.",
    )


def _latent_size(path: Path, schema: Any, arrow: Any) -> int:
    """D of the column `latent`: FixedSizeList<float32, D>."""
    column = schema.field(COLUMN).type if COLUMN in schema.names else None
    if (
        column is None
        or not arrow.types.is_fixed_size_list(column)
        or column.value_type != arrow.float32()
    ):
        received = f"{COLUMN} as {column}" if column else f"columns {', '.join(schema.names)}"
        raise MalformedError(
            f"{path} with {received}",
            expected=f"a column {COLUMN} of fixed-size lists of float32",
            hint=_CREATE_HINT,
        )
    return int(column.list_size)


def _rows(path: Path, file: Any, size: int, indices: Array) -> Iterator[Array]:
    """The rows at the ascending `indices`, as float32 (n, size), batch by batch."""
    start = 0
    for batch in file.iter_batches(batch_size=65_536, columns=[COLUMN]):
        column = batch.column(0)
        first, last = np.searchsorted(indices, (start, start + len(column)))
        rows = column.take(indices[first:last] - start)
        values = rows.flatten()
        if rows.null_count or values.null_count:
            raise RangeError(
                f"null among the latents in {path}",
                expected="numbers",
            )
        yield values.to_numpy().reshape(-1, size)
        start += len(column)
