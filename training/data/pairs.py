"""Pairs: clean images, each with a noisy one that a camera, scanner or channel produced.

As a folder: `clean/` and `noisy/` side by side, each image in one with the same name in the
other, sub-folders included; the suffixes may differ (`clean/a/1.png`, `noisy/a/1.jpg`). Images
that all lie in sub-folders are labelled by the first of them. As a `.npz`: the arrays `clean` and
`noisy` of one shape, and `labels` where they exist.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.data.arrays import Part, Rows, array_names, as_images, as_labels
from training.data.folders import (
    FILES,
    Skipped,
    class_names,
    image_paths,
    read_images,
    split_folders,
    subfolder,
)
from training.errors import DatasetError

SIDES = ("clean", "noisy")
MAX_NAMED = 5  # files in a message


def is_pair_folder(folder: Path) -> bool:
    """Whether the folder has both sides."""
    return all(subfolder(folder, side) for side in SIDES)


def holds_pairs(path: Path) -> bool:
    """Whether a dataset's path holds pairs, without reading any image."""
    if path.is_dir():
        return is_pair_folder(split_folders(path).get("train", path))
    return path.suffix == ".npz" and array_names(path).issuperset(SIDES)


def load_pair_folder(folder: Path, resize: tuple[int, int] | None, skipped: Skipped) -> Part:
    """All pairs of a folder, matched by name; an image without its partner is a DatasetError."""
    clean, noisy = (_by_name(folder, side, skipped) for side in SIDES)
    unmatched = [
        path.relative_to(folder).as_posix()
        for side, other in ((clean, noisy), (noisy, clean))
        for name, path in side.items()
        if name not in other
    ]
    if unmatched:
        more = f" and {len(unmatched) - MAX_NAMED} more" * (len(unmatched) > MAX_NAMED)
        raise DatasetError(
            f"images without a partner in {folder.name!r}: "
            f"{', '.join(unmatched[:MAX_NAMED])}{more}",
            expected="the same names under clean/ and noisy/",
            hint="Add the partners or remove these files.",
        )
    if not clean:
        raise DatasetError(f"no images in {folder.name!r} under clean/ and noisy/", expected=FILES)
    paths = [*clean.values(), *(noisy[name] for name in clean)]
    images = read_images(paths, folder, resize, skipped)  # together: one size, one C
    side = subfolder(folder, SIDES[0])
    assert side is not None
    labels = class_names([*clean.values()], side)
    return Part(Rows(images[: len(clean)]), labels, Rows(images[len(clean) :]))


def pairs_of_arrays(arrays: dict[str, Any]) -> Part:
    """The pairs of a `.npz` that was read."""
    clean, noisy = (as_images(arrays[side], side) for side in SIDES)
    if clean.shape != noisy.shape:
        raise DatasetError(
            f"the arrays 'clean' {clean.shape} and 'noisy' {noisy.shape}",
            expected="one shape (N, H, W, C)",
        )
    return Part(clean, as_labels(arrays.get("labels"), "labels", len(clean)), noisy)


def _by_name(folder: Path, name: str, skipped: Skipped) -> dict[str, Path]:
    """The images of one side, sorted, by their path in it without the suffix."""
    side = subfolder(folder, name)
    assert side is not None
    paths: dict[str, Path] = {}
    for path in image_paths(side, skipped):
        key = path.relative_to(side).with_suffix("").as_posix()
        if key in paths:
            names = (file.relative_to(folder).as_posix() for file in (paths[key], path))
            raise DatasetError(
                f"two images of one name, {' and '.join(names)}",
                expected="names that differ in more than the suffix",
            )
        paths[key] = path
    return paths
