"""Inputs behind a URL: s3://, gs:// and whatever else Arrow's file systems open.

Image files below a folder, a Parquet file, or a folder of them. Keys come from the environment or
the machine's role, as Arrow's own documentation of each file system says.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from service.bulk import arrow
from service.bulk.batch import Existing, Source
from service.bulk.errors import InputMissingError
from service.bulk.files import ImageFiles, listed
from service.bulk.inputs import PARQUETS, open_source
from service.bulk.listing import Entry, Listing, in_order
from service.bulk.options import BulkOptions
from service.bulk.pictures import Decoder, check_bytes, is_picture
from service.bulk.provenance import ModelFacts
from service.bulk.tables import Parquet
from service.codecs.rows import RowSpec
from service.errors import UnsupportedTypeError


def is_url(name: str) -> bool:
    """s3://bucket/key, and not a path."""
    return "://" in name


def open_input(
    options: BulkOptions,
    model: ModelFacts,
    *,
    scratch: Path,
    lines: Iterable[str] = (),
    existing: Existing | None = None,
    listing: Listing | None = None,
) -> Source:
    """Open an input, be it a path or a URL; arguments and errors as of `inputs.open_source`.

    Raises:
        UnsupportedTypeError: a URL of something else, or of no file system that Arrow has.
    """
    existing = existing or Existing()
    if not is_url(options.input):
        return open_source(
            options, model, scratch=scratch, lines=lines, existing=existing, listing=listing
        )
    source = _opened(options, model, scratch, existing, listing)
    if source.provenance is not None and source.kind == "latents":
        source.provenance.check_same(model, mine=options.input, others=f"the model {model.name}")
    return source


def _opened(
    options: BulkOptions,
    model: ModelFacts,
    scratch: Path,
    existing: Existing,
    listing: Listing | None,
) -> Source:
    images = options.reads == "images"
    spec = RowSpec("images", model.image_shape)
    if not images:
        spec = RowSpec("latents", (model.latent_size,))

    bucket = Bucket(options.input)
    if found := bucket.parquets():
        return Parquet(
            cast("list[Path]", found),  # it asks of them what RemoteFile has
            spec,
            Decoder(spec, fit=options.fit, invert=options.invert) if images else None,
            column=options.column,
            batch=options.batch,
            existing=existing,
        )
    if not images or not bucket.is_folder:
        raise UnsupportedTypeError(
            f"{options.input} for {options.operation}",
            expected=".parquet, or a folder of it" + (" or of image files" if images else ""),
            todo="Copy it to this machine first, or name another input.",
        )
    made = listing or listed(bucket, scratch / "listing", group=options.batch, existing=existing)
    return ImageFiles(bucket, Decoder(spec, fit=options.fit, invert=options.invert), made)


class _State(NamedTuple):
    """What of `os.stat_result` tells one state of a file from another."""

    st_size: int
    st_mtime_ns: int


class RemoteFile(os.PathLike[str]):
    """One file, by its URL; what Parquet's reader asks of a path."""

    def __init__(self, url: str, info: Any) -> None:
        """`info`: pyarrow.fs.FileInfo."""
        self._url = url
        self._state = _State(info.size, info.mtime_ns or 0)

    def __fspath__(self) -> str:
        return self._url  # pyarrow opens URLs as it opens paths

    __str__ = __fspath__

    def stat(self) -> _State:
        return self._state


class Bucket:
    """A file or folder behind a URL; as a store, the images below it, by name.

    Names with a part that begins with a dot are left out, as in folders on disk. The names of all
    files are held in memory while they are listed.
    """

    ordered = False

    def __init__(self, url: str) -> None:
        """
        Raises:
            UnsupportedTypeError: no file system for the URL. InputMissingError: nothing there.
        """
        pa = arrow.load()
        import pyarrow.fs

        self.name = url
        self.passed_over = 0
        head, mark, query = url.partition("?")
        self._head, self._query = head.rstrip("/"), mark + query
        try:
            self._system, self._root = pyarrow.fs.FileSystem.from_uri(self._head + self._query)
        except pa.ArrowException as exc:
            raise UnsupportedTypeError(
                f"{url} ({exc})",
                expected="a path, or a URL such as s3://bucket/folder or gs://bucket/folder",
                todo="Correct it, or copy the input to this machine.",
            ) from exc
        info = self._system.get_file_info(self._root)
        if info.type == pyarrow.fs.FileType.NotFound:
            raise InputMissingError(
                f"nothing at {url}", expected="a file or a folder", todo="Correct the URL."
            )
        self.is_folder = info.type == pyarrow.fs.FileType.Directory
        self._info = info

    def parquets(self) -> list[RemoteFile]:
        """The Parquet file, or those right in the folder; none where images lie beside them."""
        if not self.is_folder:
            infos = [self._info]
        else:
            infos = self._files(recursive=False)
            if any(is_picture(info.base_name) for info in infos):
                return []
        found = [info for info in infos if _is_parquet(info.base_name)]
        return [
            RemoteFile(self._url(info), info) for info in sorted(found, key=lambda one: one.path)
        ]

    def entries(self) -> Iterator[Entry]:
        return in_order(self._walk())

    def fetch(self, entry: Entry) -> bytes:
        check_bytes(entry.size)
        with self._system.open_input_file(f"{self._root}/{entry.name}") as file:
            body: bytes = file.read(entry.size + 1)
        if len(body) != entry.size:
            raise OSError(errno.EIO, "it changed since it was listed")
        return body

    def close(self) -> None:
        pass

    def _walk(self) -> Iterator[Entry]:
        self.passed_over = 0
        for info in self._files(recursive=True):
            name = info.path[len(self._root) :].lstrip("/")
            if any(part.startswith(".") for part in PurePosixPath(name).parts):
                continue
            if is_picture(name):
                yield Entry(name, info.size, info.mtime_ns or 0)
            else:
                self.passed_over += 1

    def _files(self, *, recursive: bool) -> list[Any]:
        """pyarrow.fs.FileInfo of the files in the folder, or below it."""
        import pyarrow.fs

        select = pyarrow.fs.FileSelector(self._root, recursive=recursive)
        found = self._system.get_file_info(select)
        return [info for info in found if info.type == pyarrow.fs.FileType.File]

    def _url(self, info: Any) -> str:
        below = info.path[len(self._root) :]
        return f"{self._head}{below}{self._query}"


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(PARQUETS) and not name.startswith(".")
