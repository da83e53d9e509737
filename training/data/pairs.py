"""Real noise: each clean image with the noisy one that a camera, scanner or channel made of it.

As a folder: `clean/` and `noisy/` side by side, each picture in one with the same name in the
other, sub-folders included; the suffixes may differ (`clean/a/1.png`, `noisy/a/1.jpg`). Pictures
that all lie in sub-folders are labelled by the first of them. As a `.npz`: the arrays `clean` and
`noisy` of one shape, and `labels` where they exist. Noisy images are kept as uint8, as clean ones
are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.arrays import array_names, as_images, as_labels
from training.data.folders import classes_of, picture_paths, read_pictures
from training.errors import DatasetError

SIDES = ("clean", "noisy")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NAMED = 5  # files in a message, at most


class Pairs(NamedTuple):
    """Clean and noisy images uint8 (N, H, W, C) in 0..255, in one order.

    `classes` are names of folders, or the int64 labels of a file, or None.
    """

    clean: NDArray[np.uint8]
    classes: list[str] | NDArray[np.int64] | None
    noisy: NDArray[np.uint8]


def is_pair_folder(folder: Path) -> bool:
    """Whether the folder has both sides."""
    return all((folder / side).is_dir() for side in SIDES)


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of "train", "validation" and "test", by their usual names in any case.

    Empty where there is no "train" beside at least one of the others.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = SPLITS.get(path.name.lower())
        if split is None or not path.is_dir():
            continue
        if split in found:
            raise DatasetError(
                f"two folders for the {split} split, {found[split].name} and {path.name}",
                expected="one",
            )
        found[split] = path
    return found if "train" in found and len(found) > 1 else {}


def holds_pairs(path: Path) -> bool:
    """Whether a dataset's path holds pairs, without reading any image."""
    if path.is_dir():
        train = split_folders(path).get("train")
        return is_pair_folder(path) or (train is not None and is_pair_folder(train))
    return path.suffix == ".npz" and array_names(path).issuperset(SIDES)


def load_pair_folder(folder: Path, resize: tuple[int, int] | None) -> Pairs:
    """All pairs of a folder, matched by name; a picture without its partner is a DatasetError."""
    sides = {side: _by_name(folder, side) for side in SIDES}
    lonely = [
        path.relative_to(folder).as_posix()
        for side, other in (SIDES, SIDES[::-1])
        for name, path in sides[side].items()
        if name not in sides[other]
    ]
    if lonely:
        more = f" and {len(lonely) - NAMED} more" * (len(lonely) > NAMED)
        raise DatasetError(
            f"pictures without a partner in {folder.name!r}: {', '.join(lonely[:NAMED])}{more}",
            expected="the same names under clean/ and noisy/",
        )
    if not sides["clean"]:
        raise DatasetError(
            f"no pictures in {folder.name!r} under clean/ and noisy/",
            expected="image files in both",
        )
    clean = list(sides["clean"].values())
    noisy = [sides["noisy"][name] for name in sides["clean"]]
    images = read_pictures(clean + noisy, folder, resize)  # together: one size, one C
    classes = classes_of(clean, folder / "clean")
    return Pairs(images[: len(clean)], classes, images[len(clean) :])


def pairs_of_arrays(arrays: dict[str, NDArray[Any]]) -> Pairs:
    """The pairs of a `.npz` that was read."""
    clean, noisy = (as_images(arrays[side], side) for side in SIDES)
    if clean.shape != noisy.shape:
        raise DatasetError(
            f"the arrays 'clean' {clean.shape} and 'noisy' {noisy.shape}",
            expected="one shape (N, H, W, C)",
        )
    return Pairs(clean, as_labels(arrays.get("labels"), "labels", len(clean)), noisy)


def _by_name(folder: Path, side: str) -> dict[str, Path]:
    """The pictures of one side, sorted, by their path in it without the suffix."""
    by_name: dict[str, Path] = {}
    for path in picture_paths(folder / side):
        name = path.relative_to(folder / side).with_suffix("").as_posix()
        if name in by_name:
            names = (file.relative_to(folder).as_posix() for file in (by_name[name], path))
            raise DatasetError(
                f"two pictures of one name, {' and '.join(names)}",
                expected="names that differ in more than the suffix",
                hint="Rename one of them on both sides.",
            )
        by_name[name] = path
    return by_name
