"""Many images as one zip of PNGs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath

from common.arrays import Array
from service.codecs import png
from service.codecs.steps import Steps

# A fixed date, the first of the zip format: the same images give the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
PIECE = 2**18  # values in one step


def encode(images: Array, names: Sequence[str] = ()) -> Steps[bytes]:
    """uint8 (N, H, W, C) as `00000.png` …, or under the client's names, if there are N of them.

    Only a name's last part is kept, made unique, so that unpacking stays inside its folder. In
    steps.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        step = max(1, PIECE // max(1, images[:1].size))
        for index, name in enumerate(_file_names(len(images), names)):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), png.encode(images[index]))
            if index % step == step - 1:
                yield
    return stream.getvalue()


def _file_names(count: int, names: Sequence[str]) -> list[str]:
    used: dict[str, str] = {}  # lower case → name, in order
    following: dict[str, int] = {}  # stem → the number to try next: each try ends at another name
    for index, name in enumerate(names if len(names) == count else [""] * count):
        unique = stem = _safe_stem(name) or f"{index:05d}"
        number = max(index, following.get(stem.lower(), 0))
        while unique.lower() in used:
            unique, number = f"{stem}-{number:05d}", number + 1
            following[stem.lower()] = number
        used[unique.lower()] = f"{unique}.png"
    return list(used.values())


def _safe_stem(name: str) -> str:
    """A file name's stem, without characters that are special to a file system."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    safe = "".join(c if c.isalnum() or c in "-_ ." else "_" for c in stem)
    return safe.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")[:100].strip(" .")
