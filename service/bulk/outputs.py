"""The forms of an output, and how parts become one.

name                     latents                          images
`x.parquet`              one Parquet file                 one Parquet file
`x.parquet/`, `x/`       a folder of Parquet files        `x.parquet/`: the same
`x.npy`                  float32 (N, L), `x.npy.json`,    uint8 or float32 (N, H, W, C), the same
                         `x.npy.ids.csv`                  files beside it
`x.csv`                  id, l0 …, score; `x.csv.json`    —
`x/`, `x`                —                                a folder of PNG files, `denoiser.json`
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
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

Form = Literal["parquet", "parquet-folder", "npy", "csv", "png-folder"]

GROUP_ROWS = 65_536  # in one row group of Parquet
GROUP_BYTES = 64 * 2**20
FILE_ROWS = 2**20  # in one file of a folder
PART_NAME = re.compile(r"part-\d{5,}\.parquet")  # of such a file


def form_of(out: str, kind: Kind) -> Form:
    """The form that a name asks for.

    Raises:
        OutputNameError: a name that asks for none, or for one that cannot hold the rows.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    folder = out.endswith("/") or path.is_dir()
    found: Form | None = None
    if not path.name or path.name == "..":
        pass
    elif folder and (kind == "latents" or suffix == ".parquet"):
        found = "parquet-folder"
    elif folder or (kind == "images" and not suffix):
        found = "png-folder"
    elif suffix == ".parquet":
        found = "parquet"
    elif suffix == ".npy":
        found = "npy"
    elif suffix == ".csv" and kind == "latents":
        found = "csv"
    if found is None:
        raise OutputNameError(
            f"--out {out} for {kind}",
            expected="a name that ends in .parquet, .npy, .csv or /"
            if kind == "latents"
            else "a name that ends in .parquet or .npy, or one without an ending for PNG files",
            hint="Correct the name.",
        )
    return found


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
        pa = arrow.load()
        if self.kind == "latents":
            value = pa.list_(pa.float32(), model.latent_size)
        elif self.as_png:
            value = pa.binary()
        else:
            number = pa.uint8() if self.dtype == "uint8" else pa.float32()
            value = pa.list_(number, prod(model.image_shape))
        fields = [
            pa.field("id", pa.int64() if self.numbered else pa.string()),
            pa.field("latent" if self.kind == "latents" else "image", value),
        ]
        return pa.schema([*fields, *([pa.field("score", pa.float32())] if self.scored else [])])


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """What an output is put together from.

    Attributes:
        result: its path while it is being made; files beside it are `<result>.json` and so on.
        tables: the parts, as Arrow tables of `schema`.
        rows: of all tables together.
        schema: the columns.
        row: the shape of one latent or image.
        provenance: what the output says about itself.
        base: Parquet files whose rows come first, when rows are appended.
    """

    result: Path
    tables: Iterable[Any]
    rows: int
    schema: Any
    row: tuple[int, ...]
    provenance: Provenance
    base: tuple[Path, ...] = ()


def assemble(form: Form, assembly: Assembly) -> None:
    """Write the output under its temporary name, all of it on disk."""
    writers: dict[Form, Callable[[Assembly], None]] = {
        "parquet": _parquet,
        "parquet-folder": _parquet_folder,
        "npy": _npy,
        "csv": _csv,
        "png-folder": _png_folder,
    }
    writers[form](assembly)
    if assembly.result.is_dir():
        os.sync()  # one call instead of one for each of perhaps a million files
        return
    for path in [assembly.result, *assembly.result.parent.glob("result.*")]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _parquet(assembly: Assembly) -> None:
    old = chain.from_iterable(_row_groups(path) for path in assembly.base)
    _write_parquet(assembly.result, assembly, chain(old, assembly.tables))


def _parquet_folder(assembly: Assembly) -> None:
    """Files of FILE_ROWS rows or a little more; those that were there stay as they are."""
    assembly.result.mkdir()
    for at, path in enumerate(assembly.base):
        (assembly.result / f"part-{at:05d}.parquet").hardlink_to(path)
    number, source = len(assembly.base), iter(_grouped(assembly.tables))
    for first in source:
        path = assembly.result / f"part-{number:05d}.parquet"
        _write_parquet(path, assembly, _until(FILE_ROWS, first, source))
        number += 1
    if not number:
        _write_parquet(assembly.result / "part-00000.parquet", assembly, ())


