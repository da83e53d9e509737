"""What `python -m service info` prints about a bulk output."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import MalformedError, UnsupportedTypeError
from service.bulk.decoding.imagefile import is_picture
from service.bulk.provenance import FOLDER_FILE, Provenance, sidecar
from service.bulk.sources.fields import read_footer


def is_output(path: Path) -> bool:
    """Whether a path is a file or folder of rows, rather than a bundle."""
    return path.is_file() or (path / FOLDER_FILE).is_file() or any(path.glob("*.parquet"))


def describe(path: Path) -> str:
    """Kind, rows and origin, one fact a line; an `InputError` if it is not a bulk output."""
    provenance, rows, content = _facts(path)
    if provenance is None:
        return f"{path}: {rows}\n  fingerprint  not named: not an output of a bulk job"
    height, width, channels = provenance.preprocessing.get("image_shape", ["?"] * 3)
    fit, inverted = map(provenance.preprocessing.get, ("fit", "invert"))
    resized = f", fitted ({fit})" if fit else ""
    lines = [
        f"{path}: {rows}",
        f"  kind         {provenance.kind}",
        f"  fingerprint  {provenance.fingerprint}",
        f"  model        {provenance.model}, {provenance.precision}",
        f"  images       {height}×{width}×{channels}{resized}{', inverted' * bool(inverted)}",
        f"  content      {content}",
        f"  version      {provenance.version}",
    ]
    return "\n".join(lines)


def _facts(path: Path) -> tuple[Provenance | None, str, str]:
    """Provenance, number of rows, and the format of their content."""
    if (path / FOLDER_FILE).is_file():
        count = sum(1 for file in path.rglob("*.png") if is_picture(file.name))
        return Provenance.read(path / FOLDER_FILE), f"{count:,} rows", "PNG files"
    if path.is_dir():
        return _parquet(sorted(path.glob("*.parquet")))
    if path.suffix == ".parquet":
        return _parquet([path])
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as exc:
            raise MalformedError(f"{path} does not read ({exc})", expected="an .npy array") from exc
        rows = f"{len(array):,} rows"
        return Provenance.read(sidecar(path)), rows, f"{array.dtype} {array.shape}"
    raise UnsupportedTypeError(
        f"{path}", expected="a bundle, or a .parquet, .npy or folder that a bulk job wrote"
    )


def _parquet(paths: list[Path]) -> tuple[Provenance | None, str, str]:
    footers = {str(path): read_footer(path) for path in paths}
    provenance = Provenance.common({name: schema.metadata for name, (_, schema) in footers.items()})
    rows = sum(footer.num_rows for footer, _ in footers.values())
    files = f" in {len(paths):,} files" if len(paths) > 1 else ""
    columns = ", ".join(f"{field.name} {field.type}" for field in footers[str(paths[0])][1])
    return provenance, f"{rows:,} rows{files}", columns
