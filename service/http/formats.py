"""Content negotiation: `Content-Type` and `Accept` to codecs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.arrays import Array
from common.errors import (
    InputError,
    NotAcceptableError,
    OptionError,
    TooLargeError,
    UnsupportedTypeError,
)
from service.codecs import archive, jsontext, multipart, npy, png
from service.codecs.rows import RowSpec
from service.codecs.steps import Steps
from service.engine import ImageDtype, OutputName
from service.http.query import Options

JSON = "application/json"
NPY = "application/x-npy"
PNG = "image/png"
FORM = "multipart/form-data"
ZIP = "application/zip"


@dataclass(frozen=True)
class Operation:
    """One of the three operations of the service.

    Attributes:
        model: the ONNX model.
        output: the engine's name of the result.
        source, answer: keys of request and response in JSON: "images" or "latents".
        reads, writes: media types.
    """

    model: str
    output: OutputName
    source: str
    answer: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


_IMAGES_IN = (JSON, NPY, PNG, FORM)
_IMAGES_OUT = (JSON, NPY, PNG, ZIP)

OPERATIONS = {
    "/encode": Operation("encoder", "latents", "images", "latents", _IMAGES_IN, (JSON, NPY)),
    "/decode": Operation("decoder", "images", "latents", "images", (JSON, NPY), _IMAGES_OUT),
    "/denoise": Operation("autoencoder", "denoised", "images", "images", _IMAGES_IN, _IMAGES_OUT),
}

# Pixels to resize in one request: a PNG of a few kilobytes may contain millions, and decoding them
# all takes seconds.
MAX_FITTED = 2**27

STEP_PIXELS = 2**20  # decoded in one step of a form
PART_PIXELS = 2**14  # what a part costs besides its pixels
PNG_EXTRA = 512  # bytes of a PNG and its entry in a zip, besides its pixels, which may not shrink

# Scores of responses that are not JSON are sent in a header, 12 bytes each; servers and proxies
# accept headers of a few kilobytes.
MAX_HEADER_SCORES = 256

# The response's media type for a client that names none, where it cannot be the request's.
_ANSWERS = {FORM: ZIP}


@dataclass(frozen=True)
class Rows:
    """Decoded rows, and their file names (multipart) or none."""

    array: Array
    names: tuple[str, ...] = ()


def read_type(operation: Operation, content_type: str | None) -> str:
    """The media type to decode; JSON where the header is missing, as in BentoML.

    Raises:
        UnsupportedTypeError
    """
    media_type = (content_type or JSON).partition(";")[0].strip().lower()
    if media_type not in operation.reads:
        raise UnsupportedTypeError(
            f"Content-Type {media_type!r}"[:120],
            expected=" or ".join(operation.reads),
        )
    return media_type


def decode(
    body: bytes,
    media_type: str,
    spec: RowSpec,
    *,
    content_type: str = "",
    options: Options,
    max_rows: int,
) -> Steps[Rows]:
    """The rows in a body of that media type; in steps.

    Raises:
        InputError; TooLargeError for more than `max_rows`.
    """
    if media_type not in (PNG, FORM) and (options.fit or options.invert):
        raise OptionError(
            f"fit or invert with {media_type}",
            expected=f"{PNG} or {FORM}",
            hint="Resize or invert arrays before sending them.",
        )
    if media_type == FORM:
        return (yield from _decode_form(body, spec, content_type, options, max_rows))
    if media_type == PNG:
        return Rows(png.decode(body, spec, fit=options.fit, invert=options.invert))
    array = npy.decode(body, spec) if media_type == NPY else jsontext.decode(body, spec)
    if len(array) > max_rows:
        raise TooLargeError(
            f"{len(array)} rows",
            expected=f"at most {max_rows}",
            hint="Split them over several requests.",
        )
    return Rows(array)


def write_type(operation: Operation, accept: str | None, request_type: str) -> str:
    """The response's media type: the best match of `Accept`, else the request's, else JSON.

    Raises:
        NotAcceptableError
    """
    preferred = _ANSWERS.get(request_type, request_type)
    if not accept or accept in ("*/*", preferred):  # nearly always
        return preferred if preferred in operation.writes else JSON
    offers = sorted(operation.writes, key=lambda offer: (offer != preferred, offer != JSON))
    best = max(offers, key=lambda offer: _quality(offer, accept))
    if _quality(best, accept) <= 0:
        raise NotAcceptableError(f"Accept: {accept}"[:120], expected=" or ".join(operation.writes))
    return best


def answer_dtype(
    operation: Operation, media_type: str, rows: Array, options: Options
) -> ImageDtype:
    """uint8 for PNG and zip, for npy the option or the request's dtype; else float32."""
    if operation.answer == "latents" or media_type == JSON:
        return "float32"
    if media_type == NPY:
        return options.dtype or ("uint8" if rows.dtype == np.uint8 else "float32")
    return "uint8"


