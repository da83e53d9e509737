"""Latents out of a Parquet file: who made them, and a fair sample of them in bounded memory."""

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

# Rows that are compared dimension by dimension. What matters in practice shows in that many; with
# millions, differences far too small to matter would raise the alarm as well.
SAMPLE_ROWS = 10_000
# With bundles/mnist, so many are enough to find inverted images and noise half as strong again; a
# missing digit takes 1,000.
MIN_ROWS = 100

COLUMN = "latent"

_MAKE = "Make it with: python -m service encode FOLDER --out latents.parquet."


class TooFewError(InputError):
    """Fewer latents than a comparison needs."""

    status = 422
    title = "Too few latents"


@dataclass(frozen=True)
class Sample:
    """What a file says of its latents, and some of them.

    Attributes:
        path: the file.
        provenance: the model that made the latents, and how images were brought to its shape.
        rows: latents in the file.
        latents: float32 (at most SAMPLE_ROWS, D), finite, in the file's order.
    """

    path: Path
    provenance: Provenance
    rows: int
    latents: Array


def read(path: Path, *, rng: np.random.Generator) -> Sample:
    """Draw SAMPLE_ROWS latents without replacement, or take all of fewer.

    Memory does not grow with the file. The column `latent` is FixedSizeList<float32, D>; who made
    it is in the schema's metadata.

    Raises:
        InputMissingError: no such file.
        MalformedError: not Parquet, or not one of latents.
        TooFewError: fewer than MIN_ROWS rows.
        RangeError: NaN, infinity or null among the latents that were drawn.
        ExtraMissingError: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as exc:
        raise missing("pyarrow", exc) from exc
    if not path.is_file():
        raise InputMissingError(f"no file {path}", expected="a Parquet file", hint=_MAKE)
    try:
        with parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, int(file.metadata.num_rows)
            size = _latent_size(path, schema, arrow)
            provenance = Provenance.from_metadata(schema.metadata)
            if provenance is None:
                raise MalformedError(
                    f"{path} without denoiser.fingerprint in its metadata",
                    expected="latents that name the model which made them",
                    hint=_MAKE,
                )
            if rows < MIN_ROWS:
                raise TooFewError(
                    f"{rows:,} latents in {path}",
                    expected=f"at least {MIN_ROWS}",
                    hint="Collect more: from so few, a change cannot be told from chance.",
                )
            wanted = np.arange(rows)
            if rows > SAMPLE_ROWS:
                wanted = np.sort(rng.choice(rows, SAMPLE_ROWS, replace=False))
            latents = np.concatenate(list(_rows(path, file, size, wanted)))
    except (arrow.ArrowException, OSError) as exc:
        raise MalformedError(
            f"{path}, which does not read as Parquet ({str(exc).splitlines()[0]})",
            expected="a whole Parquet file of latents",
            hint=_MAKE,
        ) from exc
    if not np.isfinite(latents).all():
        raise RangeError(
            f"NaN or infinity among the latents in {path}",
            expected="finite numbers",
            hint="Check what wrote them.",
        )
    return Sample(path, provenance, rows, latents)


def missing(package: str, exc: ImportError) -> ExtraMissingError:
    """What to tell whoever has only the serving install."""
    return ExtraMissingError(
        f"no {package} ({exc})",
        expected="the extra `drift` of pyproject.toml, which the comparison of latents needs",
        hint="Install it: pip install pyarrow scipy matplotlib.",
    )


def _latent_size(path: Path, schema: Any, arrow: Any) -> int:
    """D of the column `latent`: FixedSizeList<float32, D>."""
    found = schema.field(COLUMN).type if COLUMN in schema.names else None
    if (
        found is None
        or not arrow.types.is_fixed_size_list(found)
        or found.value_type != arrow.float32()
    ):
        told = f"columns {', '.join(schema.names)}" if found is None else f"{COLUMN} as {found}"
        raise MalformedError(
            f"{path} with {told}",
            expected=f"a column {COLUMN} of fixed-size lists of float32",
            hint=_MAKE,
        )
    return int(found.list_size)


def _rows(path: Path, file: Any, size: int, wanted: Array) -> Iterator[Array]:
    """The rows with the numbers `wanted`, ascending, as float32 (n, size), batch by batch."""
    start = 0
    for batch in file.iter_batches(batch_size=65_536, columns=[COLUMN]):
        column = batch.column(0)
        here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + len(column))]
        drawn = column.take(here - start)
        values = drawn.flatten()
        if drawn.null_count or values.null_count:
            raise RangeError(
                f"null among the latents in {path}",
                expected="numbers",
                hint="Check what wrote them.",
            )
        yield values.to_numpy().reshape(-1, size)
        start += len(column)
