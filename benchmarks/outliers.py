"""Images that are not upright digits, in MNIST's style: light ink on black.

The kinds are in `DRAWN` (from a random generator alone) and `CHANGED` (from digits). Each gives
clean images, uint8 (N, H, W, C) in 0..255; a benchmark adds the same noise to them as to the
digits, so that the noise reveals nothing. `PURE_NOISE` has no image underneath and is used as it
is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import ascii_letters

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.arrays import Array

Shape = tuple[int, int, int]  # height, width, channels
Draw = Callable[[int, Shape, np.random.Generator], Array]

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
    "cmtt10",
)
# Letters that look like a digit in at least one of these fonts.
LOOK_ALIKES = "OoQDIilJjLZzSsBGgqbaey"
LETTERS = "".join(letter for letter in ascii_letters if letter not in LOOK_ALIKES)
BOX = 20 / 28  # of the side, as in MNIST
MAX_ROTATION = 10.0  # degrees, in both directions


def letters(count: int, shape: Shape, rng: np.random.Generator, text: str = LETTERS) -> Array:
    """Single letters of `text` in many fonts, slightly rotated, centred by mass as in MNIST."""
    return np.stack([_letter(rng, shape, text) for _ in range(count)])


def look_alikes(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Letters that look like digits: O, l, Z, S, B, g and others."""
    return letters(count, shape, rng, LOOK_ALIKES)


