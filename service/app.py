"""The BentoML service: `bentoml serve service.app:Denoiser`, or plain `bentoml serve`."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import bentoml
import numpy as np
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.utils.analytics import usage_stats
from starlette.middleware.cors import CORSMiddleware

from common import memory
from common.arrays import Floats
from common.errors import DenoiserError
from service import __version__, supervisor
from service.engine import Engine
from service.http import protocol
from service.http.asgi import App
from service.http.gateway import Gateway
from service.http.metrics import Metrics
from service.settings import Settings

# BentoML read the switch that `common` sets before this module was loaded, and remembers it.
usage_stats.do_not_track.cache_clear()

T = TypeVar("T")


class GatedService(bentoml.Service[Any]):
    """A BentoML service with the `Gateway` in front of each worker's app.

    BentoML adds middleware inside its own stack only; a `service_class` can wrap the whole app, and
    its `inject_config` reads settings when serving starts, not at import.
    """

    engine: Engine | None = None
    metrics: Metrics | None = None

    def inject_config(self) -> None:
        """Pass our settings on to BentoML: address and workers."""
        settings = _settings_or_exit()
        # In a container BentoML does not restart a dead worker, so that the orchestrator replaces
        # the container; but it still answers /readyz from the other workers, or from none.
        os.environ.pop("BENTOML_CONTAINERIZED", None)
        self.config["workers"] = settings.worker_count
        self.config["http"] = {"host": settings.host, "port": settings.port}
        # BentoML's metrics folder is shared by all servers of a user; each empties it at start.
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:  # workers inherit it
            BentoMLContainer.prometheus_multiproc_dir.set(_metrics_folder())
        super().inject_config()

    def __call__(self) -> Any:
        """Create the instance; BentoML does so once in each worker before it is ready."""
        memory.return_early()
        instance = super().__call__()
        self.engine = instance.engine
        self.metrics = Metrics()
        return instance

    def to_asgi(self, is_main: bool = True) -> App:
        """This worker's app: CORS, if configured, around the gateway around BentoML's app."""
        settings = Settings.from_environment()
        protocol.install(settings)
        gateway: App = Gateway(
            super().to_asgi(is_main),
            engine=lambda: _created(self.engine),
            metrics=lambda: _created(self.metrics),
            settings=settings,
            static=_static_files(),
        )
        if not settings.cors_origins:
            return gateway
        return CORSMiddleware(
            gateway,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("X-Model-Fingerprint", "X-Scores", "Inference-Header-Content-Length"),
        )


@cache
def _metrics_folder() -> str:
    folder = tempfile.mkdtemp(prefix="denoiser-metrics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _settings_or_exit() -> Settings:
    try:
        return Settings.from_environment()
    except DenoiserError as exc:
        _exit(exc)


def _exit(error: DenoiserError) -> NoReturn:
    """Print one line and end with status 2, before any worker starts and fails in a loop."""
    print(f"denoiser {__version__}: {error}", file=sys.stderr)
    raise SystemExit(2) from error


def _created(part: T | None) -> T:
    assert part is not None, "a request before the service was created"
    return part


def _static_files() -> list[str]:
    """Names of the files that BentoML's API page loads: a closed set of routes."""
    folder = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
    return [path.name for path in folder.iterdir() if path.is_file()]


@bentoml.service(name="denoiser", service_class=GatedService)
class Denoiser:
    """Encode images to latents, decode latents to images, denoise images.

    Over HTTP the `Gateway` answers these routes, in all formats. The methods describe them to
    BentoML's own client, and answer in Python.
    """

    def __init__(self) -> None:
        settings = Settings.from_environment()
        self.engine = Engine.load(
            settings.bundle, threads=settings.thread_count, precision=settings.precision
        )

    @bentoml.on_deployment
    @staticmethod
    def refuse_early() -> None:
        """Check settings and bundle once, before any worker starts.

        BentoML would restart a worker that cannot load for ever; this prints one line and ends.
        """
        try:
            supervisor.install(supervisor.Supervisor(Settings.from_environment()))
        except DenoiserError as exc:
            _exit(exc)

    @bentoml.api
    def encode(self, images: list[Any]) -> dict[str, Any]:
        """Images (N, H, W, C), floats in [0, 1] → {"latents": (N, latent_size)}."""
        return {"latents": self.engine.encode(_rows(images)).tolist()}

    @bentoml.api
    def decode(self, latents: list[Any]) -> dict[str, Any]:
        """Latents (N, latent_size) → {"images": (N, H, W, C)}, floats in [0, 1]."""
        return {"images": self.engine.decode(_rows(latents)).tolist()}

    @bentoml.api
    def denoise(self, images: list[Any]) -> dict[str, Any]:
        """Noisy images (N, H, W, C), floats in [0, 1] → {"images": (N, H, W, C)}."""
        return {"images": self.engine.denoise(_rows(images)).tolist()}


def _rows(values: list[Any]) -> Floats:
    return np.asarray(values, np.float32)
