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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy_format

from service.bulk import arrow
from service.bulk.decoding.pictures import is_picture
from service.bulk.errors import OutputNameError
from service.bulk.options import Kind
from service.bulk.provenance import FOLDER_FILE, ModelFacts, Provenance
from service.engine import ImageDtype

Format = Literal["parquet", "parquet-folder", "npy", "png-folder"]

GROUP_ROWS = 65_536  # in one row group of Parquet
GROUP_BYTES = 64 * 2**20
FILE_ROWS = 2**20  # in one file of a Parquet folder
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
    expected = "a name that ends in .parquet or .npy, or one without an ending for PNG files"
    hint = ""
    if kind == "latents":
        expected = "a name that ends in .parquet, .npy or /"
        if suffix == ".csv":
            table = path.with_suffix(".parquet")
            hint = f"Write {table}, then: duckdb -c \"COPY (FROM '{table}') TO '{out}'\""
    raise OutputNameError(f"--out {out} for {kind}", expected=expected, hint=hint)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of an output.

    Attributes:
        kind: what its rows are.
        numbered: ids are int64, else strings.
        as_png: images are PNG files, else lists of numbers.
        dtype: of images that are lists.
        scored: there is a column `score`.
    """

    kind: Kind
    numbered: bool
    as_png: bool
    dtype: ImageDtype
    scored: bool

    def schema(self, model: ModelFacts) -> Any:
        """As an Arrow schema, without metadata."""
        if self.kind == "latents":
            value = arrow.list_(arrow.float32(), model.latent_size)
        elif self.as_png:
            value = arrow.binary()
        else:
            number = arrow.uint8() if self.dtype == "uint8" else arrow.float32()
            value = arrow.list_(number, prod(model.image_shape))
        fields = [
            ("id", arrow.int64() if self.numbered else arrow.string()),
            ("latent" if self.kind == "latents" else "image", value),
        ]
        return arrow.schema([*fields, ("score", arrow.float32())] if self.scored else fields)


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """What an output is written from.

    Attributes:
        result: its path while it is written; files beside it are `<result>.json` and so on.
        tables: the parts, as Arrow tables of `schema`.
        rows: of all tables together.
        schema: the columns.
        row_shape: of one latent or image.
        provenance: the output's metadata.
        existing: the files of a Parquet folder to which this output is added.
    """

    result: Path
    tables: Iterable[Any]
    rows: int
    schema: Any
    row_shape: tuple[int, ...]
    provenance: Provenance
    existing: tuple[Path, ...] = ()


def assemble(output_format: Format, assembly: Assembly) -> None:
    """Write the output under its temporary name, all of it on disk."""
    writers: dict[Format, Callable[[Assembly], None]] = {
        "parquet": _parquet,
        "parquet-folder": _parquet_folder,
        "npy": _npy,
        "png-folder": _png_folder,
    }
    writers[output_format](assembly)
    if assembly.result.is_dir():
        os.sync()  # one call instead of one for each of perhaps a million files
        return
    for path in [assembly.result, *assembly.result.parent.glob("result.*")]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _parquet(assembly: Assembly) -> None:
    _write_parquet(assembly.result, assembly, assembly.tables)


def _parquet_folder(assembly: Assembly) -> None:
    """Files of FILE_ROWS rows or a little more, after the existing ones, which do not change."""
    assembly.result.mkdir()
    for number, path in enumerate(assembly.existing):
        (assembly.result / f"part-{number:05d}.parquet").hardlink_to(path)
    number, tables = len(assembly.existing), iter(_grouped(assembly.tables))
    for first in tables:
        path = assembly.result / f"part-{number:05d}.parquet"
        _write_parquet(path, assembly, _up_to(FILE_ROWS, first, tables))
        number += 1
    if not number:
        _write_parquet(assembly.result / "part-00000.parquet", assembly, ())


def _up_to(rows: int, first: Any, tables: Iterator[Any]) -> Iterator[Any]:
    """`first` and further tables until they have `rows` rows."""
    yield first
    count = first.num_rows
    while count < rows and (table := next(tables, None)) is not None:
        count += table.num_rows
        yield table


def _write_parquet(path: Path, assembly: Assembly, tables: Iterable[Any]) -> None:
    schema = assembly.schema.with_metadata(assembly.provenance.as_metadata())
    with arrow.parquet.ParquetWriter(
        path,
        schema,
        compression="snappy",
        use_dictionary=False,  # latents hardly repeat; trying costs more than writing
        write_statistics=["id"],
    ) as writer:
        for table in _grouped(tables):
            writer.write_table(table.cast(schema), row_group_size=GROUP_ROWS)


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


def _npy(assembly: Assembly) -> None:
    column = assembly.schema.names[1]
    dtype = np.dtype(assembly.schema.field(column).type.value_type.to_pandas_dtype())
    shape = (assembly.rows, *assembly.row_shape)
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    others = [name for name in assembly.schema.names if name != column]
    ids_schema = arrow.schema([assembly.schema.field(name) for name in others])
    with (
        assembly.result.open("wb") as file,
        arrow.csv.CSVWriter(_beside(assembly, ".ids.csv"), ids_schema) as ids,
    ):
        npy_format.write_array_header_1_0(file, header)
        for table in assembly.tables:
            for chunk in table.column(column).chunks:
                file.write(memoryview(chunk.flatten().to_numpy()).cast("B"))
            ids.write_table(table.select(others))
    assembly.provenance.write(_beside(assembly, ".json"))


def _png_folder(assembly: Assembly) -> None:
    """One file for each image, named after its id: `a/b.jpg` becomes `a/b.png`."""
    assembly.result.mkdir()
    for table in assembly.tables:
        ids, images = table.column("id").to_pylist(), table.column("image").to_pylist()
        for name, body in zip(ids, images, strict=True):
            path = assembly.result / _png_name(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_new(path, PurePosixPath(str(name)).name, body)
    assembly.provenance.write(assembly.result / FOLDER_FILE)


def _png_name(name: str | int | None) -> str:
    """A relative path inside the folder, for any name in an archive or a list."""
    if not isinstance(name, str):
        return f"{name or 0:08d}.png"
    parts = [part for part in PurePosixPath(name).parts if part not in ("..", "/", ".")]
    last = parts.pop() if parts else "image"
    stem = last.rpartition(".")[0] if is_picture(last) else last
    return "/".join([*parts, f"{stem}.png"])


def _write_new(path: Path, name: str, body: bytes) -> None:
    """Write to `path`; if it exists (`a.png` beside `a.jpg`), to `a.jpg.png`, `a.jpg-2.png`."""
    tries = 0
    while True:
        try:
            with path.open("xb") as file:
                file.write(body)
            return
        except FileExistsError:
            tries += 1
            path = path.with_name(f"{name}.png" if tries == 1 else f"{name}-{tries}.png")


def _beside(assembly: Assembly, suffix: str) -> Path:
    return assembly.result.with_name(assembly.result.name + suffix)
