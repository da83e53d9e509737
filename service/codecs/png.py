"""PNG: one image, converted the documented way.

What comes                      grey models (C = 1)             colour models (C = 3)
8-bit grey, 1-bit               as it is                        the grey in all three channels
16-bit grey                     divided by 257, rounded         the same, in all three
palette, RGB                    ITU-R 601 luma (Pillow's "L")   RGB
alpha in any of them            composed over black first       composed over black first
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from service.codecs.rows import Array, RowSpec
from service.errors import MalformedError, ShapeError


def decode(body: bytes, spec: RowSpec) -> Array:
    """One PNG as uint8 (1, H, W, C).

    Raises:
        MalformedError: not a PNG, or a broken one. ShapeError: another size; read from the header,
            before a single pixel is decoded.
    """
    height, width, channels = spec.shape
    try:
        with Image.open(io.BytesIO(body), formats=["PNG"]) as image:
            if image.size != (width, height):
                raise ShapeError(
                    f"a PNG of {image.width} × {image.height} pixels",
                    expected=f"{width} × {height}",
                    todo="Resize it to the model's size.",
                )
            image.load()
            pixels = _to_channels(image, channels)
    except ShapeError:
        raise
    except Exception as exc:  # Pillow raises many kinds for broken files
        raise MalformedError(
            "a body that is not a whole PNG",
            expected="a PNG file",
            todo="Send the file's bytes as they are, as image/png.",
        ) from exc
    return pixels.reshape(1, height, width, channels)


def encode(image: Array) -> bytes:
    """uint8 (H, W, C) as a grey (C = 1) or RGB (C = 3) PNG."""
    stream = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _to_channels(image: Image.Image, channels: int) -> Array:
    if image.mode.startswith("I"):  # 16-bit grey
        grey = np.rint(np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], channels, axis=-1)
    if "A" in image.mode or "transparency" in image.info:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), colours)
    return np.asarray(image.convert("L" if channels == 1 else "RGB"), np.uint8)
