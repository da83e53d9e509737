"""Image files as a source: in a folder, on a list, in an archive, in a bucket."""

from __future__ import annotations

import codecs
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from service.bulk import arrow
from service.bulk.batch import Batch
from service.bulk.decoding.imagefile import is_picture
from service.bulk.decoding.pictures import Decoder
from service.bulk.options import IdType, Kind
from service.bulk.provenance import Provenance
from service.bulk.sources.fields import ids_of
from service.bulk.sources.listing import Entry, Listing

LIST_BLOCK = 2**20  # bytes of a list that are read at once


class Store(ABC):
    """Where image files are."""

    name: str  # of all of them, for messages
    ordered = False  # bytes must be fetched in the order of the entries, by one thread
    skipped = 0  # files that are no images by their names; complete after `entries`

    @abstractmethod
    def files(self) -> Iterable[Entry]:
        """All files, in the order of their rows."""

    def entries(self) -> Iterator[Entry]:
        """The image files, by their names."""
        self.skipped = 0
        for entry in self.files():
            if is_picture(entry.name):
                yield entry
            else:
                self.skipped += 1

    @abstractmethod
    def fetch(self, entry: Entry) -> bytes | str:
        """One file's bytes, or its absolute path on this machine.

        Raises:
            TooLargeError: more than `imagefile.MAX_BYTES`.
            OSError: it cannot be read; a broken archive raises other errors, too.
        """

    def close(self) -> None:  # noqa: B027 - most stores have nothing to close
        """Close the archive, if it is one."""


class ImageFiles:
    """The images of a store, in groups (see `batch.Source`).

    Ids are names: relative to the folder or inside the archive, with "/" separators.
    """

    kind: Kind = "images"
    id_type: IdType = "string"
    encoded = True
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    provenance: Provenance | None = None

    def __init__(self, store: Store, decoder: Decoder, listing: Listing) -> None:
        self.store = store
        self.listing = listing
        self.total = listing.total
        self.units = listing.groups
        self.identity: Mapping[str, Any] = {"path": store.name, "listing": listing.digest}
        skipped = f"skipped in {store.name}, not images by name: {store.skipped:,}"
        self.notes: tuple[str, ...] = (skipped,) if store.skipped else ()
        self._decoder = decoder

    def read(self, unit: int) -> Batch:
        """As `Source.read`."""
        entries = self.listing.group(unit)
        return self._decoder.batch(
            ids_of(arrow.array([os.fsencode(entry.name) for entry in entries]), self.id_type),
            lambda index: self.store.fetch(entries[index]),
            ordered=self.store.ordered,
        )

    def close(self) -> None:
        """End the decoder, close the store."""
        self._decoder.close()
        self.store.close()


class Folder(Store):
    """Images below a folder, also nested, by name. Hidden names and linked folders are left out."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)

    def files(self, below: str = "") -> Iterator[Entry]:
        """As `Store.files`, in the order of whole names: a folder's has a "/" at the end.

        Only the names of one folder at a time are held in memory.
        """
        with os.scandir(os.path.join(self.name, below)) as files:  # noqa: PTH118
            names = sorted(
                file.name + "/" * file.is_dir(follow_symlinks=False)
                for file in files
                if not file.name.startswith(".")
            )
        for name in names:
            if name.endswith("/"):
                yield from self.files(below + name)
            else:
                yield Entry.of(f"{self.name}/{below}{name}", below + name)

    def fetch(self, entry: Entry) -> str:
        """As `Store.fetch`."""
        return f"{self.name}/{entry.name}"


def names_on(stream: TextIO | None) -> Iterator[str]:
    """The names on a list: lines, or ended by NUL (`find -print0`); UTF-8, UTF-16 or UTF-32.

    Bytes that are not UTF-8 are those of file names, and are kept (`os.fsdecode`).
    """
    if stream is None:  # closed standard input
        return
    block = stream.buffer.read(LIST_BLOCK)
    encoding = json.detect_encoding(block)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    decoder, rest = codecs.getincrementaldecoder(encoding)(errors), ""
    end = "\0" if "\0" in decoder.decode(block) else "\n"
    decoder.reset()
    while block:
        *names, rest = (rest + decoder.decode(block)).split(end)
        yield from names if end == "\0" else (name.removesuffix("\r") for name in names)
        block = stream.buffer.read(LIST_BLOCK)
    yield (rest + decoder.decode(b"", True)).removesuffix("\r")


class NameList(Store):
    """Image files named by a list, in its order; all of them are read."""

    name = "standard input"

    def __init__(self, names: Iterable[str]) -> None:
        self._names = names

    def files(self) -> Iterator[Entry]:
        """As `Store.files`."""
        return (Entry.of(path) for path in self._names if path)

    entries = files

    def fetch(self, entry: Entry) -> str:
        """As `Store.fetch`."""
        return os.path.abspath(entry.name)  # noqa: PTH100
