"""Image files of all kinds as rows of the model's shape.

PNG goes through service/codecs/png.py. Other formats (first frame, turned as EXIF says) are
rewritten as PNG in memory and go the same way, so one table of conversions holds for all.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from common.arrays import Array
from common.errors import MalformedError, ShapeError, TooLargeError
from service.bulk.errors import reason
from service.codecs import png
from service.codecs.png import Fit
from service.codecs.rows import RowSpec

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"))
MAX_BYTES = 64 * 2**20  # of one image file, as the service's own limit on a body

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def is_picture(name: str) -> bool:
    """Whether a file's name says that it is an image; hidden ones are not looked at."""
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return dot > 0 and base[0] != "." and base[dot:].lower() in SUFFIXES


def decode(body: bytes, spec: RowSpec, *, fit: Fit | None = None, invert: bool = False) -> Array:
    """One image file as uint8 (1, H, W, C).

    Raises:
        MalformedError: not an image of `FORMATS`, or a broken one. ShapeError: another size and no
            `fit`. TooLargeError: too many bytes or pixels. Sizes are looked at before pixels.
    """
    check_bytes(len(body))
    if not body.startswith(_SIGNATURE):
        body = _as_png(body, spec, fit)
    return png.decode(body, spec, fit=fit, invert=invert)


def check_bytes(size: int) -> None:
    """Refuse an image file by its size, before its bytes are read."""
    if size > MAX_BYTES:
        raise TooLargeError(
            f"an image file of {size:,} bytes",
            expected=f"at most {MAX_BYTES:,}",
            hint="Shrink it first.",
        )


def _as_png(body: bytes, spec: RowSpec, fit: Fit | None) -> bytes:
    """An image of another format as the bytes of a PNG, uncompressed."""
    height, width, _ = spec.shape
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            if fit is None and image.size not in ((width, height), (height, width)):
                raise ShapeError(
                    f"an image of {image.width} × {image.height} pixels",
                    expected=f"{width} × {height}",
                    hint="Resize it, or ask for --fit contain or --fit stretch.",
                )
            if image.width * image.height > png.MAX_PIXELS:
                raise TooLargeError(
                    f"an image of {image.width} × {image.height} pixels",
                    expected=f"at most {png.MAX_PIXELS:,} pixels",
                    hint="Shrink it first.",
                )
            if image.mode in ("I", "F"):
                raise ValueError(f"mode {image.mode}, whose range is not known")
            turned = ImageOps.exif_transpose(image)
            if turned.mode not in _PNG_MODES:
                turned = turned.convert("RGB")
            stream = io.BytesIO()
            turned.save(stream, "PNG", compress_level=0)
            return stream.getvalue()
    except (ShapeError, TooLargeError):
        raise
    except Exception as exc:  # Pillow raises many kinds for broken files
        raise MalformedError(
            "not a whole image",
            expected=f"one of {', '.join(FORMATS)}",
            hint="Look at the file; save it again.",
        ) from exc


# A file's bytes, or the path of one that is still to be read, or why there are none.
Item = bytes | str | OSError


def decode_some(
    items: Sequence[Item], spec: RowSpec, *, fit: Fit | None = None, invert: bool = False
) -> tuple[Array, list[tuple[int, str]]]:
    """Image files as uint8 (n, H, W, C), and which of them failed: index and reason.

    The rows of those are left as they come from memory.
    """
    rows = np.empty((len(items), *spec.shape), np.uint8)
    failures = []
    for index, item in enumerate(items):
        try:
            if isinstance(item, OSError):
                raise item
            body = contents(item) if isinstance(item, str) else item
            rows[index] = decode(body, spec, fit=fit, invert=invert)[0]
        except Exception as exc:  # whatever is wrong with one file, the others are read
            failures.append((index, reason(exc)))
    return rows, failures


def contents(path: str) -> bytes:
    """The bytes of a regular file of at most MAX_BYTES; a pipe's name does not make it wait."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        check_bytes(state.st_size)
        body = os.read(handle, state.st_size)
        if len(body) != state.st_size:
            raise OSError(errno.EIO, "it changed while it was read")
        return body
    finally:
        os.close(handle)
