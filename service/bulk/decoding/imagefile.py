"""Image files as rows of the model's shape, many at a time; `common/images.py` reads each."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

import numpy as np

from common import images
from common.arrays import Array
from common.errors import TooLargeError
from common.images import SUFFIXES, Fit
from service.bulk.batch import Reason
from service.bulk.errors import reason
from service.codecs.rows import RowSpec

MAX_BYTES = 64 * 2**20  # of one image file, as the service's own limit on a body


def is_picture(name: str) -> bool:
    """Whether a file's name says that it is an image; hidden ones are not looked at."""
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return dot > 0 and base[0] != "." and base[dot:].lower() in SUFFIXES


def check_bytes(size: int) -> None:
    """Refuse an image file by its size, before its bytes are read."""
    if size > MAX_BYTES:
        raise TooLargeError(f"an image file of {size:,} bytes", expected=f"at most {MAX_BYTES:,}")


# Beginnings of files that may have further frames or pages; asking takes as long as reading.
_FRAMED = (b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# A file's bytes, or the path of one that is still to be read, or why there are none.
Item = bytes | str | OSError


def decode_some(
    items: Sequence[Item], spec: RowSpec, *, fit: Fit | None = None, invert: bool = False
) -> tuple[Array, list[tuple[int, Reason]]]:
    """Image files as uint8 (n, H, W, C); the index of each that failed or has more, and why.

    Rows of failed files are left uninitialised.
    """
    height, width, channels = spec.shape
    size, rows = (height, width), np.empty((len(items), *spec.shape), np.uint8)
    reasons: list[tuple[int, Reason]] = []
    for index, item in enumerate(items):
        try:
            if isinstance(item, OSError):
                raise item
            body = contents(item) if isinstance(item, str) else item
            check_bytes(len(body))
            rows[index] = images.read(body, channels=channels, size=size, fit=fit, invert=invert)
            framed = body.startswith(_FRAMED) or b"acTL" in body[:1024]  # an animated PNG
            if framed and (skipped := images.frame_count(body) - 1):
                reasons.append((index, skipped))
        except Exception as exc:  # one bad file does not stop the others
            reasons.append((index, reason(exc)))
    return rows, reasons


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
