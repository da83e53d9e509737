"""Zip and tar archives of images, read in place: nothing is unpacked to disk."""

from __future__ import annotations

import io
import lzma
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from common.errors import MalformedError
from service.bulk.decoding.imagefile import check_bytes
from service.bulk.sources.files import Store
from service.bulk.sources.listing import Entry

ZIPS = (".zip",)
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Zip(Store):
    """Images in a zip, in its order. Its directory is held in memory, about 1 KB an image."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError) as exc:
            raise _damaged(path, exc) from exc
        self._members = self._zip.infolist()

    def files(self) -> Iterator[Entry]:
        """As `Store.files`."""
        for index, member in enumerate(self._members):
            if not member.is_dir():
                yield Entry(member.filename, member.file_size, index)

    def fetch(self, entry: Entry) -> bytes:
        """As `Store.fetch`."""
        check_bytes(entry.size)
        with self._zip.open(self._members[entry.stamp]) as file:
            return file.read(entry.size + 1)  # never more than the directory states

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()


class Tar(Store):
    """Images in a tar, in its order; a compressed one is decompressed as it is read.

    One pass over the archive makes its index.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115 - until `close`
        except (tarfile.TarError, EOFError, lzma.LZMAError) as exc:
            raise _damaged(path, exc) from exc
        self._stream = cast("IO[bytes]", self._tar.fileobj)
        self.ordered = not isinstance(self._stream, io.BufferedReader)  # compressed
        self._lock = threading.Lock()

    def files(self) -> Iterator[Entry]:
        """As `Store.files`."""
        try:
            with tarfile.open(self._path) as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                    if member.isfile() and not member.issparse():
                        yield Entry(member.name.removeprefix("./"), member.size, member.offset_data)
        except (tarfile.TarError, EOFError, OSError, lzma.LZMAError) as exc:
            raise _damaged(self._path, exc) from exc

    def fetch(self, entry: Entry) -> bytes:
        """As `Store.fetch`."""
        check_bytes(entry.size)
        with self._lock:
            self._stream.seek(entry.stamp)
            return self._stream.read(entry.size)

    def close(self) -> None:
        """Close the archive."""
        self._tar.close()


def _damaged(path: Path, exc: Exception) -> MalformedError:
    why = str(exc).rpartition("\n")[2]
    return MalformedError(f"{path} does not read ({why})", expected="a whole zip or tar archive")
