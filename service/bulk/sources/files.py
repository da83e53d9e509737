"""Image files as a source: in a folder, on a list, in an archive."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from service.bulk import arrow
from service.bulk.batch import Batch, Existing
from service.bulk.decoding.pictures import GROUP, SUFFIXES, Decoder, is_picture
from service.bulk.errors import InputMissingError
from service.bulk.options import Kind
from service.bulk.provenance import Provenance
from service.bulk.sources.listing import Entry, Listing, in_order


class Store(Protocol):
    """Where image files lie.

    Attributes:
        name: of all of them, for messages.
        ordered: bytes must be fetched in the order of the entries, by one thread.
        passed_over: files that are no images by their names; complete after `entries`.
    """

    name: str
    ordered: bool
    passed_over: int

    def entries(self) -> Iterable[Entry]: ...

    def fetch(self, entry: Entry) -> bytes | str:
        """One file's bytes, or its absolute path on this machine.

        Raises:
            TooLargeError: more than `pictures.MAX_BYTES`. OSError, and what a broken archive gives.
        """
        ...

    def close(self) -> None: ...


class ImageFiles:
    """The images of a store, in groups (see `service.bulk.batch.Source`).

    Ids are names: relative to the folder or inside the archive, with "/" separators.
    """

    kind: Kind = "images"
    numbered = False
    encoded = True
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    provenance: Provenance | None = None

    def __init__(self, store: Store, decoder: Decoder, listing: Listing) -> None:
        self.listing = listing
        self.total = listing.total
        self.units = listing.groups
        self.identity: Mapping[str, Any] = {
            "path": store.name,
            "images": self.total,
            "listing": listing.digest,
        }
        self._store = store
        self._decoder = decoder
        self.notes: tuple[str, ...] = ()
        if store.passed_over:
            self.notes = (f"passed over in {store.name}, no images by name: {store.passed_over:,}",)

    def read(self, unit: int) -> Batch:
        entries = self.listing.group(unit)
        names = [_id(entry.name) for entry in entries]
        return self._decoder.batch(
            names,
            lambda index: self._store.fetch(entries[index]),
            ids=arrow.load().array(names, arrow.load().string()),
            ordered=self._store.ordered,
        )

    def close(self) -> None:
        self._decoder.close()
        self._store.close()


def listed(store: Store, path: Path, *, group: int, existing: Existing) -> Listing:
    """Write the listing of a store to `path`, without the names that an output has already.

    Raises:
        InputMissingError: there are no images at all.
    """
    entries = (e for e in store.entries() if _id(e.name) not in existing.ids)
    listing = Listing(path, entries, group=group or GROUP)
    if not listing.total and not existing.ids:
        raise InputMissingError(
            f"no images in {store.name}",
            expected=f"files ending in {', '.join(sorted(SUFFIXES))}",
            hint="Name another input.",
        )
    return listing


class Folder:
    """Images below a folder, also nested, by name. Hidden names and linked folders are left out."""

    ordered = False

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self.passed_over = 0
        self._root = str(root)

    def entries(self) -> Iterator[Entry]:
        return in_order(self._walk())

    def _walk(self) -> Iterator[Entry]:
        self.passed_over = 0
        folders = [""]
        while folders:
            below = folders.pop()
            with os.scandir(os.path.join(self._root, below)) as found:  # noqa: PTH118
                for entry in found:
                    if entry.name.startswith("."):
                        continue
                    name = below + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name + "/")
                    elif is_picture(name):
                        yield _stated(name, entry.path)
                    else:
                        self.passed_over += 1

    def fetch(self, entry: Entry) -> str:
        return os.path.join(self._root, entry.name)  # noqa: PTH118

    def close(self) -> None:
        pass


class NameList:
    """Image files that a list names, one path a line, in its order."""

    ordered = False
    passed_over = 0

    def __init__(self, lines: Iterable[str], name: str) -> None:
        self.name = name
        self._lines = lines

    def entries(self) -> Iterator[Entry]:
        for line in self._lines:
            if path := line.rstrip("\r\n"):
                yield _stated(path, path)

    def fetch(self, entry: Entry) -> str:
        return os.path.abspath(entry.name)  # noqa: PTH100

    def close(self) -> None:
        pass


def _stated(name: str, path: str) -> Entry:
    """With size and time, by which a resumed job knows it again."""
    try:
        state = os.stat(path)  # noqa: PTH116
    except OSError:
        return Entry(name, -1, 0)  # its reading will say what is wrong
    return Entry(name, state.st_size, state.st_mtime_ns)


def _id(name: str) -> str:
    """A name as text that every system stores: bytes that are no UTF-8 become `\\xe9`."""
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
