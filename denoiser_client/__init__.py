"""HTTP client of a denoiser service, sync and async; needs numpy and httpx alone."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from denoiser_client.client import AsyncDenoiserClient, DenoiserClient
from denoiser_client.errors import (
    ConfigError,
    DenoiserClientError,
    ModelChangedError,
    RefusedError,
    RemoteError,
    UnavailableError,
)

__all__ = [
    "AsyncDenoiserClient",
    "ConfigError",
    "DenoiserClient",
    "DenoiserClientError",
    "ModelChangedError",
    "RefusedError",
    "RemoteError",
    "UnavailableError",
]

try:
    __version__ = version("denoiser")
except PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "0+checkout"
