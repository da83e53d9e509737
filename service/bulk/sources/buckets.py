"""Inputs behind a URL: s3://, gs:// and whatever else Arrow's file systems open.

Image files below a folder, a Parquet file, or a folder of them. Keys come from the environment or
the machine's role, as Arrow's own documentation of each file system says.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from common.errors import UnsupportedTypeError
from service.bulk import arrow
from service.bulk.decoding.pictures import check_bytes, is_picture
from service.bulk.errors import InputMissingError
from service.bulk.sources.listing import Entry, in_order
from service.bulk.sources.tables import PARQUETS


def is_url(name: str) -> bool:
    """s3://bucket/key, and not a path."""
    return "://" in name


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
        """Raises:
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
                hint="Correct it, or copy the input to this machine.",
            ) from exc
        info = self._system.get_file_info(self._root)
        if info.type == pyarrow.fs.FileType.NotFound:
            raise InputMissingError(
                f"nothing at {url}", expected="a file or a folder", hint="Correct the URL."
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
