"""Zip and tar archives of images, read where they lie: nothing is unpacked to disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from common.errors import MalformedError
from service.bulk.decoding.pictures import check_bytes, is_picture
from service.bulk.sources.listing import Entry

ZIPS = (".zip",)
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_MAGICS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


class Zip:
    """Images in a zip, in its order. Its directory is held in memory, about 1 KB an image."""

    ordered = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.passed_over = 0
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError) as exc:
            raise _damaged(path, exc) from exc
        self._members = self._zip.infolist()

    def entries(self) -> Iterator[Entry]:
        self.passed_over = 0
        for index, member in enumerate(self._members):
            if member.is_dir():
                continue
            if is_picture(member.filename):
                yield Entry(member.filename, member.file_size, index)
            else:
                self.passed_over += 1

    def fetch(self, entry: Entry) -> bytes:
        check_bytes(entry.size)
        with self._zip.open(self._members[entry.stamp]) as file:
            return file.read(entry.size + 1)  # never more than the directory says

    def close(self) -> None:
        self._zip.close()


class Tar:
    """Images in a tar, in its order; a compressed one is decompressed as it is read.

    Its index is made by going through it once.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.passed_over = 0
        self._path = path
        self._stream = _opened(path)
        self.ordered = not _is_plain(path)
        self._lock = threading.Lock()

    def entries(self) -> Iterator[Entry]:
        self.passed_over = 0
        try:
            with _opened(self._path) as stream, tarfile.TarFile(fileobj=stream) as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                    if member.isdir():
                        continue
                    if member.isfile() and not member.issparse() and is_picture(member.name):
                        name = member.name.removeprefix("./")
                        yield Entry(name, member.size, member.offset_data)
                    else:
                        self.passed_over += 1
        except (tarfile.TarError, EOFError, OSError, lzma.LZMAError) as exc:
            raise _damaged(self._path, exc) from exc

    def fetch(self, entry: Entry) -> bytes:
        check_bytes(entry.size)
        with self._lock:
            self._stream.seek(entry.stamp)
            return self._stream.read(entry.size)

    def close(self) -> None:
        self._stream.close()


def _is_plain(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(6)
    return not any(head.startswith(magic) for magic in _MAGICS)


def _opened(path: Path) -> IO[bytes]:
    """The tar's own bytes, decompressed where they are compressed; told by the first bytes."""
    with path.open("rb") as file:
        head = file.read(6)
    for magic, opener in _MAGICS.items():
        if head.startswith(magic):
            return cast("IO[bytes]", opener(path, "rb"))
    return path.open("rb")


def _damaged(path: Path, exc: Exception) -> MalformedError:
    return MalformedError(
        f"{path} does not read ({exc})",
        expected="a whole zip or tar archive",
        hint="Copy or make it again.",
    )
