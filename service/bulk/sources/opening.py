"""Chooses the source for an input."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.errors import OptionError, UnsupportedTypeError
from service.bulk import arrow
from service.bulk.batch import FileStamp, Source
from service.bulk.decoding.pictures import Decoder, is_picture
from service.bulk.errors import InputMissingError
from service.bulk.options import BulkOptions
from service.bulk.provenance import ModelFacts
from service.bulk.sources.archives import TARS, ZIPS, Tar, Zip
from service.bulk.sources.arrays import open_npy, open_npz
from service.bulk.sources.buckets import Bucket, is_url
from service.bulk.sources.files import Folder, ImageFiles, NameList, Store, list_files
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
    listing: Listing | None = None,
) -> Source:
    """Open the input that `options` name.

    Args:
        options: of the job.
        model: whose shapes the rows must have.
        scratch: folder for the listing of files.
        lines: names of files, where the input is "-".
        listing: of the files, if another process has already made it.

    Raises:
        InputMissingError, UnsupportedTypeError: nothing there, or nothing that can be read.
        InputError: an array or table that cannot be the model's input.
        FingerprintError: latents of another model.
    """
    arrow.load()
    source = _Opening(options, model, scratch, listing).open(lines)
    if source.provenance is not None and source.kind == "latents":
        source.provenance.check_same(model, mine=options.input, others=f"the model {model.name}")
    return source


class _Opening:
    """The arguments of `open_source`, shared by the steps of opening."""

    def __init__(
        self, options: BulkOptions, model: ModelFacts, scratch: Path, listing: Listing | None
    ) -> None:
        self._options = options
        self._scratch = scratch
        self._listing = listing
        self._images = options.reads == "images"
        self._spec = RowSpec("images", model.image_shape)
        if not self._images:
            self._spec = RowSpec("latents", (model.latent_size,))

    def open(self, lines: Iterable[str]) -> Source:
        options = self._options
        if options.input == STDIN:
            return self._files(NameList(lines))
        if is_url(options.input):
            return self._url()
        path = Path(options.input).absolute()
        name = path.name.lower()
        if path.is_dir():
            tables = _parquets(path, Path(options.out).absolute())
            return self._parquet(tables) if tables else self._files(Folder(path))
        if not path.is_file():
            raise InputMissingError(f"no {options.input}", expected="a file or a folder")
        if name.endswith(PARQUETS):
            return self._parquet([FileStamp.of(path)])
        if name.endswith(".npy"):
            return open_npy(path, self._spec, options)
        if name.endswith(".npz"):
            return open_npz(path, self._spec, options)
        if name.endswith(ZIPS):
            return self._files(Zip(path))
        if name.endswith(TARS):
            return self._files(Tar(path))
        hint = ""
        if name.endswith(".csv") and not self._images:
            columns = "SELECT id, [l0, l1, …] AS latent"
            table = path.with_suffix(".parquet").name
            hint = f"Convert it: duckdb -c \"COPY ({columns} FROM '{path.name}') TO '{table}'\""
        raise self._unsupported(options.input, hint)

    def _url(self) -> Source:
        bucket = Bucket(self._options.input)
        if tables := bucket.parquets():
            return self._parquet(tables)
        if self._images and bucket.is_folder:
            return self._files(bucket)
        raise UnsupportedTypeError(
            f"{self._options.input} for {self._options.operation}",
            expected=".parquet, or a folder of it" + " or of image files" * self._images,
            hint="Copy other inputs to this machine first.",
        )

    def _files(self, store: Store) -> Source:
        try:
            if not self._images:
                raise self._unsupported(f"image files in {store.name}")
            path, group = self._scratch / "listing", self._options.batch
            listing = self._listing or list_files(store, path, group=group)
        except BaseException:
            store.close()
            raise
        return ImageFiles(store, self._decoder(), listing)

    def _parquet(self, files: list[FileStamp]) -> Source:
        if self._options.batch:
            raise OptionError("--batch with a Parquet input", expected="its row groups as units")
        decoder = self._decoder() if self._images else None
        return Parquet(files, self._spec, decoder, self._options)

    def _decoder(self) -> Decoder:
        return Decoder(self._spec, fit=self._options.fit, invert=self._options.invert)

    def _unsupported(self, received: str, hint: str = "") -> UnsupportedTypeError:
        expected = {
            "images": "a folder, .zip or .tar of images, .npy, .npz, .parquet, or - for a list",
            "latents": ".parquet or a folder of them, .npy or .npz with latents",
        }[self._options.reads]
        return UnsupportedTypeError(
            f"{received} for {self._options.operation}", expected=expected, hint=hint
        )


def _parquets(folder: Path, out: Path) -> list[FileStamp]:
    """The Parquet files directly in a folder, by name; none where it also has images."""
    paths = []
    for path in folder.iterdir():
        if is_picture(path.name):
            return []
        if path.name.lower().endswith(PARQUETS) and path.name[0] != "." and path != out:
            paths.append(path)
    return [FileStamp.of(path) for path in sorted(paths)]
