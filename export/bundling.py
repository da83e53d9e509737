"""One run becomes one bundle, or nothing."""

from __future__ import annotations

import json
import logging
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from common.arrays import Array
from common.publishing import staged_folder
from export import card, convert, parity, quality, quantise
from export.chunks import chunks, free_memory
from export.errors import NetworkError
from export.exact import in_float64
from export.novelty import fit as novelty
from export.rewrite.cost import chunk_of
from service import __version__
from service.bundle import (
    INT8,
    MANIFEST,
    MODELS,
    PARITY,
    Bundle,
    Manifest,
    Precision,
    golden_file,
    model_file,
    write_manifest,
)
from service.engine import Engine
from training.runs import Run, RunModels, Samples

GOLDEN_IMAGES = 16
CHECKED_IMAGES, BATCH = 64, 8
CONTENTS = ("*.onnx", "golden*.npz", MANIFEST, PARITY, card.CARD)  # of a bundle's folder
PENDING = "computed when the manifest is written"

logger = logging.getLogger(__name__)


def export_run(run_folder: Path, out: Path, *, overwrite: bool = False) -> Manifest:
    """Convert the three models of a run, check them against Keras, publish the bundle at `out`.

    Args:
        run_folder: a finished run, as `training` leaves it.
        out: the bundle's folder, which appears whole or not at all.
        overwrite: replace an existing bundle.

    Raises:
        RunError: the run is missing or damaged.
        NetworkError: weights or output are not finite, the output is constant, or ONNX cannot
            express a layer.
        TargetExistsError: `out` exists and `overwrite` is False.
        ParityError: the exported models differ from Keras; nothing is published.
    """
    run = Run.load(run_folder)
    with (
        staged_folder(out, marks=(MANIFEST,), contents=CONTENTS, overwrite=overwrite) as stage,
        TemporaryDirectory(prefix="denoiser-export-") as work,
    ):
        manifest = _fill(stage, Path(work), run, out.absolute().name)
    logger.info("%s: fingerprint %s", out, manifest.fingerprint)
    return manifest


