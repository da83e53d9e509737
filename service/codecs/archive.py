"""Many images as one zip of PNGs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath

from common.arrays import Array
from service.codecs import png

# A fixed date: the same images give the same bytes (the zip format begins in 1980).
_EPOCH = (1980, 1, 1, 0, 0, 0)


def encode(images: Array, names: Sequence[str] = ()) -> bytes:
    """uint8 (N, H, W, C) as `00000.png` …, or as the clients' own names where it gave them.

    Names are cut to their last part and made unique, so that unpacking writes beside nothing.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        for image, name in zip(images, _file_names(len(images), names), strict=True):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), png.encode(image))
    return stream.getvalue()


def _file_names(count: int, names: Sequence[str]) -> list[str]:
    given = list(names) if len(names) == count else [""] * count
    taken: set[str] = set()
    found = []
    for index, name in enumerate(given):
        stem = _safe_stem(name) or f"{index:05d}"
        unique, tries = stem, index
        while unique.lower() in taken:
            unique, tries = f"{stem}-{tries:05d}", tries + 1
        taken.add(unique.lower())
        found.append(f"{unique}.png")
    return found


def _safe_stem(name: str) -> str:
    """A file name's stem, with nothing in it that a file system reads as something else."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    safe = "".join(c if c.isalnum() or c in "-_ ." else "_" for c in stem)
    return safe.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")[:100].strip(" .")
