"""The one reader of image files: what training learns from is read as what the service answers.

in the file                        in memory
8-bit grey, 1-bit                  as it is
16-bit grey                        full scale to 255: divided by 257, or by the file's own maximum
                                   (TIFF tag MaxSampleValue, e.g. 4095 for 12-bit data), rounded
float grey (TIFF)                  values in [0, 1], times 255, rounded; others are refused
32-bit integers (TIFF)             refused: their range is not known
palette, RGB, CMYK, YCbCr, ...     RGB; for one channel ITU-R 601 luma (Pillow's "L")
transparency, in any of them       laid on white
orientation (EXIF, any format)     applied
further frames or pages            not read (`frame_count` tells how many there are)

Sizes are checked before pixels are decoded. Resizing has one rule: Pillow's box filter where both
sides shrink, else its bilinear filter. "contain" keeps the aspect and pads with black.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from common.arrays import Bytes
from common.errors import DenoiserError, MalformedError, RangeError, ShapeError, TooLargeError

Fit = Literal["contain", "stretch"]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"))
# An image to be resized is decoded whole: 16 million pixels are 64 MB at four bytes each.
MAX_PIXELS = 4096 * 4096
MAX_PNG_CHUNKS = (
    2**14
)  # Pillow takes microseconds for each; 64 MB in the usual 8 KiB are half of it
MAX_EXIF = 2**16  # bytes, what a JPEG can hold; one tag after the other may refer to all of them

_GREY_MODES = frozenset(("1", "L", "LA", "La", "F", "I", "I;16", "I;16B", "I;16L", "I;16N"))
_ORIENTATION, _MAX_SAMPLE_VALUE = 0x0112, 281  # EXIF; TIFF


def read(
    body: bytes,
    *,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    fit: Fit | None = None,
    invert: bool = False,
    formats: Sequence[str] = FORMATS,
) -> Bytes:
    """One image file as pixels.

    Args:
        body: the file's bytes.
        channels: 1 for grey, 3 for RGB, None for what the file has.
        size: (height, width) that the result must have, None for any.
        fit: how another size becomes `size`; None refuses it.
        invert: for dark ink on light paper: 255 − v, after transparency and before padding.
        formats: Pillow's names of the formats to accept.

    Returns:
        uint8 (H, W, C).

    Raises:
        MalformedError: not an image of these formats, or a broken one. RangeError: float or 32-bit
        values whose range is not known. ShapeError: another size and no `fit`. TooLargeError: more
        than MAX_PIXELS.
    """
    try:
        _check_chunks(body)
        with Image.open(io.BytesIO(body), formats=formats) as image:
            _check_size(image, size, fit)
            image.load()
            orientation = _orientation(image)
            eight_bit = _to_eight_bit(image)
            if orientation != 1:
                eight_bit = _turned(eight_bit, orientation)
    except DenoiserError:
        raise
    except Exception as exc:  # Pillow raises many kinds for broken files
        raise MalformedError(
            "bytes that are not a whole image", expected=f"one of {', '.join(formats)}"
        ) from exc
    if channels is not None:
        eight_bit = _converted(eight_bit, "L" if channels == 1 else "RGB")
    if invert:
        eight_bit = ImageOps.invert(eight_bit)
    if size is not None and eight_bit.size != size[::-1]:
        if fit is None:
            raise _wrong_size(eight_bit.size, size)
        eight_bit = resize(eight_bit, size, fit)
    pixels = np.asarray(eight_bit, np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def resize(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """An image of mode L or RGB at `size`, (height, width), by the rule of this module."""
    height, width = size
    shrinks = image.width >= width and image.height >= height
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    if fit == "stretch":
        return image.resize((width, height), method)
    return ImageOps.pad(image, (width, height), method, color=0)


def frame_count(body: bytes) -> int:
    """How many frames or pages a file has; 1 for a file that cannot be read."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # `read` tells what is wrong
        return 1


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 where there is none, or none that can be read.

    Pillow applies a TIFF's by itself, in its size from the start.
    """
    if image.format == "PNG" and "exif" not in image.info:  # which may follow the pixels
        return 1
    if image.format in ("BMP", "GIF") or len(image.info.get("exif", b"")) > MAX_EXIF:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata is no reason to lose the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image upright (EXIF 2.32, table 6, Orientation)."""
    flip = Image.Transpose
    method = {
        2: flip.FLIP_LEFT_RIGHT,
        3: flip.ROTATE_180,
        4: flip.FLIP_TOP_BOTTOM,
        5: flip.TRANSPOSE,
        6: flip.ROTATE_270,
        7: flip.TRANSVERSE,
        8: flip.ROTATE_90,
    }[orientation]
    return image.transpose(method)


def _check_size(image: Image.Image, size: tuple[int, int] | None, fit: Fit | None) -> None:
    """Refuse a size that no orientation makes right, before pixels are decoded."""
    if size is not None and fit is None and image.size not in (size, size[::-1]):
        raise _wrong_size(image.size, size)
    if image.width * image.height > MAX_PIXELS:
        raise TooLargeError(
            f"an image of {image.width} × {image.height} pixels",
            expected=f"at most {MAX_PIXELS:,} pixels",
        )


def _check_chunks(body: bytes) -> None:
    """Refuse a PNG of more than MAX_PNG_CHUNKS chunks."""
    if not body.startswith(b"\x89PNG\r\n\x1a\n"):
        return
    offset = 8
    for _ in range(MAX_PNG_CHUNKS):
        if offset >= len(body):
            return
        offset += 12 + int.from_bytes(body[offset : offset + 4], "big")
    raise TooLargeError(f"a PNG of more than {MAX_PNG_CHUNKS} chunks", expected="fewer")


def _wrong_size(size: tuple[int, int], expected: tuple[int, int]) -> ShapeError:
    return ShapeError(
        f"an image of {size[0]} × {size[1]} pixels",
        expected=f"{expected[1]} × {expected[0]}",
        hint="Resize it, or ask for fit contain or stretch.",
    )


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """A decoded image in mode L or RGB, transparency laid on white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled(image)
    grey = image.mode in _GREY_MODES
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    return _converted(image, "L" if grey else "RGB")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as mode L."""
    values: Any = np.asarray(image)
    transparent = image.info.get("transparency")
    if image.mode == "F":
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not (low >= 0 and high <= 1):  # also NaN
            raise RangeError(f"float pixels from {low:g} to {high:g}", expected="values in [0, 1]")
        full = 1.0
    elif image.mode == "I" and image.format != "PNG":
        raise RangeError(
            "pixels of 32-bit integers, whose range is not known",
            expected="8 or 16 bits, or floats in [0, 1]",
        )
    else:
        tags = getattr(image, "tag_v2", {})
        largest = tags.get(_MAX_SAMPLE_VALUE, 65535)
        largest = largest[0] if isinstance(largest, tuple) else largest
        full = float(largest) if 0 < largest <= 65535 else 65535.0
    eight_bit = np.rint(values.astype(np.float32) * np.float32(255 / full)).clip(0, 255)
    if isinstance(transparent, int):
        eight_bit[values == transparent] = 255
    return Image.fromarray(eight_bit.astype(np.uint8))
