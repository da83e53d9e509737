"""PNG over HTTP: one image to rows and back. How files are read: `common/images.py`."""

from __future__ import annotations

import io

from PIL import Image

from common import images
from common.arrays import Array
from common.images import Fit
from service.codecs.rows import RowSpec


def decode(body: bytes, spec: RowSpec, *, fit: Fit | None = None, invert: bool = False) -> Array:
    """One PNG as uint8 (1, H, W, C); errors as `common.images.read` has them."""
    height, width, channels = spec.shape
    size = (height, width)
    return images.read(
        body, channels=channels, size=size, fit=fit, invert=invert, formats=("PNG",)
    )[None]


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
