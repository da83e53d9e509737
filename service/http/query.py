"""The query parameters of /encode, /decode and /denoise, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from common.errors import OptionError
from common.images import Fit

_BOOLEANS = {"true": True, "false": False}
_CHOICES: dict[str, dict[str, Any]] = {
    "dtype": {"uint8": "uint8", "float32": "float32"},
    "encoding": {"float": "float", "base64": "base64"},
    "fit": {"contain": "contain", "stretch": "stretch"},
    "invert": _BOOLEANS,
    "score": _BOOLEANS,
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
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=64)
    except ValueError as exc:
        raise OptionError("a query of more than 64 fields", expected="at most 64") from exc
    values: dict[str, Any] = {}
    for name, value in pairs:
        choices = _CHOICES.get(name)
        if choices is None:
            continue
        if value not in choices:
            raise OptionError(f"{name}={value[:40]!r}", expected=" or ".join(choices))
        values[name] = choices[value]
    return Options(**values)
