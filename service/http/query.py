"""The query parameters of /encode, /decode and /denoise, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import parse_qsl

from common.errors import OptionError
from common.images import Fit

_CHOICES = {
    "dtype": ("uint8", "float32"),
    "encoding": ("float", "base64"),
    "fit": ("contain", "stretch"),
    "invert": ("true", "false"),
    "score": ("true", "false"),
}


@dataclass(frozen=True)
class Options:
    """Query parameters.

    Attributes:
        dtype: of images in npy.
        encoding: of latents in JSON.
        fit, invert: for image files.
        score: add a novelty score per image.
    """

    dtype: Literal["uint8", "float32"] | None = None
    encoding: Literal["float", "base64"] = "float"
    fit: Fit | None = None
    invert: bool = False
    score: bool = False


PLAIN = Options()


def read(query: bytes) -> Options:
    """The options in a query string; unknown names are ignored.

    Raises:
        OptionError: a value that is not one of the choices.
    """
    if not query:
        return PLAIN
    values: dict[str, str] = {}
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=64)
    except ValueError as exc:
        raise OptionError("a query of more than 64 fields", expected="at most 64") from exc
    for name, value in pairs:
        if name not in _CHOICES:
            continue
        if value not in _CHOICES[name]:
            raise OptionError(f"{name}={value[:40]!r}", expected=" or ".join(_CHOICES[name]))
        values[name] = value
    return Options(
        dtype=cast("Literal['uint8', 'float32'] | None", values.get("dtype")),
        encoding=cast("Literal['float', 'base64']", values.get("encoding", "float")),
        fit=cast("Fit | None", values.get("fit")),
        invert=values.get("invert") == "true",
        score=values.get("score") == "true",
    )
