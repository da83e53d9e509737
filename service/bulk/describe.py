"""What a bulk output is, in words, for a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.arrays import Array
from common.errors import MalformedError, UnsupportedTypeError
from service.bulk.decoding.pictures import is_picture
from service.bulk.provenance import FOLDER_FILE, Provenance, sidecar
from service.bulk.sources.fields import read_footer


def is_output(path: Path) -> bool:
    """Whether a path is a file or folder of rows, rather than a bundle."""
    return path.is_file() or (path / FOLDER_FILE).is_file() or any(path.glob("*.parquet"))


def describe(path: Path) -> str:
    """Kind, rows and origin, one fact a line.

    Raises:
        MalformedError, UnsupportedTypeError: no output of a bulk job.
    """
    provenance, rows, holds = _facts(path)
    lines = [f"{path}: {rows}"]
    if provenance is None:
        return "\n".join([*lines, "  fingerprint  not named: no output of a bulk job"])
    height, width, channels = provenance.preprocessing.get("image_shape", ["?"] * 3)
    prepared = [f"{height}×{width}×{channels}"]
    if fit := provenance.preprocessing.get("fit"):
        prepared.append(f"fitted ({fit})")
    if provenance.preprocessing.get("invert"):
        prepared.append("inverted")
    lines += [
        f"  kind         {provenance.kind}",
        f"  fingerprint  {provenance.fingerprint}",
        f"  model        {provenance.model}, {provenance.precision}",
        f"  images       {', '.join(prepared)}",
        f"  holds        {holds}",
        f"  version      {provenance.version}",
    ]
    return "\n".join(lines)


def _facts(path: Path) -> tuple[Provenance | None, str, str]:
    """Who made it; how many rows; in what form."""
    if (path / FOLDER_FILE).is_file():
        count = sum(1 for file in path.rglob("*.png") if is_picture(file.name))
        return Provenance.read(path / FOLDER_FILE), f"{count:,} rows", "PNG files"
    if path.is_dir():
        return _parquet(sorted(path.glob("*.parquet")))
    if path.suffix == ".parquet":
        return _parquet([path])
    if path.suffix == ".npy":
        array = _npy(path)
        holds = f"{array.dtype} {array.shape}"
        return Provenance.read(sidecar(path)), f"{len(array):,} rows", holds
    if path.suffix == ".csv":
        with path.open("rb") as file:
            count = sum(1 for _ in file) - 1
        return Provenance.read(sidecar(path)), f"{count:,} lines", "text"
    raise UnsupportedTypeError(
        f"{path}",
        expected="a bundle, or a .parquet, .npy, .csv or folder that a bulk job wrote",
        hint="Name one.",
    )


def _parquet(paths: list[Path]) -> tuple[Provenance | None, str, str]:
    found = [read_footer(path) for path in paths]
    provenance = Provenance.from_metadata(found[0].metadata)
    if provenance is not None:
        for path, other in zip(paths[1:], found[1:], strict=True):
            named = Provenance.from_metadata(other.metadata)
            if named is not None:
                named.check_same(provenance, mine=str(path), others=str(paths[0]))
    rows = sum(sum(one.rows) for one in found)
    files = f" in {len(paths):,} files" if len(paths) > 1 else ""
    columns = ", ".join(f"{field.name} {field.type}" for field in found[0].schema)
    return provenance, f"{rows:,} rows{files}", columns


def _npy(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except ValueError as exc:
        raise MalformedError(
            f"{path} does not read ({exc})", expected="an .npy array", hint="Write it again."
        ) from exc
