"""Who computes: an engine in this process, or a service over HTTP.

All calls of the engine and of the client are in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from common.arrays import Array, to_bytes, to_floats
from common.errors import BundleError, OptionError, RangeError
from denoiser_client import ConfigError, DenoiserClient, DenoiserClientError
from service.bulk.errors import ServiceError
from service.bulk.options import BulkOptions, Operation
from service.bundle import Manifest
from service.engine import Engine, ImageDtype, OutputName

OUTPUT: dict[Operation, OutputName] = {
    "encode": "latents",
    "decode": "images",
    "denoise": "denoised",
}

# float32 (n, latent_size) or images (n, H, W, C); and scores, float32 (n), if requested.
Result = tuple[Array, Array | None]


class Local:
    """An engine in this process."""

    def __init__(self, options: BulkOptions) -> None:
        self._engine = Engine.load(
            options.bundle, threads=options.threads or None, precision=options.precision
        )
        self.manifest = self._engine.manifest
        if options.score:  # refuse a bundle without scores before anything is read
            self._engine.score(np.empty((0, *self.manifest.image_shape), np.float32))

    def run(self, operation: Operation, rows: Array, *, dtype: ImageDtype, score: bool) -> Result:
        """Compute rows (see `Batch.rows`); images are returned as `dtype`.

        Raises:
            InputError: for example RangeError for NaN.
        """
        output = OUTPUT[operation]
        outputs: tuple[OutputName, ...] = (output, "scores") if score else (output,)
        images, latents = (None, rows) if operation == "decode" else (rows, None)
        results = self._engine.run(outputs, images=images, latents=latents, dtype=dtype)
        return results[output], results.get("scores")

    def close(self) -> None:
        """Nothing to close."""


class Remote:
    """The service at --url; its model must not change while a job runs."""

    def __init__(self, options: BulkOptions) -> None:
        if options.score:
            raise OptionError("--score with --url", expected="an engine in this process")
        self._url = options.url
        try:
            self._client = DenoiserClient(options.url, options.api_key or None)
        except ConfigError as exc:
            raise OptionError(
                f"--url {options.url}: {exc.received}", expected=exc.expected, hint=exc.hint
            ) from exc
        try:
            with _translated():
                self.manifest = Manifest.from_dict(self._client.model())
        except (ValueError, BundleError) as exc:
            raise ServiceError(
                f"{options.url}/model, which does not parse ({exc})", expected="a manifest"
            ) from exc

    def run(self, operation: Operation, rows: Array, *, dtype: ImageDtype, score: bool) -> Result:
        """As `Local.run`.

        Raises:
            ServiceError: the service failed, or its model changed.
        """
        call: Callable[[Array], Array] = getattr(self._client, operation)
        if dtype == "float32" and rows.dtype == np.uint8:  # denoised images keep their dtype
            rows = to_floats(rows)
        with _translated():
            result = call(rows)
            fingerprint = self._client.model()["fingerprint"]
        if fingerprint != self.manifest.fingerprint:
            raise ServiceError(
                f"a model with fingerprint {fingerprint} at {self._url}",
                expected=f"{self.manifest.fingerprint}, with which the job began",
                hint="Start the job anew with --overwrite.",
            )
        if dtype == "uint8" and operation != "encode" and result.dtype != np.uint8:
            result = to_bytes(result)
        return result, None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


Model = Local | Remote


def open_model(options: BulkOptions) -> Model:
    """The service at `options.url`, or else an engine in this process."""
    return Remote(options) if options.url else Local(options)


@contextmanager
def _translated() -> Iterator[None]:
    """The client's own errors as errors of this job."""
    try:
        yield
    except DenoiserClientError as exc:
        if exc.slug == "range":  # of single rows, which the job lists
            raise RangeError(exc.received, expected=exc.expected, hint=exc.hint) from exc
        raise ServiceError(exc.received, expected=exc.expected, hint=exc.hint) from exc
