"""What is trained on is what is served: one hundred and more odd files, read by every stage."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common import images
from common.errors import MalformedError, RangeError, ShapeError, TooLargeError
from service.bulk.decoding import imagefile
from service.codecs import png
from service.codecs.rows import RowSpec
from training.data.folders import Skipped, read_images

SIZE = (9, 7)  # height, width
ORIENTATION = 0x0112
RNG = np.random.default_rng(0)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def picture(mode: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture of random pixels, also in its transparency."""
    height, width = size
    if mode.startswith("I;16"):
        values = RNG.integers(0, 65536, (height, width)).astype(">u2" if mode[-1] == "B" else "<u2")
        return Image.frombytes(mode, (width, height), values.tobytes())
    if mode == "F":
        return Image.fromarray(RNG.random((height, width), dtype=np.float32))
    channels = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "YCbCr": 3}.get(mode, 4)
    values = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if mode in ("LA", "RGB", "RGBA", "CMYK", "YCbCr"):
        return Image.frombytes(mode, (width, height), values.tobytes())
    grey = Image.fromarray(values[..., 0])
    if mode == "P":
        palette = grey.convert("P")
        palette.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
        return palette
    return grey.convert(mode)


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "F"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("L", "P", "RGB"),
}


def odd_files() -> Iterator[tuple[str, bytes]]:
    for form, modes in MODES.items():
        for mode in modes:
            for size in (SIZE, (31, 5), (3, 4)):
                yield f"{form} {mode} {size}", saved(picture(mode, size), form)
    for form in ("PNG", "TIFF", "JPEG", "WEBP"):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            size = SIZE if orientation < 5 else SIZE[::-1]
            yield f"{form} turned {orientation}", saved(picture("RGB", size), form, exif=exif)
    for mode, colour in (("L", 9), ("RGB", (1, 2, 3)), ("P", 4), ("I;16", 700)):
        image = picture(mode)
        corner: Any = colour
        image.putpixel((0, 0), corner)
        yield f"PNG {mode}, one colour transparent", saved(image, "PNG", transparency=colour)
    twelve_bit = Image.fromarray(RNG.integers(0, 4096, SIZE).astype(np.uint16))
    yield "TIFF of 12 bits in 16", saved(twelve_bit, "TIFF", tiffinfo={281: 4095})
    frames = [picture("RGB") for _ in range(3)]
    for form in ("TIFF", "GIF", "WEBP"):
        yield f"{form} of 3 frames", saved(frames[0], form, save_all=True, append_images=frames[1:])


FILES = dict(odd_files())


def test_there_are_a_hundred() -> None:
    assert len(FILES) >= 100


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_every_stage_reads_the_same_pixels(name: str, channels: int, tmp_path: Path) -> None:
    body = FILES[name]
    path = tmp_path / f"x.{name.split()[0].lower()}"
    path.write_bytes(body)
    spec = RowSpec("images", (*SIZE, channels))
    served = imagefile.decode_some([body], spec, fit="stretch")[0]
    assert served.shape == (1, *SIZE, channels)
    if name.startswith("PNG"):
        np.testing.assert_array_equal(png.decode(body, spec, fit="stretch"), served)
    trained = read_images([path], tmp_path, SIZE, Skipped())
    if trained.shape[3] == 3 and channels == 1:  # luma before resizing, or after: a step of 255
        assert (
            np.abs(images.read(body, channels=1, size=SIZE, fit="stretch") - served[0]).max() == 0
        )
    else:
        np.testing.assert_array_equal(np.broadcast_to(trained, served.shape), served)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_orientation_turns_the_picture(form: str, orientation: int) -> None:
    """A white corner ends where EXIF says; the corner is that of the upright picture's top left."""
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255
    ways: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: np.transpose, 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(ways[orientation](upright))).convert("RGB")
    body = saved(stored, form, exif=exif)
    pixels = images.read(body, channels=1, size=(16, 24))[..., 0]
    assert pixels[:7, :7].min() > 200
    assert pixels[:, 10:].max() < 50
    assert pixels[10:].max() < 50


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_laid_on_white(form: str) -> None:
    clear = Image.new("RGBA", (7, 9), (10, 20, 30, 0))
    assert (
        images.read(saved(clear, form, **({"lossless": True} if form == "WEBP" else {}))) == 255
    ).all()


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    for mode in ("I;16", "I;16B"):
        order = values.astype(">u2" if mode[-1] == "B" else "<u2")
        image = Image.frombytes(mode, (4, 1), order.tobytes())
        assert images.read(saved(image, "TIFF"))[0, :, 0].tolist() == [0, 1, 128, 255]
    twelve = Image.fromarray(np.array([[0, 2048, 4095]], np.uint16))
    body = saved(twelve, "TIFF", tiffinfo={281: 4095})
    assert images.read(body)[0, :, 0].tolist() == [0, 128, 255]


def test_ranges_that_are_not_known_are_refused() -> None:
    with pytest.raises(RangeError, match="values in"):
        images.read(saved(Image.fromarray(np.full((2, 2), 1.5, np.float32)), "TIFF"))
    with pytest.raises(RangeError, match="32-bit integers"):
        images.read(saved(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"))


@pytest.mark.parametrize("form", [*MODES])
def test_broken_files_are_malformed_and_nothing_else(form: str) -> None:
    body = saved(picture("RGB", (40, 40)), form)
    for broken in (b"", body[:10], body[: len(body) // 2], b"\0" * 500):
        try:
            images.read(broken)
        except MalformedError as exc:
            assert "whole image" in exc.received


def test_sizes_are_checked_before_pixels() -> None:
    huge = saved(Image.new("1", (5000, 4000)), "PNG")
    with pytest.raises(ShapeError, match="5000 × 4000"):
        images.read(huge, size=(28, 28))
    with pytest.raises(TooLargeError):
        images.read(huge, size=(28, 28), fit="stretch")


def png_with(*chunks: bytes) -> bytes:
    """A whole PNG with further chunks before its pixels."""
    body = saved(Image.linear_gradient("L"), "PNG")
    return body[:33] + b"".join(chunks) + body[33:]


def test_a_png_has_a_limit_of_chunks() -> None:
    """Pillow takes microseconds for each: millions fit in a small body."""
    empty = bytes(4) + b"aaAa" + zlib.crc32(b"aaAa").to_bytes(4, "big")
    np.testing.assert_array_equal(images.read(png_with(*[empty] * 1000)), images.read(png_with()))
    with pytest.raises(TooLargeError, match="chunks"):
        images.read(png_with(*[empty] * images.MAX_PNG_CHUNKS))


def test_large_exif_is_not_read() -> None:
    """Each of its tags may refer to all of it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(picture("L"), "PNG", exif=exif)
    exif[0x9286] = "x" * images.MAX_EXIF
    large = saved(picture("L"), "PNG", exif=exif)
    assert images.read(turned).shape[:2] == images.read(large).shape[1::-1]
