"""The playground: `/playground`, one page for people, and the files it is made of.

The files are served as they are in `service/playground/`: no build step, nothing from another host.
They hold no secret, so they need no API key; the requests that the page makes do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from service.codecs import compression
from service.http.asgi import Answer, Body, Header

FOLDER = Path(__file__).resolve().parents[1] / "playground"
PAGE = "/playground"
API_PAGE = "/api"  # where BentoML's own page is, which it serves at /

# Media types of the files; one of another kind is not served.
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Scripts, styles and requests stay at home; blob: and data: are pictures that the page makes.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
# BentoML's page carries Google Tag Manager as an inline script; here it may load its own files
# only.
API_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_SAFE: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
API_HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", API_POLICY.encode("ascii")),
    *_SAFE,
)


@dataclass(frozen=True)
class File:
    """One file: plain and gzipped (b"" where that saves nothing), its type and its ETag."""

    body: bytes
    packed: bytes
    media_type: str
    tag: bytes

    def answer(self, body: Body) -> Answer:
        """The file; 304 for a browser that has it; gzipped for one that reads that."""
        headers: tuple[Header, ...] = (
            (b"etag", self.tag),
            (b"cache-control", b"no-cache"),  # ask each time: a new version is seen at once
            (b"vary", b"accept-encoding"),
            (b"content-security-policy", POLICY.encode("ascii")),
            *_SAFE,
        )
        if self._known(body.header(b"if-none-match")):
            return Answer(b"", self.media_type, 304, headers)
        accepted = compression.choose(
            body.header(b"accept-encoding"), len(self.body), text=bool(self.packed)
        )
        if accepted == "gzip" and self.packed:
            headers = (*headers, (b"content-encoding", b"gzip"))
            return Answer(self.packed, self.media_type, headers=headers)
        return Answer(self.body, self.media_type, headers=headers)

    def _known(self, tags: str | None) -> bool:
        """Whether an If-None-Match field names this file (RFC 9110, 13.1.2: weakly compared)."""
        if tags is None:
            return False
        return tags.strip() == "*" or self.tag.decode() in re.findall(r'"[^"]*"', tags)


@cache
def load(folder: Path = FOLDER) -> Mapping[str, File]:
    """The files by path: `/playground` is index.html, the rest `/playground/<name>`."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in MEDIA_TYPES:
            route = PAGE if path.name == "index.html" else f"{PAGE}/{path.name}"
            files[route] = _read(path)
    return files


def redirect() -> Answer:
    """From `/` to the playground; relative, so that it also works behind a path prefix."""
    return Answer(b"", "text/plain", 307, ((b"location", PAGE[1:].encode("ascii")),))


def _read(path: Path) -> File:
    body = path.read_bytes()
    packed = compression.encode(body, "gzip")
    tag = hashlib.sha256(body).hexdigest()[:32]
    smaller = packed if len(packed) < len(body) else b""
    return File(body, smaller, MEDIA_TYPES[path.suffix], f'"{tag}"'.encode("ascii"))
