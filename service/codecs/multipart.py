"""multipart/form-data (RFC 7578): many files in one body, in order, parsed by python-multipart."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING

from python_multipart.multipart import MultipartParser

from common.errors import MalformedError, TooLargeError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_SILENT = logging.Logger("multipart", logging.CRITICAL + 1)  # its warnings concern the client

MAX_HEADERS = 8  # a part needs two: Content-Disposition and Content-Type
MAX_HEADER = 2048  # bytes of one header line


@dataclass(frozen=True)
class Part:
    """One file: the client's name for it, or "", and its bytes."""

    name: str
    data: bytes


def boundary_of(content_type: str) -> str | None:
    """The boundary parameter of a Content-Type, or None."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    return boundary if isinstance(boundary, str) and 0 < len(boundary) <= 70 else None


def decode(body: bytes, content_type: str, *, max_parts: int) -> list[Part]:
    """All parts of the body, in order, of any field name.

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
        parser.write(body)
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
            header = Message()
            header["Content-Disposition"] = self._value.decode("utf-8", "replace")
            name = header.get_param("filename", header="Content-Disposition")
            self._name = name if isinstance(name, str) else ""
        self._field = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _part_end(self) -> None:
        self.parts.append(Part(self._name, b"".join(self._data)))

    def _end(self) -> None:
        self.ended = True


def _malformed(received: str) -> MalformedError:
    return MalformedError(
        received,
        expected="multipart/form-data as a browser or curl -F sends it",
        hint="Let a client library write the body and its Content-Type.",
    )
