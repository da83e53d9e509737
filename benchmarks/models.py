"""One set of weights in every form that a runtime needs: Keras, plain ONNX, our bundle."""

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
from common.arrays import Bytes, Floats
from export.convert import OPSET, TENSORS
from service.bundle import MODELS, Bundle
from service.engine import Engine
from training import runs
from training.backend import load_tensorflow
from training.data.arrays import Rows, resized
from training.data.digits import load_digits_28
from training.settings import FitSettings


@dataclass(frozen=True)
class Models:
    """The same network for all runtimes.

    Attributes:
        run: a run folder with the three Keras models.
        bundle: the export of that run.
        plain: folder of the same models as tf2onnx writes them: `<model>.onnx`.
        weights: their origin, for the reader of the tables.
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
        return dict(zip(MODELS, runs.Run.load(self.run).models(), strict=True))

    @cached_property
    def engine(self) -> Engine:
        """Our engine with its defaults, on all usable cores."""
        return Engine.load(self.bundle)

    def plain_path(self, model: str) -> Path:
        """The plain exported graph of one model."""
        return self.plain / f"{model}.onnx"

    def rows(self, model: str, count: int) -> Floats:
        """Input for one model: float32 (count, H, W, C) noisy images in [0, 1], or latents."""
        rng = np.random.default_rng(self.seed)
        if model == "decoder":
            return rng.standard_normal((count, self.engine.manifest.latent_size), dtype=np.float32)
        rows = rng.standard_normal((count, *self.engine.manifest.image_shape), dtype=np.float32)
        rows *= 0.5  # in place: a million images are 3 GB
        rows += 0.5
        return np.clip(rows, 0, 1, out=rows)

    def output_buffer(self, model: str, count: int) -> Floats:
        """Memory for the output of so many rows, float32 (count, …), written to once before."""
        manifest = self.engine.manifest
        row = (manifest.latent_size,) if model == "encoder" else manifest.image_shape
        return np.full((count, *row), np.nan, np.float32)


@contextmanager
def prepare_models(settings: Settings) -> Iterator[Models]:
    """Make every form in a temporary folder; the bundle by `export` itself."""
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
        models = Models(run, bundle, base / "plain", weights, settings.seed)
        write_plain(models.plain, models.keras)
        yield models


def network_of(settings: Settings) -> tuple[tuple[int, int, int], FitSettings]:
    """Image shape (H, W, C) and network of a bundle, or the preset's own where there is none."""
    image_shape = (28, 28, 1)
    options: dict[str, Any] = {}
    if settings.bundle.exists():
        manifest = Bundle.open(settings.bundle).manifest
        image_shape = manifest.image_shape
        saved = manifest.training.get("settings", {})
        names = ("preset", "latent_size", "kernel_size", "filters")
        options = {name: saved[name] for name in names if saved.get(name) is not None}
        if "filters" in options:
            options["filters"] = tuple(options["filters"])
    fit = FitSettings.resolve(**options, epochs=settings.sizes.epochs, seed=settings.seed)
    return settings.image_shape or image_shape, fit


def digits_run(folder: Path, fit: FitSettings, image_shape: tuple[int, int, int]) -> None:
    """Train on the embedded digits, resized to `image_shape` and tinted; write a run folder.

    Speed does not depend on the weights, but int8 is exported only if a trained model keeps its
    quality.
    """
    load_tensorflow()
    from training.fit import fit as train

    with TemporaryDirectory(prefix="denoiser-digits-") as work:
        path = Path(work) / "digits.npz"
        np.savez(path, images=tinted_digits(image_shape, seed=fit.seed))
        train(replace(fit, dataset=str(path)), folder, verbose=0)


def tinted_digits(image_shape: tuple[int, int, int], *, seed: int) -> Bytes:
    """The embedded digits, uint8 (1797, H, W, C); of several channels each has its own strength."""
    height, width, channels = image_shape
    digits = resized(Rows(load_digits_28()[0]), (height, width))[:].astype(np.float32)
    if channels > 1:
        tints = np.random.default_rng(seed).uniform(0.3, 1.0, (len(digits), 1, 1, channels))
        return np.rint(digits * tints).astype(np.uint8)
    return np.rint(digits).astype(np.uint8)


def write_plain(folder: Path, keras_models: Mapping[str, Any]) -> None:
    """tf2onnx's own output for each Keras model, as its documentation has it: `<model>.onnx`."""
    import tensorflow as tf
    import tf2onnx

    folder.mkdir(exist_ok=True)
    for name, model in keras_models.items():
        shape = (None, *model.input_shape[1:])
        signature = [tf.TensorSpec(shape, tf.float32, name=TENSORS[name][0])]
        path = str(folder / f"{name}.onnx")
        tf2onnx.convert.from_keras(model, input_signature=signature, opset=OPSET, output_path=path)