def encode(
    array: Array,
    media_type: str,
    operation: Operation,
    *,
    names: Sequence[str],
    options: Options,
    scores: Array | None = None,
) -> Steps[bytes]:
    """The response's rows in that media type; JSON includes `scores`, float32 (N,); in steps.

    Raises:
        NotAcceptableError: several images as one PNG.
    """
    if media_type == JSON:
        if operation.answer == "latents" and options.encoding == "base64":
            return jsontext.encode_base64(array, operation.answer, names, scores)
        return (yield from jsontext.encode(array, operation.answer, names, scores))
    if media_type == NPY:
        return npy.encode(array)
    if media_type == ZIP:
        return (yield from archive.encode(array, names))
    if len(array) != 1:
        raise NotAcceptableError(
            f"{len(array)} images as one PNG",
            expected="one image",
            hint=f"Accept {ZIP}, {NPY} or {JSON}, or send one image.",
        )
    return png.encode(array[0])


def row_bytes(operation: Operation, media_type: str, values: int, dtype: ImageDtype) -> int:
    """The most bytes that a row of that many values takes in the response."""
    if media_type == JSON:
        return values * jsontext.MAX_NUMBER
    return values * np.dtype(dtype).itemsize + (PNG_EXTRA if media_type in (PNG, ZIP) else 0)


def require_scorable(
    operation: Operation, media_type: str, rows: int, options: Options, *, scored: bool
) -> None:
    """Refuse scores that cannot be computed, or that do not fit in the response.

    `scored`: whether the bundle has a novelty model.

    Raises:
        OptionError
    """
    if not options.score:
        return
    if operation.source != "images":
        raise OptionError(
            "score=true with latents",
            expected="images",
            hint="Ask for scores at /encode or /denoise.",
        )
    if not scored:
        raise OptionError(
            "score=true to a model without scores",
            expected="a bundle with a novelty entry in its manifest (GET /model)",
            hint="Leave score out, or export the run again.",
        )
    if media_type != JSON and rows > MAX_HEADER_SCORES:
        raise OptionError(
            f"score=true for {rows} images as {media_type}",
            expected=f"at most {MAX_HEADER_SCORES}, whose scores fit in a header",
            hint=f"Accept {JSON}, use /v2, or send fewer at a time.",
        )


def scores_header(scores: Array) -> tuple[bytes, bytes]:
    """X-Scores: one number per image, in order, separated by commas."""
    return b"x-scores", ",".join(map(str, scores)).encode("ascii")


def _decode_form(
    body: bytes, spec: RowSpec, content_type: str, options: Options, max_rows: int
) -> Steps[Rows]:
    """The images of a form, one per part; an error names its part."""
    parts = yield from multipart.decode(body, content_type, max_parts=max_rows)
    areas = [png.pixels(part.data) for part in parts]
    if options.fit and sum(areas) > MAX_FITTED:
        raise TooLargeError(
            f"{sum(areas):,} pixels to resize",
            expected=f"at most {MAX_FITTED:,} in one request",
            hint="Shrink the images, or send fewer per request.",
        )
    images = np.empty((len(parts), *spec.shape), np.uint8)
    pixels = 0
    for index, part in enumerate(parts):
        if pixels > STEP_PIXELS:
            pixels = 0
            yield
        pixels += areas[index] + PART_PIXELS
        try:
            images[index] = png.decode(part.data, spec, fit=options.fit, invert=options.invert)
        except InputError as exc:
            where = f"part {index + 1} of {len(parts)} ({part.name or 'without a name'})"[:160]
            raise type(exc)(
                f"{where}: {exc.received}", expected=exc.expected, hint=exc.hint
            ) from exc
    return Rows(images, tuple(part.name for part in parts))


def _quality(offer: str, accept: str) -> float:
    """The quality of a media type: that of the most specific range that matches (RFC 9110)."""
    best = (-1, 0.0)
    for item in accept.lower().split(","):
        media_range, *parameters = (part.strip() for part in item.split(";"))
        ranges = ("*/*", f"{offer.split('/')[0]}/*", offer)
        if media_range not in ranges:
            continue
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
                quality = quality if 0 <= quality <= 1 else 0.0  # NaN also counts as 0
        best = max(best, (ranges.index(media_range), quality))
    return best[1]
