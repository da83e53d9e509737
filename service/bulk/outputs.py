"""The formats of an output, and how parts become one.

name                     latents                          images
`x.parquet`              one Parquet file                 one Parquet file
`x.parquet/`, `x/`       a folder of Parquet files        `x.parquet/`: the same
`x.npy`                  float32 (N, L), `x.npy.json`,    uint8 or float32 (N, H, W, C), the same
                         `x.npy.ids.csv`                  files beside it
`x/`, `x`                —                                a folder of PNG files, `denoiser.json`
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import count
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy_format

from service.bulk import arrow
from service.bulk.decoding.imagefile import is_picture
from service.bulk.errors import OutputNameError
from service.bulk.options import Kind
from service.bulk.provenance import FOLDER_FILE, Provenance
from service.bulk.work import Work

Format = Literal["parquet", "parquet-folder", "npy", "png-folder"]

GROUP_ROWS = 65_536  # in one row group of Parquet
GROUP_BYTES = 64 * 2**20
FILE_ROWS = 2**20  # in one file of a Parquet folder
MAX_PART, MAX_NAME = 240, 1000  # bytes of a file's name, characters of its path in a PNG folder
PART_NAME = re.compile(r"part-\d{5,}\.parquet")  # of such a file


def format_of(out: str, kind: Kind) -> Format:
    """The format that an output's name asks for.

    Raises:
        OutputNameError: no format has this name, or the format cannot hold the rows.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    folder = out.endswith("/") or path.is_dir()
    if path.name and path.name != "..":
        if folder and (kind == "latents" or suffix == ".parquet"):
            return "parquet-folder"
        if folder or (kind == "images" and not suffix):
            return "png-folder"
        if suffix == ".parquet":
            return "parquet"
        if suffix == ".npy":
            return "npy"
    expected, hint = "a name that ends in .parquet, .npy or /", ""
    if kind == "images":
        expected = "a name that ends in .parquet or .npy, or one without an ending for PNG files"
    elif suffix == ".csv":
        table = path.with_suffix(".parquet")
        hint = f"Write {table}, then: duckdb -c \"COPY (FROM '{table}') TO '{out}'\""
    raise OutputNameError(f"--out {out} for {kind}", expected=expected, hint=hint)


def assemble(
    output_format: Format, result: Path, work: Work, *, rows: int, existing: Sequence[Path] = ()
) -> None:
    """Write the output from the parts, `rows` in all, to the temporary path `result`.

    Files beside the output get names that begin with it. `existing` are the files of a Parquet
    folder to which this output is added. All of it is on disk when this returns.
    """
    tables = work.parts.tables(range(work.source.units))
    provenance = Provenance.of(work.model.manifest, work.options)
    if output_format == "npy":
        _npy(result, work, tables, rows)
        provenance.write(result.with_suffix(".json"))
    elif output_format == "png-folder":
        _png_folder(result, tables, provenance)
    else:
        schema = work.schema.with_metadata(provenance.as_metadata())
        if output_format == "parquet":
            _parquet(result, schema, _grouped(tables))
        else:
            _parquet_folder(result, schema, _grouped(tables), existing)
    if result.is_dir():
        os.sync()  # one call instead of one for each of perhaps a million files
        return
    for path in [result, *result.parent.glob("result.*")]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _parquet_folder(
    result: Path, schema: Any, groups: Iterator[Any], existing: Sequence[Path]
) -> None:
    """Files of FILE_ROWS rows or a little more, after the existing ones, which do not change."""
    result.mkdir()
    for number, path in enumerate(existing):
        (result / f"part-{number:05d}.parquet").hardlink_to(path)
    for number in count(len(existing)):
        path = result / f"part-{number:05d}.parquet"
        if not _parquet(path, schema, groups, limit=FILE_ROWS):
            break
    if number:
        path.unlink()  # without rows


def _parquet(path: Path, schema: Any, groups: Iterator[Any], *, limit: float = inf) -> int:
    """Write groups until the file has `limit` rows, or none are left; its rows."""
    rows = 0
    with arrow.parquet.ParquetWriter(
        path,
        schema,
        compression="snappy",
        use_dictionary=False,  # latents hardly repeat; trying costs more than writing
        write_statistics=["id"],
    ) as writer:
        while rows < limit and (group := next(groups, None)) is not None:
            writer.write_table(group.cast(schema), row_group_size=GROUP_ROWS)
            rows += group.num_rows
    return rows


def _grouped(tables: Iterable[Any]) -> Iterator[Any]:
    """Small tables joined to row groups of a useful size."""
    held: list[Any] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        size += table.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield arrow.concat_tables(held)
            held, rows, size = [], 0, 0
    if rows:
        yield arrow.concat_tables(held)


def _npy(result: Path, work: Work, tables: Iterable[Any], rows: int) -> None:
    schema, column = work.schema, work.schema.names[1]
    dtype = np.dtype(schema.field(column).type.value_type.to_pandas_dtype())
    shape = (rows, *work.model.manifest.row_shape(work.columns.kind))
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    others = [name for name in schema.names if name != column]
    ids_schema = arrow.schema([schema.field(name) for name in others])
    ids_path = result.with_suffix(".ids.csv")
    with result.open("wb") as file, arrow.csv.CSVWriter(ids_path, ids_schema) as ids:
        npy_format.write_array_header_1_0(file, header)
        for table in tables:
            for chunk in table.column(column).chunks:
                file.write(memoryview(chunk.flatten().to_numpy()).cast("B"))
            ids.write_table(table.select(others))


def _png_folder(result: Path, tables: Iterable[Any], provenance: Provenance) -> None:
    """One file for each image, named after its id: `a/b.jpg` becomes `a/b.png`."""
    result.mkdir()
    provenance.write(result / FOLDER_FILE)  # first: an id may have the same name
    numbers: Counter[Path] = Counter()
    for table in tables:
        ids, images = table.column("id").to_pylist(), table.column("image").to_pylist()
        for name, body in zip(ids, images, strict=True):
            name = f"{name:08d}" if isinstance(name, int) else name or ""
            _free_path(result, name, numbers).write_bytes(body)


def _free_path(folder: Path, name: str, numbers: Counter[Path]) -> Path:
    """Inside `folder`, for any name; beside `a.png`, `a.jpg` becomes `a.jpg.png`, `a.jpg-2.png`.

    A name that is too long, or in a folder whose name a file has, is cut and gets a hash.
    `numbers` are the last ones that names with several files got.
    """
    parts = [part for part in name.replace("\0", "�").split("/") if part not in ("", ".", "..")]
    last = parts.pop() if parts else "image"
    path = folder.joinpath(*parts, f"{last.rpartition('.')[0] if is_picture(last) else last}.png")
    try:
        if max(map(len, map(os.fsencode, (*parts, last)))) > MAX_PART or len(name) > MAX_NAME:
            raise FileExistsError
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        last = f"{last[:40]}-{sha256(name.encode()).hexdigest()[:32]}"
        path = folder / f"{last}.png"
    given = path.with_name(last)
    while path.exists():
        numbers[given] += 1
        number = numbers[given]
        path = path.with_name(f"{last}.png" if number == 1 else f"{last}-{number}.png")
    return path
