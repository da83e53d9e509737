"""Things that are not upright digits, drawn as MNIST draws its digits: light ink on black.

Kinds stand in `DRAWN` (made from a generator alone) and `TURNED` (made from digits). Each gives
clean images, uint8 (N, H, W, C) in 0..255; who judges a detector by them spoils them with the noise
that the digits get, so that noise alone gives nothing away. `PURE_NOISE` is what has nothing
underneath and is sent as it is.
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
# In one of these fonts or another, each is a digit to a person who is not told that it is none.
LOOK_ALIKES = "OoQDIilJjLZzSsBGgqbaey"
LETTERS = "".join(letter for letter in ascii_letters if letter not in LOOK_ALIKES)
INK_SHARE = 20 / 28  # of the side: MNIST's box
SLANT = 10.0  # degrees, either way


def letters(count: int, shape: Shape, rng: np.random.Generator, text: str = LETTERS) -> Array:
    """Single letters of `text` in many fonts, slightly turned, centred by mass as MNIST's are."""
    return np.stack([_letter(rng, shape, text) for _ in range(count)])


def look_alikes(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Letters that are digits by shape: O, l, Z, S, B, g …"""
    return letters(count, shape, rng, LOOK_ALIKES)


def stripes(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Sine waves of any direction, periods from 4 pixels to the image's half."""
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
    """Black to white in a straight line, in any direction."""
    y, x = _grid(shape)
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    slope = np.cos(angle) * (x / (shape[1] - 1) - 0.5) + np.sin(angle) * (y / (shape[0] - 1) - 0.5)
    low = slope.min(axis=(1, 2), keepdims=True)
    high = slope.max(axis=(1, 2), keepdims=True)
    return _levels((slope - low) / (high - low), shape)


def blobs(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Three to six soft round spots anywhere."""
    y, x = _grid(shape)
    pages = np.zeros((count, *shape[:2]))
    for page in pages:
        for _ in range(int(rng.integers(3, 7))):
            at_y, at_x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
            width = rng.uniform(1.5, 4.0)
            page += np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / (2 * width**2))
    return _levels(np.clip(pages, 0, 1), shape)


def smooth_fields(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Random fields without fine detail, stretched to [0, 1]: clouds."""
    height, width = shape[:2]
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    spectrum = np.fft.rfft2(rng.standard_normal((count, height, width)))
    fields = np.fft.irfft2(spectrum * np.exp(-(fy**2 + fx**2) * 150), s=(height, width))
    low, high = fields.min(axis=(1, 2), keepdims=True), fields.max(axis=(1, 2), keepdims=True)
    return _levels((fields - low) / (high - low), shape)


def page(level: int) -> Draw:
    """Blank pages of one grey level, 0..255."""

    def draw(count: int, shape: Shape, rng: np.random.Generator) -> Array:
        return np.full((count, *shape), level, np.uint8)

    return draw


def uniform_noise(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Every value equally likely."""
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8)


def gaussian_noise(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """N(0.5, 0.25), clipped: grey grain, milder than what MNIST's model was trained against."""
    return np.rint(np.clip(rng.normal(0.5, 0.25, (count, *shape)), 0, 1) * 255).astype(np.uint8)


def specks(count: int, shape: Shape, rng: np.random.Generator) -> Array:
    """Salt and pepper: black or white, each half of the time."""
    return rng.integers(0, 2, (count, *shape), dtype=np.uint8) * np.uint8(255)


def turned(degrees: float) -> Callable[[Array], Array]:
    """Digits turned by `degrees` against the clock; by 45 bicubic, by 90 and 180 exactly."""

    def turn(digits: Array) -> Array:
        if degrees % 90 == 0:
            return np.ascontiguousarray(np.rot90(digits, int(degrees // 90), axes=(1, 2)))
        made = np.empty_like(digits)
        for digit, target in zip(digits, made, strict=True):
            for channel in range(digit.shape[-1]):
                plane = Image.fromarray(digit[..., channel])
                target[..., channel] = plane.rotate(degrees, Image.Resampling.BICUBIC)
        return made

    return turn


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
    "black pages": page(0),
    "grey pages": page(128),
    "white pages": page(255),
}
TURNED: dict[str, Callable[[Array], Array]] = {
    "digits turned by 45°": turned(45),
    "digits turned by 90°": turned(90),
    "digits turned by 180°": turned(180),
    "inverted digits": inverted,
}
PURE_NOISE: dict[str, Draw] = {
    "uniform noise": uniform_noise,
    "gaussian noise": gaussian_noise,
    "black and white specks": specks,
}


def _letter(rng: np.random.Generator, shape: Shape, text: str) -> Array:
    """One letter, uint8 (H, W, C): drawn large, turned, shrunk to MNIST's box, centred by mass."""
    height, width, channels = shape
    font = ImageFont.truetype(str(_font_folder() / f"{rng.choice(FONTS)}.ttf"), 96)
    canvas = Image.new("L", (224, 224))
    ImageDraw.Draw(canvas).text((112, 112), str(rng.choice([*text])), 255, font, anchor="mm")
    canvas = canvas.rotate(rng.uniform(-SLANT, SLANT), Image.Resampling.BICUBIC)
    ink = canvas.crop(canvas.getbbox())
    scale = INK_SHARE * min(height, width) / max(ink.size)
    small = ink.resize(
        (max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.BOX
    )
    found = np.asarray(small)
    top, left = (_start(found.sum(axis=axis), room) for axis, room in ((1, height), (0, width)))
    placed = np.zeros((height, width, 1), np.uint8)
    placed[top : top + found.shape[0], left : left + found.shape[1], 0] = found
    return np.repeat(placed, channels, axis=2)


def _font_folder() -> Path:
    from matplotlib import get_data_path  # slow to import

    return Path(get_data_path()) / "fonts" / "ttf"


def _start(mass: Array, room: int) -> int:
    """Where a profile of ink begins when its centre of mass is in the middle of `room` pixels."""
    centre = float(np.average(np.arange(len(mass)) + 0.5, weights=mass))
    return int(np.clip(round(room / 2 - centre), 0, room - len(mass)))


def _grid(shape: Shape) -> tuple[Array, Array]:
    """Row and column numbers, (H, 1) and (1, W)."""
    return np.arange(shape[0])[:, None], np.arange(shape[1])[None]


def _levels(values: Array, shape: Shape) -> Array:
    """(N, H, W) in [0, 1] → uint8 (N, H, W, C), the same in each channel."""
    levels = np.rint(values * 255).astype(np.uint8)[..., None]
    return np.repeat(levels, shape[2], axis=3)
