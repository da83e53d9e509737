"""A folder of image files as a dataset, nested or flat, grey or colour.

Files are read by common/images.py, as the service reads them. Folders `train/` with `val/` or
`test/` at the top (in any case; also `training`, `valid`, `validation`, `testing`) keep their own
split. Images that all lie in sub-folders are labelled by the first of them, one class a folder.
Linked folders are followed, each folder is read once. What is not read is counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.arrays import Bytes
from common.errors import DenoiserError
from common.images import SUFFIXES, Fit, frame_count, read
from training.data.arrays import Part, Rows
from training.errors import DatasetError

FILES = f"files ending in {', '.join(sorted(SUFFIXES))}"
SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}

Skipped = Counter[str]  # what was not read, and how many of it


def subfolder(folder: Path, *names: str) -> Path | None:
    """The sub-folder that has one of these names, in any case."""
    matches = sorted(p for p in folder.iterdir() if p.name.lower() in names and p.is_dir())
    if len(matches) > 1:
        raise DatasetError(
            f"the folders {' and '.join(path.name for path in matches)} in {folder.name!r}",
            expected="one of them",
        )
    return matches[0] if matches else None


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of a dataset's own splits, by the names of `SPLITS`; {} where it has none."""
    folders = {split: subfolder(folder, *names) for split, names in SPLITS.items()}
    splits = {split: path for split, path in folders.items() if path is not None}
    return splits if "train" in splits and len(splits) > 1 else {}


def image_paths(folder: Path, skipped: Skipped) -> list[Path]:
    """Every image file under the folder, sorted; names that begin with a dot are ignored."""
    paths: list[Path] = []
    folders, links, seen = [folder], list[Path](), set[Path]()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        if current.resolve() in seen:
            skipped["linked folders read before"] += 1
            continue
        seen.add(current.resolve())
        for path in sorted(current.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                (links if path.is_symlink() else folders).append(path)
            elif path.suffix.lower() in SUFFIXES and path.is_file():
                paths.append(path)
            else:
                skipped[f"{path.suffix or 'other'} files"] += 1
    return sorted(paths)


def load_folder(folder: Path, resize: tuple[int, int] | None, skipped: Skipped) -> Part:
    """All images of a folder; labels are class names (N,) or None."""
    paths = image_paths(folder, skipped)
    if not paths:
        raise DatasetError(f"no images in the folder {folder.name!r}", expected=FILES)
    images = read_images(paths, folder, resize, skipped)
    return Part(Rows(images), class_names(paths, folder))


def read_images(
    paths: list[Path], folder: Path, resize: tuple[int, int] | None, skipped: Skipped
) -> Bytes:
    """Image files of one size, uint8 (N, H, W, C); C is 3 where any of them is in colour.

    Messages name them relative to `folder`.
    """
    names = [str(path.relative_to(folder)) for path in paths]
    images = np.empty((0, 0, 0, 0), np.uint8)
    for k, (path, name) in enumerate(zip(paths, names, strict=True)):
        image = _read(path, resize, name, skipped)
        if k == 0:
            images = np.empty((len(paths), *image.shape), np.uint8)
        if image.shape[:2] != images.shape[1:3]:
            one, other = (
                "x".join(map(str, shape)) for shape in (images.shape[1:3], image.shape[:2])
            )
            raise DatasetError(
                f"images of several sizes, such as {one} ({names[0]}) and {other} ({name})",
                expected="one size",
                hint="Pass --resize HEIGHTxWIDTH, for example --resize 28x28.",
            )
        if image.shape[2] > images.shape[3]:
            images = images.repeat(3, axis=3)
        images[k] = image
    return images


def class_names(paths: list[Path], folder: Path) -> NDArray[np.str_] | None:
    """The first sub-folder of each path, (N,); None if any image lies in the folder itself."""
    parts = [path.relative_to(folder).parts for path in paths]
    return np.array([part[0] for part in parts]) if all(len(part) > 1 for part in parts) else None


def _read(path: Path, resize: tuple[int, int] | None, name: str, skipped: Skipped) -> Bytes:
    """One image file, uint8 (H, W, 1) if grey or (H, W, 3)."""
    try:
        body = path.read_bytes()
        fit: Fit | None = "stretch" if resize else None
        image = read(body, size=resize, fit=fit)
    except DenoiserError as exc:
        raise _unreadable(name, exc.received, exc.expected) from exc
    except OSError as exc:
        raise _unreadable(name, str(exc.strerror), "a file that can be read") from exc
    skipped["further frames or pages"] += frame_count(body) - 1
    return image


def _unreadable(name: str, why: str, expected: str) -> DatasetError:
    return DatasetError(
        f"the image {name!r} cannot be read ({why})",
        expected=expected,
        hint="Repair it or remove it from the folder.",
    )
