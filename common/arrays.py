"""Array types, and the one way from bytes to numbers.

Images are uint8 (N, H, W, C) in 0..255 or float32 (N, H, W, C) in [0, 1]; latents are float32
(N, latent_size). Every stage converts with `to_floats`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def to_floats(images: Bytes) -> Floats:
    """uint8 in 0..255 to float32 in [0, 1], same shape: each value divided by 255 in float32."""
    floats: Floats = np.divide(images, np.float32(255), dtype=np.float32)
    return floats


def to_bytes(images: Floats) -> Bytes:
    """float32 in [0, 1] to uint8 in 0..255, same shape, rounded half to even."""
    rounded: Bytes = np.rint(images * np.float32(255)).astype(np.uint8)
    return rounded
