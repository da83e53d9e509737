"""The playground: the page at `/playground` and its files.

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
from service.codecs.steps import finish
from service.http.asgi import Body, Header, Receive, Response, Scope

FOLDER = Path(__file__).resolve().parents[1] / "playground"
PAGE = "/playground"
API_PAGE = "/api"  # BentoML's page, which its own app serves at /

# Media types by suffix; other files are not served.
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# This origin only; blob: and data: are images that the page draws.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
# BentoML's page has an inline script that loads Google Tag Manager; this policy blocks it.
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
    """One file: plain, gzipped (b"" where that saves nothing), media type and ETag."""

    body: bytes
    gzipped: bytes
    media_type: str
    etag: bytes

    def response(self, body: Body) -> Response:
        """The file, gzipped where the client accepts that; 304 where it has this version."""
        headers: tuple[Header, ...] = (
            (b"etag", self.etag),
            (b"cache-control", b"no-cache"),  # revalidate each time
            (b"vary", b"accept-encoding"),
            (b"content-security-policy", POLICY.encode("ascii")),
            *_SAFE,
        )
        if self._matches(body.header(b"if-none-match")):
            return Response(b"", self.media_type, 304, headers)
        encoding = compression.choose(
            body.header(b"accept-encoding"), len(self.body), text=bool(self.gzipped)
        )
        if encoding == "gzip" and self.gzipped:
            headers = (*headers, (b"content-encoding", b"gzip"))
            return Response(self.gzipped, self.media_type, headers=headers)
        return Response(self.body, self.media_type, headers=headers)

    def _matches(self, tags: str | None) -> bool:
        """Whether an If-None-Match field names this version (RFC 9110, 13.1.2: weak comparison)."""
        if tags is None:
            return False
        return tags.strip() == "*" or self.etag.decode() in re.findall(r'"[^"]*"', tags)


@cache
def load(folder: Path = FOLDER) -> Mapping[str, File]:
    """The files by path: index.html is `/playground`, others are `/playground/{file}`."""
    return {
        PAGE if path.name == "index.html" else f"{PAGE}/{path.name}": _read(path)
        for path in sorted(folder.iterdir())
        if path.suffix in MEDIA_TYPES
    }


def names() -> list[str]:
    """The names that `/playground/{file}` stands for."""
    return [path.removeprefix(f"{PAGE}/") for path in load() if path != PAGE]


async def playground(scope: Scope, body: Body, receive: Receive) -> Response:
    """The handler of the page and its files."""
    return load()[scope["path"]].response(body)


async def root(scope: Scope, body: Body, receive: Receive) -> Response:
    """Redirect `/` to the playground, by a relative address that also works behind a prefix."""
    return Response(b"", "text/plain", 307, ((b"location", PAGE[1:].encode("ascii")),))


def _read(path: Path) -> File:
    body = path.read_bytes()
    gzipped = finish(compression.encode(body, "gzip"))
    if len(gzipped) >= len(body):
        gzipped = b""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return File(body, gzipped, MEDIA_TYPES[path.suffix], etag.encode("ascii"))
