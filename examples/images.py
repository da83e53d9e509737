"""Images in and out: a folder of PNGs as an array, rows of images as one contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from service.bundle import Manifest
from service.codecs import png
from service.codecs.rows import RowSpec

Array = np.ndarray[Any, np.dtype[Any]]
Row = tuple[str, Array]  # a title, and uint8 (n, H, W, C)

ZOOM = 3  # each pixel of an image is so many wide and high
GAP, TEXT = 4, 16


def read(paths: Sequence[Path], manifest: Manifest) -> Array:
    """PNGs of the model's own size as uint8 (N, H, W, C); other sizes are shrunk or enlarged."""
    spec = RowSpec("images", manifest.image_shape)
    read = [png.decode(path.read_bytes(), spec, fit="contain") for path in paths]
    return np.concatenate([np.empty((0, *manifest.image_shape), np.uint8), *read])


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """A PNG with one row of images under each title."""
    height, width = rows[0][1].shape[1:3]
    across = max(len(images) for _, images in rows)
    step = height * ZOOM + GAP + TEXT
    sheet = Image.new("RGB", (across * (width * ZOOM + GAP) + GAP, len(rows) * step + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (title, images) in enumerate(rows):
        pen.text((GAP, k * step + 2), title, fill="black")
        for place, image in enumerate(images):
            tile = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            large = tile.resize((width * ZOOM, height * ZOOM), Image.Resampling.NEAREST)
            sheet.paste(large, (GAP + place * (width * ZOOM + GAP), k * step + TEXT))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
