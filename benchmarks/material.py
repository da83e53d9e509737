"""One set of weights in every form that a runtime wants: Keras, plain ONNX, our bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.settings import Settings
from common.arrays import Array
from service.bundle import MODELS, Bundle
from service.engine import Engine
from training import runs
from training.backend import load_tensorflow
from training.data.arrays import resized
from training.data.digits import load_digits_28
from training.settings import FitSettings

SOURCES = {"encoder": "images", "decoder": "latents", "autoencoder": "images"}
OPSET = 18  # the same for the plain export as for ours


@dataclass(frozen=True)
class Material:
    """What the runtimes are built from; all of it computes the same function.

    Attributes:
        run: a run folder with the three Keras models.
        bundle: what `export` makes of it.
        plain: folder of the same models as tf2onnx writes them, untouched: `<model>.onnx`.
        weights: where the weights come from, for the reader of the tables.
        seed: of the images.
    """

    run: Path
    bundle: Path
    plain: Path
    weights: str
    seed: int

    @cached_property
    def keras(self) -> dict[str, Any]:
        """The three Keras models."""
        models = runs.Run.load(self.run).models()
        return dict(zip(MODELS, models, strict=True))

    @cached_property
    def engine(self) -> Engine:
        """Our engine with its defaults, on all usable cores."""
        return Engine.load(self.bundle)

    def plain_path(self, model: str) -> Path:
        """The plain exported graph of one model."""
        return self.plain / f"{model}.onnx"

    def rows(self, model: str, count: int) -> Array:
        """Input for one model: float32 (count, H, W, C) noisy images in [0, 1], or latents."""
        rng = np.random.default_rng(self.seed)
        if model == "decoder":
            return rng.standard_normal((count, self.engine.manifest.latent_size), dtype=np.float32)
        rows = rng.standard_normal((count, *self.engine.manifest.image_shape), dtype=np.float32)
        rows *= 0.5  # in place: a million images are 3 GB
        rows += 0.5
        return np.clip(rows, 0, 1, out=rows)

    def answer(self, model: str, count: int) -> Array:
        """Memory for the answers to so many rows, float32 (count, …), written to once before."""
        manifest = self.engine.manifest
        row = (manifest.latent_size,) if model == "encoder" else manifest.image_shape
        return np.full((count, *row), np.nan, np.float32)


@contextmanager
def prepared(settings: Settings) -> Iterator[Material]:
    """Make every form in a temporary folder, through `export` itself for our own."""
    load_tensorflow()
    from export.bundling import export_run

    with TemporaryDirectory(prefix="denoiser-bench-") as folder:
        base = Path(folder)
        if settings.run is not None:
            run, weights = settings.run, f"weights of the run {settings.run.name}"
        else:
            run = base / "runs" / "digits"
            image_shape, fit = network_of(settings)
            digits_run(run, fit, image_shape)
            weights = f"trained on the embedded digits, {fit.epochs} epochs, seed {fit.seed}"
        bundle = base / "bundles" / "measured"
        export_run(run, bundle)
        material = Material(run, bundle, base / "plain", weights, settings.seed)
        write_plain(material.plain, material.keras)
        yield material


def network_of(settings: Settings) -> tuple[tuple[int, int, int], FitSettings]:
    """Image shape (H, W, C) and network of a bundle, or the preset's own where there is none."""
    image_shape = (28, 28, 1)
    given: dict[str, Any] = {}
    if settings.bundle.exists():
        manifest = Bundle.open(settings.bundle).manifest
        image_shape = manifest.image_shape
        saved = manifest.training.get("settings", {})
        shaping = ("preset", "latent_size", "kernel_size", "filters")
        given = {name: saved[name] for name in shaping if saved.get(name) is not None}
        if "filters" in given:
            given["filters"] = tuple(given["filters"])
    fit = FitSettings.resolve(**given, epochs=settings.epochs, seed=settings.seed)
    return settings.image_shape or image_shape, fit


def digits_run(folder: Path, fit: FitSettings, image_shape: tuple[int, int, int]) -> None:
    """Train on the embedded digits, brought to `image_shape` and tinted; write a run folder.

    Speed does not depend on the weights, but int8 ships only where it keeps what was learned.
    """
    load_tensorflow()
    from training.fit import fit as train

    with TemporaryDirectory(prefix="denoiser-digits-") as work:
        path = Path(work) / "digits.npz"
        np.savez(path, images=tinted_digits(image_shape, seed=fit.seed))
        given = replace(fit, dataset=str(path))
        train(given, folder, verbose=0, say=lambda line: None)


def tinted_digits(image_shape: tuple[int, int, int], *, seed: int) -> Array:
    """The embedded digits, uint8 (1797, H, W, C); of several channels each has its own strength."""
    height, width, channels = image_shape
    digits = resized(load_digits_28()[0], (height, width)).astype(np.float32)
    tints = np.random.default_rng(seed).uniform(0.3, 1.0, (len(digits), 1, 1, channels))
    answer = digits * tints if channels > 1 else digits
    return np.rint(answer).astype(np.uint8)


def write_plain(folder: Path, models: Mapping[str, Any]) -> None:
    """tf2onnx's own output for each Keras model, as anybody would get it: `<model>.onnx`."""
    import tensorflow as tf
    import tf2onnx

    folder.mkdir(exist_ok=True)
    for name, model in models.items():
        shape = (None, *model.input_shape[1:])
        signature = [tf.TensorSpec(shape, tf.float32, name=SOURCES[name])]
        path = str(folder / f"{name}.onnx")
        tf2onnx.convert.from_keras(model, input_signature=signature, opset=OPSET, output_path=path)
