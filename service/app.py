"""The BentoML service: `bentoml serve service.app:Denoiser`, or plain `bentoml serve`."""

from __future__ import annotations

import sys
from typing import Any

import bentoml
import numpy as np

from service import __version__
from service.bundle import Bundle
from service.engine import Engine
from service.errors import DenoiserError
from service.gateway import App, Gateway
from service.settings import Settings


class GatedService(bentoml.Service[Any]):
    """A BentoML service whose workers answer through the `Gateway`.

    BentoML adds middleware inside its own stack only; `service_class` is its way to stand before
    it.
    """

    engine: Engine | None = None

    def __call__(self) -> Any:
        """Make the instance, as BentoML does once in each worker before it is ready."""
        instance = super().__call__()
        self.engine = instance.engine
        return instance

    def to_asgi(self, is_main: bool = True) -> App:
        settings = Settings.from_environment()
        return Gateway(
            super().to_asgi(is_main), engine=self._loaded_engine, max_body=settings.max_body
        )

    def _loaded_engine(self) -> Engine:
        assert self.engine is not None, "a request before the service was made"
        return self.engine


@bentoml.service(name="denoiser", service_class=GatedService, workers=1)
class Denoiser:
    """Encode images of digits to 16 numbers, decode them back, denoise images.

    Over HTTP the `Gateway` answers these routes in all formats; the methods are the same three
    functions for BentoML's own client (JSON) and for Python.
    """

    def __init__(self) -> None:
        settings = Settings.from_environment()
        self.engine = Engine.load(settings.bundle, threads=settings.threads or None)

    @bentoml.on_deployment
    @staticmethod
    def refuse_early() -> None:
        """Check settings and bundle once, before any worker starts.

        A worker that cannot load would be started again and again; here one line tells why.
        """
        try:
            Bundle.open(Settings.from_environment().bundle)
        except DenoiserError as exc:
            print(f"denoiser {__version__}: {exc}", file=sys.stderr)
            raise SystemExit(2) from exc

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


def _rows(values: list[Any]) -> np.ndarray:
    return np.asarray(values, np.float32)
