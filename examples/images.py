"""PNGs as an array, and rows of images as one contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from common.arrays import Array, Bytes
from service.bundle import Manifest
from service.codecs import png
from service.codecs.rows import RowSpec

Row = tuple[str, Array]  # a title, and uint8 (n, H, W, C)

ZOOM = 3  # sheet pixels per image pixel, each way
GAP, TEXT = 4, 16  # sheet pixels between images, and for a title


def read(paths: Sequence[Path], manifest: Manifest) -> Bytes:
    """PNGs as uint8 (N, H, W, C) of the model's size; other sizes are fitted whole into it."""
    spec = RowSpec("images", manifest.image_shape)
    images = [png.decode(path.read_bytes(), spec, fit="contain") for path in paths]
    return np.concatenate([np.empty((0, *manifest.image_shape), np.uint8), *images])


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """A PNG with one row of images under each title."""
    height, width = rows[0][1].shape[1:3]
    columns = max(len(images) for _, images in rows)
    across, down = width * ZOOM + GAP, height * ZOOM + GAP + TEXT
    sheet = Image.new("RGB", (columns * across + GAP, len(rows) * down + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (title, images) in enumerate(rows):
        pen.text((GAP, k * down + 2), title, fill="black")
        for column, image in enumerate(images):
            tile = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            large = tile.resize((width * ZOOM, height * ZOOM), Image.Resampling.NEAREST)
            sheet.paste(large, (GAP + column * across, k * down + TEXT))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
