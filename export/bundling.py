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

from export import convert, parity
from export.cost import chunk_of
from service import __version__
from service.bundle import GOLDEN, MODELS, PARITY, Bundle, Manifest, write_manifest
from service.engine import Engine
from service.staging import staged_folder
from training.runs import Run

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
    with staged_folder(out, overwrite=overwrite) as stage:
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
    for name in MODELS:
        model = convert.to_onnx(getattr(models, name), name, metadata=metadata)
        (stage / f"{name}.onnx").write_bytes(convert.serialize(model))
        facts["chunks"][name] = chunk_of(model)
        say(f"{name}: {len(model.graph.node)} nodes, opset {convert.OPSET}")
    # The engine needs a manifest to know its shapes; this one is not yet the final seal.
    engine = Engine(Bundle(stage, write_manifest(stage, parity={}, **facts)))
    rows = parity.compare(engine, models, clean=samples.clean, noisy=samples.noisy)
    say(parity.table(rows))
    parity.enforce(rows)
    (stage / PARITY).write_text(json.dumps(parity.report(rows), indent=2) + "\n")
    _write_golden(stage / GOLDEN, engine, samples.noisy[:GOLDEN_IMAGES])
    manifest = write_manifest(stage, parity=parity.summary(rows), **facts)
    Engine.load(stage)  # what the service will do first: it must hold here already
    return manifest


def _write_golden(path: Path, engine: Engine, images: np.ndarray) -> None:
    """Store inputs and answers that every later load must reproduce."""
    latents = engine.encode(images)
    np.savez_compressed(
        path,
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
