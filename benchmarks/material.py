"""One set of weights in every form that a runtime wants: Keras, plain ONNX, our bundle."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.settings import Settings
from service.bundle import MODELS, Bundle
from service.engine import Engine
from training import runs
from training.backend import load_tensorflow
from training.settings import FitSettings

Array = np.ndarray[Any, np.dtype[Any]]

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
            run = base / "runs" / "random"
            image_shape, fit = network_of(settings.bundle, settings.seed)
            untrained_run(run, fit, image_shape)
            weights = f"random weights from seed {settings.seed} (speed does not depend on them)"
        bundle = base / "bundles" / "measured"
        export_run(run, bundle, say=lambda line: None)
        material = Material(run, bundle, base / "plain", weights, settings.seed)
        write_plain(material.plain, material.keras)
        yield material


def network_of(bundle: Path, seed: int) -> tuple[tuple[int, int, int], FitSettings]:
    """Image shape (H, W, C) and network of a bundle, or the preset's own where there is none."""
    if not bundle.exists():
        return (28, 28, 1), FitSettings.resolve(seed=seed)
    manifest = Bundle.open(bundle).manifest
    saved = manifest.training.get("settings", {})
    shaping = ("preset", "latent_size", "kernel_size", "noise")
    given = {name: saved[name] for name in shaping if saved.get(name) is not None}
    filters = tuple(saved["filters"]) if "filters" in saved else None
    return manifest.image_shape, FitSettings.resolve(**given, filters=filters, seed=seed)


def untrained_run(folder: Path, fit: FitSettings, image_shape: tuple[int, int, int]) -> None:
    """Write a run folder as `training` leaves it, of a network that has learned nothing.

    Biases are random too: an exporter drops the ones that are zero, and would have less to do.
    """
    load_tensorflow()
    import keras

    from training.model import build

    keras.utils.set_random_seed(fit.seed)
    rng = np.random.default_rng(fit.seed)
    built = build(fit, image_shape)
    for weight in built.autoencoder.trainable_variables:
        scale = 0.1 if len(weight.shape) == 1 else float(np.asarray(weight).std()) * 1.5
        weight.assign(rng.normal(0.0, scale, weight.shape).astype(np.float32))

    folder.mkdir(parents=True)
    for name, model in zip(runs.MODELS, built, strict=True):
        keras.Model(model.inputs, model.outputs, name=name).save(folder / f"{name}.keras")
    clean = rng.random((1024, *image_shape), dtype=np.float32)
    noisy = np.clip(clean + rng.normal(0.5, 0.5, clean.shape), 0, 1).astype(np.float32)
    np.savez(folder / runs.SAMPLES, clean=clean, noisy=noisy)
    with (folder / runs.HISTORY).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["epoch", "loss"])
    data = {"name": "random", "image_shape": list(image_shape)}
    runs.write_json(folder / runs.CONFIG, {"settings": fit.saved(), "data": data, "versions": {}})
    runs.write_json(folder / runs.METRICS, {})


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
