"""Which format came, which format goes: `Content-Type` and `Accept` to codecs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.codecs import jsontext, npy, png
from service.codecs.rows import Array, RowSpec
from service.errors import NotAcceptableError, UnsupportedTypeError

JSON = "application/json"
NPY = "application/x-npy"
PNG = "image/png"


@dataclass(frozen=True)
class Operation:
    """One of the three questions that the service answers.

    `model` names the ONNX model, `source` and `answer` what goes in and comes out; they are also
    the keys in JSON.
    """

    model: str
    source: str
    answer: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


OPERATIONS = {
    "/encode": Operation("encoder", "images", "latents", (JSON, NPY, PNG), (JSON, NPY)),
    "/decode": Operation("decoder", "latents", "images", (JSON, NPY), (JSON, NPY, PNG)),
    "/denoise": Operation("autoencoder", "images", "images", (JSON, NPY, PNG), (JSON, NPY, PNG)),
}

_DECODERS: dict[str, Callable[[bytes, RowSpec], Array]] = {
    JSON: jsontext.decode,
    NPY: npy.decode,
    PNG: png.decode,
}


def read_type(operation: Operation, content_type: str | None) -> str:
    """The media type to decode; JSON where none is named, as BentoML has it.

    Raises:
        UnsupportedTypeError
    """
    media_type = (content_type or JSON).split(";")[0].strip().lower()
    if media_type not in operation.reads:
        raise UnsupportedTypeError(
            f"Content-Type {media_type!r}"[:120],
            expected=" or ".join(operation.reads),
            todo="Name the body's format in Content-Type.",
        )
    return media_type


def decode(body: bytes, media_type: str, spec: RowSpec) -> Array:
    """The rows in a body of that media type; raises an `InputError`."""
    return _DECODERS[media_type](body, spec)


def write_type(operation: Operation, accept: str | None, came: str) -> str:
    """The media type to answer in: what `Accept` likes best, else the one that came, else JSON.

    Raises:
        NotAcceptableError
    """
    offers = sorted(operation.writes, key=lambda offer: (offer != came, offer != JSON))
    best = _best(offers, accept)
    if best is None:
        raise NotAcceptableError(
            f"Accept: {accept}"[:120],
            expected=" or ".join(operation.writes),
            todo="Accept one of these, or send no Accept header.",
        )
    return best


def answer_dtype(operation: Operation, media_type: str, came: Array) -> str:
    """uint8 for PNG, and for npy when uint8 came; float32 otherwise and for latents."""
    if operation.answer == "latents" or media_type == JSON:
        return "float32"
    return "uint8" if media_type == PNG or came.dtype == np.uint8 else "float32"


def encode(rows: Array, media_type: str, operation: Operation) -> bytes:
    """An answer's rows in that media type.

    Raises:
        NotAcceptableError: several images as one PNG.
    """
    if media_type == JSON:
        return jsontext.encode(rows, operation.answer)
    if media_type == NPY:
        return npy.encode(rows)
    if len(rows) != 1:
        raise NotAcceptableError(
            f"{len(rows)} images as one PNG",
            expected="one image",
            todo=f"Accept {NPY} or {JSON}, or send one image.",
        )
    return png.encode(rows[0])


def _best(offers: Sequence[str], accept: str | None) -> str | None:
    """The offer with the highest quality in an Accept header (RFC 9110, 12.5.1)."""
    if not accept or accept.strip() == "*/*":
        return offers[0]
    qualities = [_quality(offer, accept) for offer in offers]
    best = max(qualities)
    return offers[qualities.index(best)] if best > 0 else None


def _quality(offer: str, accept: str) -> float:
    """What `accept` gives one media type: the most specific range that matches counts."""
    found = (-1, 0.0)
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
                if not 0 <= quality <= 1:  # also NaN
                    quality = 0.0
        found = max(found, (ranges.index(media_range), quality))
    return found[1]
