"""Inputs behind a URL: s3://, gs:// and the other file systems of Arrow.

Image files below a folder, a Parquet file, or a folder of them. Keys come from the environment or
the machine's role, as described in Arrow's documentation of each file system.
"""

from __future__ import annotations

import errno
from pathlib import PurePosixPath
from typing import Any

from common.errors import UnsupportedTypeError
from service.bulk import arrow
from service.bulk.decoding.imagefile import check_bytes, is_picture
from service.bulk.errors import InputMissingError
from service.bulk.sources.files import Store
from service.bulk.sources.listing import Entry
from service.bulk.sources.tables import is_parquet


def is_url(name: str) -> bool:
    """s3://bucket/key, and not a path."""
    return "://" in name


class Bucket(Store):
    """A file or folder behind a URL; as a store, the images below it, by name.

    Names with a part that begins with a dot are left out, as in folders on disk. The names of all
    files are held in memory while they are listed.
    """

    def __init__(self, url: str) -> None:
        self.name = url
        head, mark, query = url.partition("?")
        self._head, self._query = head.rstrip("/"), mark + query
        try:
            self._system, self._root = arrow.fs.FileSystem.from_uri(self._head + self._query)
        except arrow.ArrowException as exc:
            raise UnsupportedTypeError(
                f"{url} ({exc})",
                expected="a path, or a URL such as s3://bucket/folder or gs://bucket/folder",
            ) from exc
        self._info = self._system.get_file_info(self._root)
        if self._info.type == arrow.fs.FileType.NotFound:
            raise InputMissingError(f"nothing at {url}", expected="a file or a folder")
        self.is_folder = self._info.type == arrow.fs.FileType.Directory

    def parquets(self) -> list[Entry]:
        """The Parquet file, or those directly in the folder; none where it also has images."""
        infos = self._infos(recursive=False) if self.is_folder else [self._info]
        if self.is_folder and any(is_picture(info.base_name) for info in infos):
            return []
        tables = [info for info in infos if is_parquet(info.base_name)]
        urls = [f"{self._head}{info.path[len(self._root) :]}{self._query}" for info in tables]
        return sorted(map(Entry, urls, [i.size for i in tables], [i.mtime_ns or 0 for i in tables]))

    def files(self) -> list[Entry]:
        """As `Store.files`, by name."""
        infos = {info.path[len(self._root) :].lstrip("/"): info for info in self._infos()}
        return [
            Entry(name, infos[name].size, infos[name].mtime_ns or 0)
            for name in sorted(infos)
            if not any(part.startswith(".") for part in PurePosixPath(name).parts)
        ]

    def fetch(self, entry: Entry) -> bytes:
        """As `Store.fetch`."""
        check_bytes(entry.size)
        with self._system.open_input_file(f"{self._root}/{entry.name}") as file:
            body: bytes = file.read(entry.size + 1)
        if len(body) != entry.size:
            raise OSError(errno.EIO, "it changed since it was listed")
        return body

    def _infos(self, *, recursive: bool = True) -> list[Any]:
        """pyarrow.fs.FileInfo of the files in the folder, or below it."""
        selector = arrow.fs.FileSelector(self._root, recursive=recursive)
        infos = self._system.get_file_info(selector)
        return [info for info in infos if info.type == arrow.fs.FileType.File]
