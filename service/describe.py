"""A bundle as text, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.bundle import FLOAT32, Bundle, Precision


def describe(bundle: Bundle) -> str:
    """A verified bundle's facts, one per line."""
    manifest = bundle.manifest
    height, width, channels = manifest.image_shape
    settings = manifest.training.get("settings", manifest.training)
    trained = _facts(settings, "dataset", "task", "preset", "noise", "epochs", "seed")
    lines = [
        f"{bundle.path}: {manifest.name}, schema {manifest.schema_version}, {manifest.created}",
        f"  fingerprint  {manifest.fingerprint}",
        f"  images       {height}×{width}×{channels}; latents of {manifest.latent_size} numbers",
        f"  trained      {trained}",
        f"  quality      {_figures(manifest.quality)}",
        f"  parity       {_parity(manifest.parity)}",
        *(f"  {n:<11}  {_precision(p)}" for n, p in manifest.precisions.items() if n != FLOAT32),
        *(f"  novelty      {n}: {_novelty(facts)}" for n, facts in manifest.novelty.items()),
        f"  written by   {', '.join(f'{k} {v}' for k, v in manifest.tools.items())}",
        "  files        all hashes match:",
    ]
    lines += [
        f"    {name:<22} {facts.bytes:>9,} bytes  {facts.sha256[:16]}…"
        for name, facts in manifest.files.items()
    ]
    return "\n".join(lines)


def _facts(source: Mapping[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {source[name]}" for name in names if source.get(name) is not None)


def _figures(quality: Mapping[str, Any]) -> str:
    """MSE, PSNR and SSIM on the test split, noisy → denoised."""
    test = quality.get("test", {})
    names = [("mse", "MSE", ".4f"), ("psnr", "PSNR dB", ".2f"), ("ssim", "SSIM", ".3f")]
    try:
        before, after = test["input"], test["output"]
        return f"{test['n']:,} test images: " + ", ".join(
            f"{label} {before[name]:{form}} → {after[name]:{form}}" for name, label, form in names
        )
    except (KeyError, TypeError, ValueError):
        return "not recorded"


def _precision(facts: Precision) -> str:
    """A reduced precision's fingerprint and cost, or why the bundle does not have it."""
    if not facts.fingerprint:
        return f"not in this bundle: {facts.reason}"
    try:
        loss = facts.figures["loss"]["autoencoder"]
        cost = f"loses {loss['psnr']:.4f} dB of PSNR and {loss['ssim']:.5f} of SSIM"
    except (KeyError, TypeError, ValueError):
        cost = "its cost was not recorded"
    return f"fingerprint {facts.fingerprint}; {cost}"


def _novelty(facts: Mapping[str, Any]) -> str:
    """The threshold, and the share of validation images above it."""
    try:
        share = f"{facts['share_above']:.2%} of {facts['validation']:,} validation images"
        return f"unusual above {facts['threshold']:g}, as {share} are"
    except (KeyError, TypeError, ValueError):
        return "not described"


def _parity(parity: Mapping[str, Any]) -> str:
    largest = parity.get("largest_difference", {})
    worst = max(largest.values(), default=float("nan"))
    return f"{parity.get('comparisons', 0)} comparisons with Keras, largest difference {worst:.1e}"