def _fill(stage: Path, work: Path, run: Run, bundle_name: str) -> Manifest:
    """Write and check all files of the bundle; `work` is for files that do not ship."""
    models = run.models()
    height, width, channels = models.encoder.input_shape[1:]
    facts: dict[str, Any] = {
        "name": bundle_name,
        "image_shape": (height, width, channels),
        "latent_size": int(models.encoder.output_shape[-1]),
        "training": run.config,
        "quality": run.metrics,
        "parity": {},
        "chunks": {},
        "tools": _tools(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    metadata = {
        "denoiser.image_shape": json.dumps([height, width, channels]),
        "denoiser.image_range": "[0, 1]",
        "denoiser.latent_size": str(facts["latent_size"]),
    }
    spread = check_network(models, run.samples().noisy)
    for name in reversed(MODELS):  # the largest first, while there is least in memory
        try:
            model, reducible = convert.graphs(getattr(models, name), name, metadata=metadata)
        except Exception as exc:  # tf2onnx and onnx raise many kinds
            raise NetworkError(
                f"{name}, which cannot be converted ({_first_line(exc)})",
                expected="layers that ONNX can express",
            ) from exc
        (stage / model_file(name)).write_bytes(convert.serialize(model))
        (work / model_file(name)).write_bytes(convert.serialize(reducible))
        facts["chunks"][name] = chunk_of(model)
        logger.info("%s: %d nodes, opset %d", name, len(model.graph.node), convert.OPSET)
        del model, reducible
        free_memory()

    samples = run.samples()
    engine, exact = Engine(_draft(stage, facts)), in_float64(models)
    del models
    free_memory()
    rows = parity.compare(engine, exact, clean=samples.clean, noisy=samples.noisy)
    del exact
    free_memory()
    logger.info(parity.table(rows))
    parity.enforce(rows)
    (stage / PARITY).write_text(json.dumps(parity.report(rows), indent=2) + "\n")
    facts["parity"] = parity.summary(rows)
    _write_golden(stage, engine, samples.noisy[:GOLDEN_IMAGES])
    int8 = _reduce(stage, work, engine, samples, facts, spread=spread)
    facts["precisions"] = {INT8: int8}
    del engine, samples
    free_memory()
    facts["novelty"] = novelty.add(_draft(stage, facts), run)
    manifest = write_manifest(stage, **facts)
    (stage / card.CARD).write_text(card.text(manifest), encoding="utf-8")
    free_memory()
    for precision in manifest.available:
        Engine.load(stage, precision=precision)  # as the service will
    return manifest


def check_network(models: RunModels, noisy: Array) -> float:
    """Refuse a network that has diverged or collapsed: comparisons of its output show nothing.

    Args:
        models: the run's Keras models.
        noisy: held-out images, float32 (N, H, W, C) in [0, 1].

    Returns:
        By how much the output differs between images at most, in [0, 1].

    Raises:
        NetworkError: names the model.
    """
    for name, model in zip(MODELS, models, strict=True):
        if not all(np.isfinite(weights).all() for weights in model.get_weights()):
            raise NetworkError(
                f"{name} with weights that are NaN or infinite",
                expected="finite weights",
                hint="Training has diverged: train again with a smaller --learning-rate.",
            )
    images = noisy[next(chunks(min(CHECKED_IMAGES, len(noisy)), noisy.shape[1:]))]
    denoised = models.autoencoder.predict(images, batch_size=BATCH, verbose=0)
    axis = 0 if len(denoised) > 1 else None  # of a single image: between its pixels
    spread = float(np.ptp(denoised, axis=axis).max())
    if not spread > parity.LIMIT:  # also NaN
        raise NetworkError(
            f"autoencoder whose output differs by {spread:.0e} between {len(images)} images",
            expected=f"more than {parity.LIMIT:.0e}, what parity can tell apart",
            hint="Training has collapsed: train again with a smaller --learning-rate.",
        )
    return spread


def _draft(stage: Path, facts: dict[str, Any]) -> Bundle:
    """A bundle that an engine can run before its manifest is written: it has no hashes yet."""
    return Bundle(stage, Manifest(fingerprint=PENDING, files={}, **facts))


def _reduce(
    stage: Path,
    work: Path,
    engine: Engine,
    samples: Samples,
    facts: dict[str, Any],
    *,
    spread: float,
) -> Precision:
    """Write the models of `work` in int8 beside the float32 ones, or none that may not ship.

    Every second held-out pair calibrates; the others measure the loss.
    """
    intensity = quantise.intensity(onnx.load(work / model_file("autoencoder")))
    figures: dict[str, Any] = {"multiply_adds_per_activation": round(intensity, 1)}
    images = len(samples.noisy[1::2])
    reason = ""
    if intensity < quantise.MIN_INTENSITY:
        reason = (
            f"too little to gain: {intensity:.1f} multiply-adds per activation in the layers that "
            f"could be int8, at least {quantise.MIN_INTENSITY:.0f} make it faster"
        )
    elif spread < quality.MIN_SPREAD:
        reason = (
            f"an output that differs by {spread:.4f} between images is no measure of the loss, "
            f"at least {quality.MIN_SPREAD:.4f} needed"
        )
    elif images < quality.MIN_IMAGES:
        reason = (
            f"{images} held-out images to measure the loss, at least {quality.MIN_IMAGES} needed"
        )
    else:
        models = {name: onnx.load(work / model_file(name)) for name in MODELS}
        for name, model in quantise.quantise(models, samples.noisy[0::2]).items():
            (stage / model_file(name, INT8)).write_bytes(convert.serialize(model))
        draft = _draft(stage, {**facts, "precisions": {INT8: Precision(fingerprint=PENDING)}})
        reduced = Engine(draft, precision=INT8)
        figures |= quality.losses(
            engine, reduced, clean=samples.clean[1::2], noisy=samples.noisy[1::2]
        )
        logger.info(quality.table(figures))
        reason = quality.refusal(figures)
        if reason:
            for name in MODELS:
                (stage / model_file(name, INT8)).unlink()
        else:
            _write_golden(stage, reduced, samples.noisy[:GOLDEN_IMAGES])
    logger.info("int8: %s", reason or "included")
    return Precision(fingerprint="" if reason else PENDING, reason=reason, figures=figures)


def _write_golden(stage: Path, engine: Engine, images: Array) -> None:
    """Store inputs and outputs that every later load must reproduce."""
    latents = engine.encode(images)
    np.savez_compressed(
        stage / golden_file(engine.precision),
        images=images,
        latents=latents,
        decoded=engine.decode(latents),
        denoised=engine.denoise(images),
    )


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:200]


def _tools() -> dict[str, str]:
    packages = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")
    return {
        "denoiser": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
