"""The right source for an input, by what it is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from common.errors import UnsupportedTypeError
from service.bulk import arrow
from service.bulk.batch import Existing, Source
from service.bulk.decoding.pictures import Decoder, is_picture
from service.bulk.errors import InputMissingError
from service.bulk.options import BulkOptions
from service.bulk.provenance import ModelFacts
from service.bulk.sources.archives import TARS, ZIPS, Tar, Zip
from service.bulk.sources.arrays import Npy, Npz
from service.bulk.sources.buckets import Bucket, is_url
from service.bulk.sources.csvfile import Csv
from service.bulk.sources.files import Folder, ImageFiles, NameList, Store, listed
from service.bulk.sources.listing import Listing
from service.bulk.sources.tables import PARQUETS, Parquet
from service.codecs.rows import RowSpec

STDIN = "-"


def open_source(
    options: BulkOptions,
    model: ModelFacts,
    *,
    scratch: Path,
    lines: Iterable[str] = (),
    existing: Existing | None = None,
    listing: Listing | None = None,
) -> Source:
    """Open the input that `options` name.

    Args:
        model: whose shapes the rows must have.
        scratch: folder for the listing of files.
        lines: names of files, where the input is "-".
        existing: what the output has already.
        listing: of the files, where another process has made it; it is not made again.

    Raises:
        InputMissingError, UnsupportedTypeError: nothing there, or nothing that is read.
        InputError: an array or table that cannot be the model's input.
        FingerprintError: latents of another model.
    """
    arrow.load()
    existing = existing or Existing()
    source = _opened(options, model, scratch, lines, existing, listing)
    if source.provenance is not None and source.kind == "latents":
        source.provenance.check_same(model, mine=options.input, others=f"the model {model.name}")
    return source


def _opened(
    options: BulkOptions,
    model: ModelFacts,
    scratch: Path,
    lines: Iterable[str],
    existing: Existing,
    listing: Listing | None,
) -> Source:
    images = options.reads == "images"
    spec = RowSpec("images", model.image_shape)
    if not images:
        spec = RowSpec("latents", (model.latent_size,))

    def decoder() -> Decoder:
        return Decoder(spec, fit=options.fit, invert=options.invert)

    def files(store: Store) -> Source:
        if not images:
            raise _unsupported(f"image files in {store.name}", options)
        try:
            path = scratch / "listing"
            made = listing or listed(store, path, group=options.batch, existing=existing)
        except BaseException:
            store.close()
            raise
        return ImageFiles(store, decoder(), made)

    def parquet(paths: list[Path]) -> Source:
        return Parquet(
            paths,
            spec,
            decoder() if images else None,
            column=options.column,
            batch=options.batch,
            existing=existing,
        )

    if options.input == STDIN:
        return files(NameList(lines, "standard input"))
    if is_url(options.input):
        bucket = Bucket(options.input)
        if found := bucket.parquets():
            return parquet(cast("list[Path]", found))  # it asks of them what RemoteFile has
        if images and bucket.is_folder:
            return files(bucket)
        raise UnsupportedTypeError(
            f"{options.input} for {options.operation}",
            expected=".parquet, or a folder of it" + (" or of image files" if images else ""),
            hint="Copy it to this machine first, or name another input.",
        )
    path = Path(options.input).absolute()
    name = path.name.lower()
    if path.is_dir():
        if tables := _parquets(path, options.out):
            return parquet(tables)
        return files(Folder(path))
    if not path.is_file():
        raise InputMissingError(
            f"no {options.input}",
            expected="a file or a folder",
            hint="Correct the path; relative ones begin at the current folder.",
        )
    if name.endswith(PARQUETS):
        return parquet([path])
    if name.endswith(".npy"):
        return Npy(path, spec, batch=options.batch, existing=existing)
    if name.endswith(".npz"):
        return Npz(path, spec, column=options.column, batch=options.batch, existing=existing)
    if name.endswith(ZIPS):
        return files(Zip(path))
    if name.endswith(TARS):
        return files(Tar(path))
    if name.endswith(".csv") and not images:
        return Csv(path, spec, batch=options.batch)
    raise _unsupported(options.input, options)


def _parquets(folder: Path, out: str) -> list[Path]:
    """The Parquet files right in a folder, by name; none where images lie beside them."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_picture(entry.name):
                return []
            if entry.name.lower().endswith(PARQUETS) and not entry.name.startswith("."):
                found.append(folder / entry.name)
    return sorted(path for path in found if path != Path(out).absolute())


def _unsupported(received: str, options: BulkOptions) -> UnsupportedTypeError:
    expected = {
        "images": "a folder, .zip or .tar of images, .npy, .npz, .parquet, or - for a list",
        "latents": ".parquet or a folder of them, .npy, .npz or .csv with latents",
    }[options.reads]
    return UnsupportedTypeError(
        f"{received} for {options.operation}", expected=expected, hint="Name another input."
    )
