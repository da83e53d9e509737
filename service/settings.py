"""Settings of the service: the one place that reads environment variables.

Each field is `DENOISER_<NAME>`. Anything that makes no sense is refused at start, by name.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.errors import SettingsError
from service.bundle import FLOAT32, PRECISIONS, PrecisionName
from service.runtime.pool import usable_cores

PREFIX = "DENOISER_"
ROOT = Path(__file__).resolve().parent.parent  # the checkout, or the source folder of a bento
MIB = 2**20


def _number(low: float, high: float, kind: type = int) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    parse.__doc__ = f"a {'whole ' if kind is int else ''}number from {low} to {high}"
    return parse


def _switch(text: str) -> bool:
    """On or off"""
    return {"on": True, "off": False}[text.strip().lower()]


def _precision(text: str) -> str:
    """float32 or int8"""
    if text not in PRECISIONS:
        raise ValueError
    return text


def _address(text: str) -> str:
    """An IP address, such as 127.0.0.1 or 0.0.0.0"""
    return str(ipaddress.ip_address(text))


def _key(text: str) -> str:
    """At least 16 visible ASCII characters"""
    if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    return text


def _origins(text: str) -> tuple[str, ...]:
    """Origins such as https://example.org, separated by commas, or * alone"""
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    if origins == ("*",):
        return origins
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            raise ValueError
    return origins


def _folder(text: str) -> Path:
    """A folder"""
    if not text:
        raise ValueError
    return Path(text)


def _setting(default: Any, parse: Callable[[str], Any], about: str) -> Any:
    return field(default=default, metadata={"about": about, "parse": parse})


@dataclass(frozen=True)
class Settings:
    """What the service runs with; each field's `about` is its documentation."""

    bundle: Path = _setting(ROOT / "bundles/mnist", _folder, "folder of the bundle to serve")
    precision: PrecisionName = _setting(
        FLOAT32, _precision, "`float32`, or `int8` where the bundle has it: faster, other latents"
    )
    host: str = _setting("127.0.0.1", _address, "address to bind, unless `--host` names one")
    port: int = _setting(3000, _number(1, 65535), "port to bind, unless `--port` names one")
    workers: int = _setting(
        0, _number(0, 256), "worker processes; 0: one for each usable core, at most 4"
    )
    threads: int = _setting(
        0, _number(0, 1024), "engine threads in each worker; 0: the usable cores, shared by workers"
    )
    max_body: int = _setting(
        64 * MIB, _number(1024, 2**31), "largest request body in bytes, as sent and decompressed"
    )
    max_rows: int = _setting(100_000, _number(1, 10**9), "most images or latents in one request")
    concurrency: int = _setting(
        64, _number(1, 10**6), "requests in work at once in each worker; more are told 429"
    )
    max_buffered: int = _setting(
        256 * MIB,
        _number(1024, 2**40),
        "bytes of all bodies in work at once in each worker; more are told 429",
    )
    timeout: float = _setting(
        60.0, _number(0.1, 86400, float), "seconds that a body may take to arrive; then 408"
    )
    max_connections: int = _setting(
        4096, _number(16, 10**6), "open connections in each worker; beyond that the longest idle ends"
    )
    keep_alive: float = _setting(
        75.0, _number(1, 86400, float), "seconds that an idle connection stays open"
    )
    grace: float = _setting(
        20.0, _number(0.1, 86400, float), "seconds for requests in work when the server is stopped"
    )
    api_key: str = _setting(
        "",
        _key,
        "what `Authorization: Bearer …` must carry, on all routes but health and the playground's "
        "page; none: open",
    )
    cors_origins: tuple[str, ...] = _setting(
        (), _origins, "origins whose pages may call, separated by commas; none: no CORS headers"
    )
    docs: bool = _setting(
        True, _switch, "`on`: /docs.json, /schema.json, the playground and BentoML's page at /api"
    )

    @property
    def worker_count(self) -> int:
        """Worker processes to start: as set, or one for each core up to 4 (150 MB each)."""
        return self.workers or min(4, usable_cores())

    @property
    def thread_count(self) -> int:
        """Engine threads in each worker: as set, or this worker's share of the cores."""
        return self.threads or max(1, usable_cores() // self.worker_count)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read `DENOISER_…` variables.

        Raises:
            SettingsError: an unknown name, or a value of the wrong kind or outside its bounds.
        """
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith(PREFIX):
                continue
            if variable not in known:
                raise SettingsError(
                    f"the environment variable {variable}",
                    expected=f"one of {', '.join(sorted(known))}",
                    hint="Correct its name or unset it.",
                )
            spec = known[variable]
            parse = spec.metadata["parse"]
            try:
                values[spec.name] = parse(text)
            except (ValueError, KeyError) as exc:
                shown = "a key" if spec.name == "api_key" else repr(text)[:80]
                raise SettingsError(
                    f"{variable} is {shown}",
                    expected=f"{parse.__doc__} ({spec.metadata['about']})",
                    hint="Correct it or unset it.",
                ) from exc
        return cls(**values)