def _until(rows: int, first: Any, source: Iterator[Any]) -> Iterator[Any]:
    """`first` and more tables, until there are so many rows."""
    yield first
    count = first.num_rows
    while count < rows and (table := next(source, None)) is not None:
        count += table.num_rows
        yield table


def _write_parquet(path: Path, assembly: Assembly, tables: Iterable[Any]) -> None:
    pa = arrow.load()
    schema = assembly.schema.with_metadata(assembly.provenance.as_metadata())
    with pa.parquet.ParquetWriter(
        path,
        schema,
        compression="snappy",
        use_dictionary=False,  # latents hardly repeat; trying costs more than writing
        write_statistics=["id"],
    ) as writer:
        for table in _grouped(tables):
            writer.write_table(table.cast(schema), row_group_size=GROUP_ROWS)


def _grouped(tables: Iterable[Any]) -> Iterator[Any]:
    """Small tables put together to row groups of a useful size."""
    pa = arrow.load()
    held: list[Any] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        size += table.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
    if rows:
        yield pa.concat_tables(held)


def _row_groups(path: Path) -> Iterator[Any]:
    pa = arrow.load()
    with pa.parquet.ParquetFile(path) as file:
        for at in range(file.num_row_groups):
            yield file.read_row_group(at).replace_schema_metadata(None)


def _npy(assembly: Assembly) -> None:
    pa = arrow.load()
    column = assembly.schema.names[1]
    dtype = np.dtype(assembly.schema.field(column).type.value_type.to_pandas_dtype())
    header = {
        "descr": dtype.str,
        "fortran_order": False,
        "shape": (assembly.rows, *assembly.row),
    }
    beside = [name for name in assembly.schema.names if name != column]
    ids = pa.schema([assembly.schema.field(name) for name in beside])
    with (
        assembly.result.open("wb") as file,
        pa.csv.CSVWriter(_beside(assembly, ".ids.csv"), ids) as names,
    ):
        npy_format.write_array_header_1_0(file, header)
        for table in assembly.tables:
            for chunk in table.column(column).chunks:
                file.write(memoryview(chunk.flatten().to_numpy()).cast("B"))
            names.write_table(table.select(beside))
    assembly.provenance.write(_beside(assembly, ".json"))


def _csv(assembly: Assembly) -> None:
    """Numbers with as many digits as tell every float32 from its neighbours."""
    pa = arrow.load()
    (width,) = assembly.row
    names = ["id", *(f"l{at}" for at in range(width)), *assembly.schema.names[2:]]
    kinds = [assembly.schema.field("id").type, *[pa.float32()] * (len(names) - 1)]
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    with pa.csv.CSVWriter(assembly.result, schema) as writer:
        for table in assembly.tables:
            flat = table.column("latent").combine_chunks().flatten().to_numpy()
            latents = np.ascontiguousarray(flat.reshape(-1, width).T)
            rest = [table.column(name) for name in assembly.schema.names[2:]]
            numbers = [arrow.numbers(latent) for latent in latents]
            writer.write_table(pa.table([table.column("id"), *numbers, *rest], schema=schema))
    assembly.provenance.write(_beside(assembly, ".json"))


def _png_folder(assembly: Assembly) -> None:
    """One file for each image, at its id's place: `a/b.jpg` becomes `a/b.png`."""
    assembly.result.mkdir()
    made = {assembly.result}
    for table in assembly.tables:
        ids, images = table.column("id").to_pylist(), table.column("image").to_pylist()
        for name, body in zip(ids, images, strict=True):
            path = assembly.result / _png_name(name)
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            _write_new(path, PurePosixPath(str(name)).name, body)
    assembly.provenance.write(assembly.result / FOLDER_FILE)


def _png_name(name: str | int | None) -> str:
    """A relative path inside the folder, whatever an archive or a list called the image."""
    if not isinstance(name, str):
        return f"{name or 0:08d}.png"
    parts = [part for part in PurePosixPath(name).parts if part not in ("..", "/", ".")]
    last = parts.pop() if parts else "image"
    stem = last.rpartition(".")[0] if is_picture(last) else last
    return "/".join([*parts, f"{stem}.png"])


def _write_new(path: Path, name: str, body: bytes) -> None:
    """Write to `path`; where `a.png` came before `a.jpg`, to `a.jpg.png`, then `a.jpg-2.png` …"""
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
