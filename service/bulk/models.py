"""Who computes: an engine in this process, or a service over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import httpx
import numpy as np

from common.arrays import Array
from common.errors import BundleError, OptionError
from denoiser_client import DenoiserClient, DenoiserClientError
from service.bulk.errors import BulkError
from service.bulk.options import BulkOptions, Operation
from service.bulk.provenance import ModelFacts
from service.bundle import FLOAT32, Manifest
from service.engine import Engine, ImageDtype, OutputName

T = TypeVar("T")

OUTPUT_OF: dict[Operation, tuple[str, OutputName]] = {
    "encode": ("images", "latents"),
    "decode": ("latents", "images"),
    "denoise": ("images", "denoised"),
}


class ServiceError(BulkError):
    """The service at --url refused, failed or changed its model."""

    title = "The service at --url"


@dataclass(frozen=True)
class Answer:
    """rows: float32 (n, latent_size), or images (n, H, W, C). scores: float32 (n), if asked for."""

    rows: Array
    scores: Array | None = None


class Model(Protocol):
    facts: ModelFacts

    def run(self, operation: Operation, rows: Array, *, dtype: ImageDtype, score: bool) -> Answer:
        """Compute so many rows; images come as `dtype`.

        Raises:
            InputError, such as RangeError for NaN.
        """
        ...

    def close(self) -> None: ...


def open_model(options: BulkOptions) -> Model:
    """The engine, or the service at `options.url`."""
    return Remote(options) if options.url else Local(options)


class Local:
    """An engine of this process."""

    def __init__(self, options: BulkOptions) -> None:
        self._engine = Engine.load(
            options.bundle, threads=options.threads or None, precision=options.precision
        )
        self.facts = _facts_of(self._engine.manifest)
        if options.score:  # a bundle without scores is refused here, before anything is read
            self._engine.score(np.empty((0, *self.facts.image_shape), np.float32))

    def run(self, operation: Operation, rows: Array, *, dtype: ImageDtype, score: bool) -> Answer:
        source, output = OUTPUT_OF[operation]
        outputs: tuple[OutputName, ...] = (output, "scores") if score else (output,)
        results = _result(self._engine.submit(outputs, dtype=dtype, **{source: rows}))
        return Answer(results[output], results.get("scores"))

    def close(self) -> None:
        pass


class Remote:
    """A service far away; what it computes with must not change while a job runs."""

    def __init__(self, options: BulkOptions) -> None:
        self._url = options.url
        if options.score:
            raise OptionError(
                "--score with --url", expected="an engine in this process", hint="Leave one out."
            )
        try:
            self._client = DenoiserClient(options.url, options.api_key or None)
        except httpx.InvalidURL as exc:
            raise OptionError(
                f"--url {options.url} ({exc})",
                expected="an address such as http://127.0.0.1:3000",
                hint="Correct it.",
            ) from exc
        try:
            with _translated():
                self.facts = _facts_of(Manifest.from_dict(self._client.model()))
        except (ValueError, BundleError) as exc:
            raise ServiceError(
                f"what {options.url} says of its model ({exc})",
                expected="a manifest, as /model gives it",
                hint="Check the address.",
            ) from exc

    def run(self, operation: Operation, rows: Array, *, dtype: ImageDtype, score: bool) -> Answer:
        call: Callable[[Array], Array] = getattr(self._client, operation)
        if dtype == "float32" and rows.dtype == np.uint8:  # images come back as they came
            rows = np.divide(rows, np.float32(255), dtype=np.float32)
        with _translated():
            answer = call(rows)
            now = self._client.model()["fingerprint"]
        if dtype == "uint8" and operation != "encode" and answer.dtype != np.uint8:
            answer = np.rint(answer * 255).astype(np.uint8)
        if now != self.facts.fingerprint:
            raise ServiceError(
                f"a model with fingerprint {now} at {self._url}",
                expected=f"{self.facts.fingerprint}, with which the job began",
                hint="Start the job anew with --overwrite.",
            )
        return Answer(answer)

    def close(self) -> None:
        self._client.close()


@contextmanager
def _translated() -> Iterator[None]:
    """The client's errors as this project's."""
    try:
        yield
    except DenoiserClientError as exc:
        raise ServiceError(exc.received, expected=exc.expected, hint=exc.hint) from exc


def _result(future: Future[T]) -> T:
    """What a call of the engine gives; whoever is interrupted while he waits gives it up."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _facts_of(manifest: Manifest) -> ModelFacts:
    """What an engine's manifest says, in the precision that it answers with."""
    named = [n for n, p in manifest.precisions.items() if p.fingerprint == manifest.fingerprint]
    return ModelFacts(
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        precision=named[0] if named else FLOAT32,
        image_shape=manifest.image_shape,
        latent_size=manifest.latent_size,
    )
