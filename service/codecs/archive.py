"""Many images as one zip of PNGs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath

from common.arrays import Array
from service.codecs import png

# A fixed date, the first of the zip format: the same images give the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def encode(images: Array, names: Sequence[str] = ()) -> bytes:
    """uint8 (N, H, W, C) as `00000.png` …, or under the client's names, if there are N of them.

    Only a name's last part is kept, made unique, so that unpacking stays inside its folder.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        for image, name in zip(images, _file_names(len(images), names), strict=True):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), png.encode(image))
    return stream.getvalue()


def _file_names(count: int, names: Sequence[str]) -> list[str]:
    used: dict[str, str] = {}  # lower case → name, in order
    for index, name in enumerate(names if len(names) == count else [""] * count):
        stem = _safe_stem(name) or f"{index:05d}"
        unique, tries = stem, index
        while unique.lower() in used:
            unique, tries = f"{stem}-{tries:05d}", tries + 1
        used[unique.lower()] = f"{unique}.png"
    return list(used.values())


def _safe_stem(name: str) -> str:
    """A file name's stem, without characters that are special to a file system."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    safe = "".join(c if c.isalnum() or c in "-_ ." else "_" for c in stem)
    return safe.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")[:100].strip(" .")
