"""PNG: one image, converted the documented way.

What comes                      grey models (C = 1)             colour models (C = 3)
8-bit grey, 1-bit               as it is                        the grey in all three channels
16-bit grey                     divided by 257, rounded         the same, in all three
palette, RGB                    ITU-R 601 luma (Pillow's "L")   RGB
alpha in any of them            composed over black first       composed over black first

`invert` is for dark ink on light paper: alpha is composed over white, then all values are 255 − v.
`fit` brings other sizes to the model's: "contain" keeps the aspect and pads with the ground (black
after inversion), "stretch" does not. Both resample with Pillow's box filter when shrinking.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from common.arrays import Array
from common.errors import MalformedError, ShapeError, TooLargeError
from service.codecs.rows import RowSpec

Fit = Literal["contain", "stretch"]

# An image to be fitted is decoded whole: 16 million pixels are 64 MB at four bytes each.
MAX_PIXELS = 4096 * 4096


def decode(body: bytes, spec: RowSpec, *, fit: Fit | None = None, invert: bool = False) -> Array:
    """One PNG as uint8 (1, H, W, C).

    Raises:
        MalformedError: not a PNG, or a broken one. ShapeError: another size and no `fit`.
        TooLargeError: more than MAX_PIXELS. Sizes are read from the header, before a single pixel
            is decoded.
    """
    height, width, channels = spec.shape
    try:
        with Image.open(io.BytesIO(body), formats=["PNG"]) as image:
            _check_size(image, (width, height), fit)
            image.load()
            prepared = _to_channels(image, channels, paper=255 if invert else 0)
    except (ShapeError, TooLargeError):
        raise
    except Exception as exc:  # Pillow raises many kinds for broken files
        raise MalformedError(
            "a body that is not a whole PNG",
            expected="a PNG file",
            hint="Send the file's bytes as they are, as image/png.",
        ) from exc
    if invert:
        prepared = ImageOps.invert(prepared)
    if prepared.size != (width, height):
        prepared = _fitted(prepared, (width, height), fit)
    return np.asarray(prepared, np.uint8).reshape(1, height, width, channels)


def pixels(body: bytes) -> int:
    """Width × height as a PNG's header claims; 0 where there is no such header."""
    if len(body) < 24 or body[12:16] != b"IHDR":
        return 0
    return int.from_bytes(body[16:20], "big") * int.from_bytes(body[20:24], "big")


def encode(image: Array) -> bytes:
    """uint8 (H, W, C) as a grey (C = 1) or RGB (C = 3) PNG."""
    stream = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _check_size(image: Image.Image, wanted: tuple[int, int], fit: Fit | None) -> None:
    if image.size != wanted and fit is None:
        raise ShapeError(
            f"a PNG of {image.width} × {image.height} pixels",
            expected=f"{wanted[0]} × {wanted[1]}",
            hint="Resize it, or ask for fit=contain or fit=stretch.",
        )
    if image.width * image.height > MAX_PIXELS:
        raise TooLargeError(
            f"a PNG of {image.width} × {image.height} pixels",
            expected=f"at most {MAX_PIXELS:,} pixels",
            hint="Shrink it first.",
        )


def _to_channels(image: Image.Image, channels: int, *, paper: int) -> Image.Image:
    """The image as mode L or RGB, alpha composed over `paper` (0 black, 255 white)."""
    if image.mode.startswith("I"):  # 16-bit grey
        grey = np.rint(np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    elif "A" in image.mode or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, (paper, paper, paper, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit | None) -> Image.Image:
    method = Image.Resampling.BOX if image.width > size[0] else Image.Resampling.BILINEAR
    if fit == "stretch":
        return image.resize(size, method)
    return ImageOps.pad(image, size, method, color=0)
