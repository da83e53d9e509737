"""Many images in chunks: peak memory depends neither on their number nor on their size."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from math import prod

from common import memory

# Of a chunk as float32: 1,300 images of 28×28×1, or 9 of 192×192×3.
CHUNK_BYTES = 4 << 20


def chunks(count: int, row_shape: tuple[int, ...], *, limit: int = CHUNK_BYTES) -> Iterator[slice]:
    """Slices of `count` rows of float32 `row_shape`: at most `limit` bytes, at least one row."""
    rows = max(1, limit // (4 * prod(row_shape)))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def free_memory() -> None:
    """Collect TensorFlow's graphs, which refer to themselves; return what glibc keeps of them."""
    gc.collect()
    memory.trim()
