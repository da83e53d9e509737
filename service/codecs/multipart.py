"""multipart/form-data (RFC 7578): many files in one body, in order, parsed by python-multipart."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from python_multipart.multipart import MultipartParser

from common.errors import MalformedError, TooLargeError
from service.codecs.steps import Steps

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_SILENT = logging.Logger("multipart", logging.CRITICAL + 1)  # its warnings concern the client

MAX_HEADERS = 8  # a part needs two: Content-Disposition and Content-Type
MAX_HEADER = 2048  # bytes of one header line
PIECE = 2**20  # bytes parsed in one step

# One parameter of a header: `; name=value` or `; name="value"` (RFC 9110, 5.6.6). Each starts at a
# semicolon and ends before the next one outside quotes, so that matching takes linear time.
_PARAMETER = re.compile(r';[ \t]*([^\s=;"]+)=(?:"((?:[^"\\]|\\.)*)"|([^;"]*))', re.S)
_EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[^']*'(.*)", re.I)  # RFC 8187, 3.2


@dataclass(frozen=True)
class Part:
    """One file: the client's name for it, or "", and its bytes."""

    name: str
    data: bytes


def boundary_of(content_type: str) -> str | None:
    """The boundary parameter of a Content-Type, or None."""
    boundary = _parameters(content_type).get("boundary", "")
    return boundary if 0 < len(boundary) <= 70 else None


def decode(body: bytes, content_type: str, *, max_parts: int) -> Steps[list[Part]]:
    """All parts of the body, in order, of any field name; in steps.

    Raises:
        MalformedError: no boundary, an invalid structure, no closing boundary, or no parts.
        TooLargeError: more than `max_parts`.
    """
    boundary = boundary_of(content_type)
    if boundary is None:
        raise _malformed("a multipart Content-Type without a boundary of 1 to 70 characters")
    collector = _Collector(max_parts)
    try:
        parser = MultipartParser(
            boundary.encode("latin-1"),
            collector.callbacks(),
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER,
        )
        parser.logger = _SILENT
        for start in range(0, len(body), PIECE):
            parser.write(body[start : start + PIECE])
            yield
        parser.finalize()
    except TooLargeError:
        raise
    except Exception as exc:  # its own exceptions, and codec errors for odd boundaries
        raise _malformed(f"a multipart body that does not parse ({exc})"[:200]) from exc
    if not collector.ended:
        raise _malformed("a multipart body without its closing boundary")
    if not collector.parts:
        raise _malformed("a multipart body without parts")
    return collector.parts


class _Collector:
    """The parser's callbacks: collect slices of the body, and join them once per part."""

    def __init__(self, max_parts: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._max_parts = max_parts
        self._name = ""
        self._data: list[bytes] = []
        self._field = self._value = b""

    def callbacks(self) -> MultipartCallbacks:
        """The functions that the parser calls, by its names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._max_parts:
            raise TooLargeError(
                f"more than {self._max_parts} parts",
                expected=f"at most {self._max_parts}",
                hint="Send them in several requests.",
            )
        self._name, self._data = "", []

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._name = _file_name(self._value.decode("utf-8", "replace"))
        self._field = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _part_end(self) -> None:
        self.parts.append(Part(self._name, b"".join(self._data)))

    def _end(self) -> None:
        self.ended = True


def _parameters(header: str) -> dict[str, str]:
    """The parameters of a header by their names in lower case; of equal names the first."""
    values: dict[str, str] = {}
    for name, quoted, token in _PARAMETER.findall(header):
        values.setdefault(name.lower(), re.sub(r'\\(["\\])', r"\1", quoted) or token.strip())
    return values


def _file_name(disposition: str) -> str:
    """The file name in a Content-Disposition: `filename*` if it can be read, else `filename`."""
    parameters = _parameters(disposition)
    extended = _EXTENDED.fullmatch(parameters.get("filename*", ""))
    if extended:
        return unquote(extended[2], extended[1], "replace")
    return parameters.get("filename", "")


def _malformed(received: str) -> MalformedError:
    return MalformedError(
        received,
        expected="multipart/form-data as a browser or curl -F sends it",
        hint="Let a client library write the body and its Content-Type.",
    )
