"""Chooses the source for an input."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.errors import OptionError, UnsupportedTypeError
from common.images import SUFFIXES
from service.bulk.batch import Source
from service.bulk.decoding.imagefile import is_picture
from service.bulk.decoding.pictures import UNIT_FILES, Decoder
from service.bulk.errors import InputMissingError
from service.bulk.options import BulkOptions
from service.bulk.sources.archives import TARS, ZIPS, Tar, Zip
from service.bulk.sources.arrays import ArrayFile
from service.bulk.sources.buckets import Bucket, is_url
from service.bulk.sources.files import Folder, ImageFiles, NameList, Store
from service.bulk.sources.listing import Entry, Listing
from service.bulk.sources.tables import Parquet, is_parquet
from service.bundle import Manifest
from service.codecs.rows import RowSpec

STDIN = "-"

INPUTS = {
    "images": "a folder, .zip or .tar of images, .npy, .npz, .parquet, or - for a list of files",
    "latents": ".parquet or a folder of it, .npy or .npz",
}


def open_source(
    options: BulkOptions,
    model: Manifest,
    *,
    scratch: Path,
    names: Iterable[str] = (),
    listing: Listing | None = None,
) -> Source:
    """Open the input that `options` name; its rows must have the shape that `model` reads.

    `scratch` is a folder for the listing of image files, unless another process has already made
    the `listing`. `names` are names of files, where the input is "-".

    Raises:
        InputMissingError, UnsupportedTypeError: nothing there, or nothing that can be read.
        InputError: an array or table that cannot be the model's input.
        FingerprintError: latents of another model.
    """
    images = options.reads == "images"
    spec = RowSpec(options.reads, model.row_shape(options.reads))
    found = _find(options, names)
    source: Source
    if isinstance(found, Path):
        source = ArrayFile(found, spec, options)
    elif isinstance(found, Store):
        listing = listing or _listing(found, options, scratch / "listing")
        return ImageFiles(found, Decoder(spec, fit=options.fit, invert=options.invert), listing)
    else:
        if options.batch:
            raise OptionError("--batch with a Parquet input", expected="its row groups as units")
        decoder = Decoder(spec, fit=options.fit, invert=options.invert) if images else None
        source = Parquet(found, spec, decoder, options)
    if not images:
        if source.provenance is not None:
            source.provenance.check_same(model, mine=options.input, others=f"model {model.name}")
        else:
            source.notes = (f"{options.input} names no model; assumed to be latents of this one",)
    return source


def _find(options: BulkOptions, names: Iterable[str]) -> Store | list[Entry] | Path:
    """A store of image files, Parquet files, or the path of an array."""
    if options.input == STDIN:
        return NameList(names)
    if is_url(options.input):
        bucket = Bucket(options.input)
        if tables := bucket.parquets():
            return tables
        if bucket.is_folder:
            return bucket
        raise UnsupportedTypeError(
            f"{options.input} for {options.operation}",
            expected=".parquet, or a folder of it or of image files",
            hint="Copy other inputs to this machine first.",
        )
    path = Path(options.input).absolute()
    name = path.name.lower()
    if path.is_dir():
        return _parquets(path, Path(options.out).absolute()) or Folder(path)
    if not path.is_file():
        raise InputMissingError(f"no {options.input}", expected="a file or a folder")
    if is_parquet(name):
        return [Entry.of(path)]
    if name.endswith((".npy", ".npz")):
        return path
    if name.endswith(ZIPS):
        return Zip(path)
    if name.endswith(TARS):
        return Tar(path)
    hint = ""
    if name.endswith(".csv"):
        table = f"read_csv('{path.name}', types = {{'id': 'VARCHAR'}})"  # keeps leading zeros
        query = f"SELECT id, [l0, l1, …] AS latent FROM {table}"
        hint = f"Convert it: duckdb -c \"COPY ({query}) TO '{path.stem}.parquet'\""
    raise _unsupported(options.input, options, hint)


def _listing(store: Store, options: BulkOptions, path: Path) -> Listing:
    """Of the image files in a store, which is closed if they cannot be the input."""
    try:
        if options.reads != "images":
            raise _unsupported(f"image files in {store.name}", options)
        listing = Listing(path, store.entries(), group=options.batch or UNIT_FILES)
        if not listing.total:
            raise InputMissingError(
                f"no images in {store.name}",
                expected=f"files ending in {', '.join(sorted(SUFFIXES))}",
            )
    except BaseException:
        store.close()
        raise
    return listing


def _parquets(folder: Path, out: Path) -> list[Entry]:
    """The Parquet files directly in a folder, by name; none where it also has images."""
    if any(is_picture(path.name) for path in folder.iterdir()):
        return []
    paths = [path for path in folder.iterdir() if is_parquet(path.name) and path != out]
    return [Entry.of(path) for path in sorted(paths)]


def _unsupported(received: str, options: BulkOptions, hint: str = "") -> UnsupportedTypeError:
    return UnsupportedTypeError(
        f"{received} for {options.operation}", expected=INPUTS[options.reads], hint=hint
    )
