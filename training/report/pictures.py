"""Images as PNG data URIs, small enough for a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 160  # pixels of the longer side; more is not seen in a grid


def data_uri(image: NDArray[np.float32]) -> str:
    """float32 (H, W, C) in [0, 1], C 1 or 3, as a PNG in a `data:` address."""
    values = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def data_uris(images: NDArray[np.float32]) -> list[str]:
    """One for each of float32 (N, H, W, C) in [0, 1]."""
    return [data_uri(image) for image in images]
