"""Memory that the C library keeps after it was freed; nothing of this with another one than glibc.

glibc raises the size from which a block is mapped by itself up to 32 MiB, as such blocks are freed,
and has up to eight heaps per core. What large requests leave in them stays with the process.
Source: mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h
MAPPED = 4 * 2**20  # bytes; the memory of a larger block is returned when it is freed


def return_early() -> None:
    """Map large blocks by themselves, and keep small ones in one heap."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_THRESHOLD, MAPPED)
        library.mallopt(M_ARENA_MAX, 1)


def trim() -> None:
    """Return what is free in the heap."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
