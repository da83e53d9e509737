"""A folder of pictures as a dataset: PNG, JPEG, BMP and TIFF, grey or colour, nested or flat.

Folders `train/` and `test/` at the top, where both exist, keep their own split. Pictures that
all lie in sub-folders are labelled by the first of them, one class a folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from training.errors import DatasetError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
GREY_MODES = frozenset({"1", "L", "I", "F", "I;16", "I;16B", "I;16L"})


class FolderImages(NamedTuple):
    """Pictures in the order of their names; labels int64 (N,) or None."""

    images: NDArray[np.uint8]  # (N, H, W, C), 0..255
    labels: NDArray[np.int64] | None


def picture_paths(folder: Path) -> list[Path]:
    """Every picture under the folder, sorted; names that begin with a dot are passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def load_folder(folder: Path, resize: tuple[int, int] | None) -> FolderImages:
    """All pictures of a folder, uint8 (N, H, W, C); C is 3 where any of them is in colour."""
    paths = picture_paths(folder)
    if not paths:
        raise DatasetError(
            f"no pictures in the folder {folder.name!r}",
            expected="PNG, JPEG, BMP or TIFF files",
            hint="Pass the folder that holds them.",
        )
    return FolderImages(read_pictures(paths, folder, resize), labels_of(paths, folder))


def read_pictures(
    paths: list[Path], folder: Path, resize: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """Pictures of one size, uint8 (N, H, W, C); C is 3 where any of them is in colour.

    Messages name them relative to `folder`.
    """
    pictures = [read_picture(path, resize, name=str(path.relative_to(folder))) for path in paths]
    shapes = {picture.shape[:2] for picture in pictures}
    if len(shapes) > 1:
        size = pictures[0].shape[:2]
        odd = next(k for k, picture in enumerate(pictures) if picture.shape[:2] != size)
        raise DatasetError(
            f"pictures of {len(shapes)} sizes, such as {_size(paths[0], pictures[0], folder)} and "
            f"{_size(paths[odd], pictures[odd], folder)}",
            expected="one size",
            hint="Pass --resize HEIGHTxWIDTH, for example --resize 28x28.",
        )
    channels = max(picture.shape[2] for picture in pictures)
    return np.stack([np.broadcast_to(p, (*p.shape[:2], channels)) for p in pictures])


def read_picture(path: Path, resize: tuple[int, int] | None, *, name: str) -> NDArray[np.uint8]:
    """One picture, upright, uint8 (H, W, 1) if grey or (H, W, 3); `name` is for the message."""
    try:
        with Image.open(path) as opened:
            picture = _eight_bit(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DatasetError(
            f"the picture {name!r} cannot be read",
            expected="a whole PNG, JPEG, BMP or TIFF file",
            hint="Repair it or take it out of the folder.",
        ) from exc
    if resize:
        height, width = resize
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


def _eight_bit(picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB; what is transparent becomes white, as on a page."""
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        grey = picture.mode in ("LA", "La")
        picture = picture.convert("RGBA")
        page = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(page, picture).convert("L" if grey else "RGB")
    if picture.mode in ("I", "I;16", "I;16B", "I;16L"):  # 16 bits: convert("L") would clip
        values = np.asarray(picture, dtype=np.float64) / 257
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    if picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64) * 255
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
            raise ValueError("float values outside [0, 1]")
        return Image.fromarray(np.rint(values).astype(np.uint8))
    return picture.convert("L" if picture.mode in GREY_MODES else "RGB")


def labels_of(paths: list[Path], folder: Path) -> NDArray[np.int64] | None:
    """The first sub-folder of each path, numbered in the order of the names.

    None if any picture lies in the folder itself.
    """
    parts = [path.relative_to(folder).parts for path in paths]
    if any(len(part) < 2 for part in parts):
        return None
    names = sorted({part[0] for part in parts})
    return np.array([names.index(part[0]) for part in parts], dtype=np.int64)


def _size(path: Path, picture: NDArray[np.uint8], folder: Path) -> str:
    return f"{picture.shape[0]}x{picture.shape[1]} ({path.relative_to(folder)})"
