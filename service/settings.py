"""Settings of the service: the one place that reads environment variables.

Each field is `DENOISER_<NAME>`. Unknown variables and invalid values stop the server at start-up;
the message names them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from common.cores import usable_cores
from common.errors import SettingsError
from service.bundle import FLOAT32, PRECISIONS, PrecisionName

PREFIX = "DENOISER_"
# Kubernetes puts these into each pod of a namespace with a Service named denoiser or denoiser-…
# (enableServiceLinks), Docker's --link some of them: DENOISER_PORT=tcp://10.0.0.5:3000.
_SERVICE_LINK = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
ROOT = Path(__file__).resolve().parent.parent  # the checkout, or the source folder of a bento
MIB = 2**20


class _Kind(NamedTuple):
    """How a variable's text is read: `parse` raises ValueError for anything but `expects`."""

    parse: Callable[[str], Any]
    expects: str


def _number(low: float, high: float, kind: type = int) -> _Kind:
    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return _Kind(parse, f"a {'whole ' if kind is int else ''}number from {low} to {high}")


def _choice(choices: Mapping[str, Any], *, any_case: bool = False) -> _Kind:
    def parse(text: str) -> Any:
        if (key := text.strip().lower() if any_case else text) not in choices:
            raise ValueError
        return choices[key]

    return _Kind(parse, " or ".join(choices))


def _parse_key(text: str) -> str:
    if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    return text


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    if origins == ("*",):
        return origins
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            raise ValueError
    return origins


def _parse_folder(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)


_SWITCH = _choice({"on": True, "off": False}, any_case=True)
_PRECISION = _choice({name: name for name in PRECISIONS})
_ADDRESS = _Kind(
    lambda text: str(ipaddress.ip_address(text)), "an IP address, such as 127.0.0.1 or 0.0.0.0"
)
_KEY = _Kind(_parse_key, "at least 16 visible ASCII characters")
_ORIGINS = _Kind(
    _parse_origins, "origins such as https://example.org, separated by commas, or * alone"
)
_FOLDER = _Kind(_parse_folder, "a folder")


def _setting(default: Any, kind: _Kind, about: str) -> Any:
    return field(default=default, metadata={"about": about, **kind._asdict()})


@dataclass(frozen=True)
class Settings:
    """The service's settings; each field's `about` is its documentation."""

    bundle: Path = _setting(ROOT / "bundles/mnist", _FOLDER, "folder of the bundle to serve")
    precision: PrecisionName = _setting(
        FLOAT32, _PRECISION, "`float32`, or `int8` where the bundle has it: faster, other latents"
    )
    host: str = _setting("127.0.0.1", _ADDRESS, "address to bind, unless `--host` names one")
    port: int = _setting(3000, _number(1, 65535), "port to bind, unless `--port` names one")
    workers: int = _setting(
        0, _number(0, 256), "worker processes; 0: one per usable core, at most 4"
    )
    threads: int = _setting(
        0, _number(0, 1024), "engine threads per worker; 0: the usable cores, shared by the workers"
    )
    max_body: int = _setting(
        64 * MIB,
        _number(1024, 2**31),
        "largest request body, as sent and decompressed, and largest response, in bytes",
    )
    max_rows: int = _setting(
        100_000, _number(1, 10**9), "maximum number of images or latents in one request"
    )
    concurrency: int = _setting(
        64, _number(1, 10**6), "maximum concurrent requests per worker; further ones get 429"
    )
    max_buffered: int = _setting(
        160 * MIB,
        _number(1024, 2**40),
        "maximum bytes of requests and responses in memory per worker; further ones get 429",
    )
    timeout: float = _setting(
        60.0, _number(0.1, 86400, float), "seconds for a request body to arrive; then 408"
    )
    max_connections: int = _setting(
        4096,
        _number(16, 10**6),
        "open connections per worker; beyond that the longest idle one is closed",
    )
    keep_alive: int = _setting(75, _number(1, 86400), "seconds that an idle connection stays open")
    grace: float = _setting(
        20.0,
        _number(0.1, 86400, float),
        "seconds that running requests have to finish when the server is stopped",
    )
    api_key: str = _setting(
        "",
        _KEY,
        "key that `Authorization: Bearer …` must carry, on all routes but health and the "
        "playground's page; none: open",
    )
    cors_origins: tuple[str, ...] = _setting(
        (), _ORIGINS, "origins whose pages may call, separated by commas; none: no CORS headers"
    )
    docs: bool = _setting(
        True, _SWITCH, "`on`: /docs.json, /schema.json, the playground and BentoML's page at /api"
    )

    @property
    def worker_count(self) -> int:
        """Worker processes to start: as set, or one per core, at most 4 (150 MB each)."""
        return self.workers or min(4, usable_cores())

    @property
    def thread_count(self) -> int:
        """Engine threads in each worker: as set, or this worker's share of the cores."""
        return self.threads or max(1, usable_cores() // self.worker_count)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read `DENOISER_…` variables.

        Raises:
            SettingsError: an unknown variable or an invalid value; the message names it.
        """
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith(PREFIX):
                continue
            if _SERVICE_LINK.fullmatch(variable) and (variable not in known or "://" in text):
                continue
            if variable not in known:
                raise SettingsError(
                    f"the environment variable {variable}",
                    expected=f"one of {', '.join(sorted(known))}",
                )
            spec = known[variable]
            try:
                values[spec.name] = spec.metadata["parse"](text)
            except ValueError as exc:
                shown = "an invalid key" if spec.name == "api_key" else repr(text)[:80]
                raise SettingsError(
                    f"{variable} is {shown}",
                    expected=f"{spec.metadata['expects']} ({spec.metadata['about']})",
                ) from exc
        return cls(**values)
