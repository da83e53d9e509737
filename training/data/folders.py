"""A folder of pictures as a dataset, grey or colour, nested or flat; `common/images.py` reads them.

Pictures that all lie in sub-folders have the first of them as their class. Linked folders are
followed. What is passed over (other files, further frames or pages) is counted in the log.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import images
from common.arrays import Bytes
from common.errors import DenoiserError
from training.errors import DatasetError

log = logging.getLogger("denoiser.training")

_MANY_FRAMES = frozenset((".gif", ".tif", ".tiff", ".webp"))


class Pictures(NamedTuple):
    """Pictures in the order of their names: uint8 (N, H, W, C) in 0..255, a class each or None."""

    images: Bytes
    classes: list[str] | None


def picture_paths(folder: Path) -> list[Path]:
    """Every picture under the folder, sorted; names that begin with a dot are passed over."""
    paths, others, seen = [], 0, set[str]()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back to where the walk has been
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() in images.SUFFIXES:
                paths.append(path)
            else:
                others += 1
    if others:
        log.warning("%s: passed over %d files, no images by name", folder.name, others)
    return sorted(paths)


def load_folder(folder: Path, resize: tuple[int, int] | None) -> Pictures:
    """All pictures of a folder; C is 3 where any of them is in colour."""
    paths = picture_paths(folder)
    if not paths:
        raise DatasetError(
            f"no pictures in the folder {folder.name!r}",
            expected=f"files named {', '.join(sorted(images.SUFFIXES))}",
        )
    return Pictures(read_pictures(paths, folder, resize), classes_of(paths, folder))


def read_pictures(paths: list[Path], folder: Path, resize: tuple[int, int] | None) -> Bytes:
    """Pictures of one size, uint8 (N, H, W, C); C is 3 where any of them is in colour.

    Messages name them relative to `folder`.
    """
    pictures, further = [], 0
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            body = path.read_bytes()
            pictures.append(images.read(body, size=resize, fit="stretch" if resize else None))
        except (OSError, DenoiserError) as exc:
            reason = exc.received if isinstance(exc, DenoiserError) else exc.strerror
            raise DatasetError(
                f"the picture {name!r} cannot be read ({reason})",
                expected=getattr(exc, "expected", "a readable file"),
            ) from exc
        if path.suffix.lower() in _MANY_FRAMES:
            further += images.frame_count(body) - 1
    if further:
        log.warning(
            "%s: passed over %d further frames or pages; the first of each file is used",
            folder.name,
            further,
        )
    sizes = [picture.shape[:2] for picture in pictures]
    if len(set(sizes)) > 1:
        other = next(k for k, size in enumerate(sizes) if size != sizes[0])
        first, second = (
            f"{sizes[k][0]}x{sizes[k][1]} ({paths[k].relative_to(folder)})" for k in (0, other)
        )
        raise DatasetError(
            f"pictures of {len(set(sizes))} sizes, such as {first} and {second}",
            expected="one size",
            hint="Pass --resize HEIGHTxWIDTH, for example --resize 28x28.",
        )
    channels = max(picture.shape[2] for picture in pictures)
    return np.stack([np.broadcast_to(p, (*p.shape[:2], channels)) for p in pictures])


def classes_of(paths: list[Path], folder: Path) -> list[str] | None:
    """The first sub-folder of each path; None if any picture lies in the folder itself."""
    parts = [path.relative_to(folder).parts for path in paths]
    return None if any(len(part) < 2 for part in parts) else [part[0] for part in parts]
