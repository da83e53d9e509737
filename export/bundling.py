"""One run becomes one bundle, or nothing."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from common.publishing import staged_folder
from export import convert, parity, quality, quantise
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
from training.runs import Run, Samples

GOLDEN_IMAGES = 16


def export_run(
    run_folder: Path,
    out: Path,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Manifest:
    """Convert the three models of a run, prove them, and publish the bundle at `out`.

    Args:
        run_folder: a finished run, as `training` leaves it.
        out: where the bundle appears, whole or not at all.
        overwrite: replace a bundle that is there already.
        say: gets each line for the screen.

    Raises:
        RunError: the run is missing or damaged.
        TargetExistsError: `out` exists and `overwrite` is False.
        ParityError: the exported models differ from Keras; nothing is published.
    """
    with staged_folder(out, marks=(MANIFEST,), overwrite=overwrite) as stage:
        manifest = _fill(stage, Run.load(run_folder), out.name, say)
    say(f"{out}: fingerprint {manifest.fingerprint}")
    return manifest


def _fill(stage: Path, run: Run, bundle_name: str, say: Callable[[str], None]) -> Manifest:
    """Everything in the bundle's folder, proven, before it gets its name."""
    models, samples = run.models(), run.samples()
    height, width, channels = models.encoder.input_shape[1:]
    facts: dict[str, Any] = {
        "name": bundle_name,
        "image_shape": (height, width, channels),
        "latent_size": int(models.encoder.output_shape[-1]),
        "training": run.config,
        "quality": run.metrics,
        "tools": _tools(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    metadata = {
        "denoiser.image_shape": json.dumps([height, width, channels]),
        "denoiser.image_range": "[0, 1]",
        "denoiser.latent_size": str(facts["latent_size"]),
    }

    facts["chunks"] = {}
    reducible = {}
    for name in MODELS:
        model, reducible[name] = convert.graphs(getattr(models, name), name, metadata=metadata)
        (stage / f"{name}.onnx").write_bytes(convert.serialize(model))
        facts["chunks"][name] = chunk_of(model)
        say(f"{name}: {len(model.graph.node)} nodes, opset {convert.OPSET}")
    # The engine needs a manifest to know its shapes; this one is not yet the final seal.
    engine = Engine(Bundle(stage, write_manifest(stage, parity={}, **facts)))
    rows = parity.compare(engine, in_float64(models), clean=samples.clean, noisy=samples.noisy)
    say(parity.table(rows))
    parity.enforce(rows)
    (stage / PARITY).write_text(json.dumps(parity.report(rows), indent=2) + "\n")
    _write_golden(stage, engine, samples.noisy[:GOLDEN_IMAGES])
    facts["parity"] = parity.summary(rows)
    facts["precisions"] = {INT8: _reduce(stage, engine, samples, reducible, facts)}
    sealed = write_manifest(stage, **facts)
    facts["novelty"] = novelty.add(stage, Bundle(stage, sealed), run, say)
    manifest = write_manifest(stage, **facts)
    for precision in manifest.available:
        Engine.load(stage, precision=precision)  # what the service will do first must hold already
    tried = manifest.precisions[INT8]
    say(quality.table(tried.figures) if "loss" in tried.figures else "")
    say(f"int8: {tried.reason or 'ships'}")
    return manifest


def _reduce(
    stage: Path,
    engine: Engine,
    samples: Samples,
    models: dict[str, onnx.ModelProto],
    facts: dict[str, Any],
) -> Precision:
    """Write `models` in int8 beside the float32 ones; leave none where they may not ship.

    Every second pair calibrates, the others judge.
    """
    intensity = quantise.intensity(models["autoencoder"])
    figures: dict[str, Any] = {"multiply_adds_per_activation": round(intensity, 1)}
    if intensity < quantise.MIN_INTENSITY:
        reason = (
            f"too little to gain: {intensity:.1f} multiply-adds for each activation in the layers "
            f"that could be int8, where {quantise.MIN_INTENSITY:.0f} would make it faster"
        )
        return Precision(reason=reason, figures=figures)
    judges = len(samples.noisy[1::2])
    if judges < quality.MIN_IMAGES:
        reason = f"{judges} held-out images to judge it by, where {quality.MIN_IMAGES} are needed"
        return Precision(reason=reason, figures=figures)

    for name, model in quantise.quantise(models, samples.noisy[0::2]).items():
        (stage / model_file(name, INT8)).write_bytes(convert.serialize(model))
    sealed = write_manifest(stage, **facts, precisions={INT8: Precision()})
    judged = Engine(Bundle(stage, sealed), precision=INT8)
    figures |= quality.losses(engine, judged, clean=samples.clean[1::2], noisy=samples.noisy[1::2])
    reason = quality.refusal(figures)
    if reason:
        for name in MODELS:
            (stage / model_file(name, INT8)).unlink()
    else:
        _write_golden(stage, judged, samples.noisy[:GOLDEN_IMAGES])
    return Precision(reason=reason, figures=figures)


def _write_golden(stage: Path, engine: Engine, images: np.ndarray) -> None:
    """Store inputs and answers that every later load must reproduce."""
    latents = engine.encode(images)
    np.savez_compressed(
        stage / golden_file(engine.precision),
        images=images,
        latents=latents,
        decoded=engine.decode(latents),
        denoised=engine.denoise(images),
    )


def _tools() -> dict[str, str]:
    packages = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")
    return {
        "denoiser": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