def stripes(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Sine waves in any direction, with periods from 4 pixels to half of the image."""
    y, x = _grid(shape)
    angle, phase = rng.uniform(0, np.pi, (count, 1, 1)), rng.uniform(0, 2 * np.pi, (count, 1, 1))
    period = rng.uniform(4, min(shape[:2]) / 2, (count, 1, 1))
    waves = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period + phase)
    return _levels((waves + 1) / 2, shape)


def checkerboards(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Black and white squares of 2 to 7 pixels, shifted at random."""
    y, x = _grid(shape)
    size = rng.integers(2, 8, (count, 1, 1))
    up, left = rng.integers(0, 14, (2, count, 1, 1))
    return _levels(((y + up) // size + (x + left) // size) % 2, shape)


def gradients(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Linear gradients from black to white, in any direction."""
    y, x = _grid(shape)
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    slope = np.cos(angle) * (x / (shape[1] - 1) - 0.5) + np.sin(angle) * (y / (shape[0] - 1) - 0.5)
    low = slope.min(axis=(1, 2), keepdims=True)
    high = slope.max(axis=(1, 2), keepdims=True)
    return _levels((slope - low) / (high - low), shape)


def blobs(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Three to six soft round spots anywhere."""
    y, x = _grid(shape)
    planes = np.zeros((count, *shape[:2]))
    for plane in planes:
        for _ in range(int(rng.integers(3, 7))):
            centre_y, centre_x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
            width = rng.uniform(1.5, 4.0)
            plane += np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / (2 * width**2))
    return _levels(np.clip(planes, 0, 1), shape)


def smooth_fields(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Smooth random fields, scaled to [0, 1]: clouds."""
    height, width = shape[:2]
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    spectrum = np.fft.rfft2(rng.standard_normal((count, height, width)))
    fields = np.fft.irfft2(spectrum * np.exp(-(fy**2 + fx**2) * 150), s=(height, width))
    low, high = fields.min(axis=(1, 2), keepdims=True), fields.max(axis=(1, 2), keepdims=True)
    return _levels((fields - low) / (high - low), shape)


def constant(level: int) -> Draw:
    """Images of one grey level, 0..255."""

    def draw(count: int, shape: Shape, rng: np.random.Generator) -> Array:
        return np.full((count, *shape), level, np.uint8)

    return draw


def uniform_noise(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Every value equally likely."""
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8)


def gaussian_noise(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """N(0.5, 0.25), clipped: weaker than the noise that MNIST's model was trained on."""
    return np.rint(np.clip(rng.normal(0.5, 0.25, (count, *shape)), 0, 1) * 255).astype(np.uint8)


def salt_and_pepper(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Black or white, with equal probability."""
    return rng.integers(0, 2, (count, *shape), dtype=np.uint8) * np.uint8(255)


def rotated(degrees: float) -> Callable[[Array], Array]:
    """Rotation by `degrees` anticlockwise: exact by 90 and 180, else bicubic."""

    def rotate(digits: Array) -> Array:
        if degrees % 90 == 0:
            return np.ascontiguousarray(np.rot90(digits, int(degrees // 90), axes=(1, 2)))
        result = np.empty_like(digits)
        for digit, target in zip(digits, result, strict=True):
            for channel in range(digit.shape[-1]):
                plane = Image.fromarray(digit[..., channel])
                target[..., channel] = plane.rotate(degrees, Image.Resampling.BICUBIC)
        return result

    return rotate


def inverted(digits: Array) -> Array:
    """Black ink on white."""
    return 255 - digits


DRAWN: dict[str, Draw] = {
    "letters": letters,
    "letters that look like digits": look_alikes,
    "stripes": stripes,
    "checkerboards": checkerboards,
    "gradients": gradients,
    "blobs": blobs,
    "smooth fields": smooth_fields,
    "black images": constant(0),
    "grey images": constant(128),
    "white images": constant(255),
}
CHANGED: dict[str, Callable[[Array], Array]] = {
    "digits rotated by 45°": rotated(45),
    "digits rotated by 90°": rotated(90),
    "digits rotated by 180°": rotated(180),
    "inverted digits": inverted,
}
PURE_NOISE: dict[str, Draw] = {
    "uniform noise": uniform_noise,
    "gaussian noise": gaussian_noise,
    "salt and pepper": salt_and_pepper,
}


def _letter(rng: np.random.Generator, shape: Shape, text: str) -> Array:
    """One letter, uint8 (H, W, C): drawn large, rotated, resized to the box, centred by mass."""
    height, width, channels = shape
    font = ImageFont.truetype(str(_font_folder() / f"{rng.choice(FONTS)}.ttf"), 96)
    canvas = Image.new("L", (224, 224))
    ImageDraw.Draw(canvas).text((112, 112), str(rng.choice([*text])), 255, font, anchor="mm")
    canvas = canvas.rotate(rng.uniform(-MAX_ROTATION, MAX_ROTATION), Image.Resampling.BICUBIC)
    ink = canvas.crop(canvas.getbbox())
    scale = BOX * min(height, width) / max(ink.size)
    sides = [max(1, round(side * scale)) for side in ink.size]
    small = np.asarray(ink.resize(sides, Image.Resampling.BOX))
    top, left = (_start(small.sum(axis=axis), side) for axis, side in ((1, height), (0, width)))
    image = np.zeros((height, width, 1), np.uint8)
    image[top : top + small.shape[0], left : left + small.shape[1], 0] = small
    return np.repeat(image, channels, axis=2)


def _font_folder() -> Path:
    from matplotlib import get_data_path  # slow to import

    return Path(get_data_path()) / "fonts" / "ttf"


def _start(mass: Array, side: int) -> int:
    """The offset that puts the centre of mass of a profile in the middle of `side` pixels."""
    centre = float(np.average(np.arange(len(mass)) + 0.5, weights=mass))
    return int(np.clip(round(side / 2 - centre), 0, side - len(mass)))


def _grid(shape: Shape) -> tuple[Array, Array]:
    """Row and column numbers, (H, 1) and (1, W)."""
    return np.arange(shape[0])[:, None], np.arange(shape[1])[None]


def _levels(values: Array, shape: Shape) -> Array:
    """(N, H, W) in [0, 1] → uint8 (N, H, W, C), the same in each channel."""
    levels = np.rint(values * 255).astype(np.uint8)[..., None]
    return np.repeat(levels, shape[2], axis=3)
