"""A listing of files, kept on disk: its size in memory does not grow with the number of files.

One record per file: size, stamp and name, ended by NUL, which no name contains.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One state of a file.

    name: a path, URL or name in a folder. size: bytes, −1 if missing. stamp: time of modification
    in ns; in archives its place, the offset in a tar or the index in a zip.
    """

    name: str
    size: int
    stamp: int

    @classmethod
    def of(cls, path: str | Path, name: str = "") -> Entry:
        """The entry of a file on this machine; `name` defaults to its path."""
        try:
            status = os.stat(path)  # noqa: PTH116 - a list may have millions
        except (OSError, ValueError):  # ValueError: no name of a file
            return cls(name or str(path), -1, 0)
        return cls(name or str(path), status.st_size, status.st_mtime_ns)


class Listing:
    """Entries in a file, in groups that are read one at a time.

    Attributes:
        total: entries.
        groups: groups of `group` entries; the last may have fewer.
        digest: SHA-256 over all of it, 64 hex digits.
    """

    def __init__(self, path: Path, entries: Iterable[Entry], *, group: int) -> None:
        """Write `entries` to `path`."""
        self.total = 0
        self._path = path
        self._starts = array("q")  # where each group begins
        digest, position = hashlib.sha256(), 0
        with path.open("wb") as file:
            for entry in entries:
                if self.total % group == 0:
                    self._starts.append(position)
                name = entry.name.replace("\0", "�").encode("utf-8", "surrogateescape")
                record = b"%d %d %s\0" % (entry.size, entry.stamp, name)
                file.write(record)
                digest.update(record)
                position += len(record)
                self.total += 1
        self._starts.append(position)
        self.groups = len(self._starts) - 1
        self.digest = digest.hexdigest()

    def group(self, index: int) -> list[Entry]:
        """The entries of one group."""
        begin, end = self._starts[index : index + 2]
        with self._path.open("rb") as file:
            file.seek(begin)
            records = [record.split(b" ", 2) for record in file.read(end - begin).split(b"\0")[:-1]]
        return [Entry(os.fsdecode(name), int(size), int(stamp)) for size, stamp, name in records]
