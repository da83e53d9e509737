"""The bundle: what export writes and everything else reads.

    bundles/<name>/
        encoder.onnx  decoder.onnx  autoencoder.onnx    float32, dynamic batch
        parity.json                                     how they were compared with Keras
        golden.npz                                      inputs and answers, replayed at load
        *.int8.onnx  golden.int8.npz                    the same in int8, where it passes its gate
        novelty.onnx  novelty.int8.onnx                 novelty score per image (export/novelty)
        README.md                                       the model card (export/card.py), not hashed
        manifest.json                                   hashes, identity, facts

Writer and reader stand side by side so that they cannot drift apart.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BundleDamagedError, BundleMissingError
from service.manifest import (
    FLOAT32,
    INT8,
    PRECISIONS,
    REMAKE,
    SCHEMA_VERSION,
    FileFacts,
    Manifest,
    Precision,
    PrecisionName,
)

__all__ = [
    "FLOAT32",
    "GOLDEN",
    "GOLDEN_ARRAYS",
    "INT8",
    "MANIFEST",
    "MODELS",
    "NOVELTY",
    "PARITY",
    "PRECISIONS",
    "SCHEMA_VERSION",
    "Bundle",
    "FileFacts",
    "Manifest",
    "Precision",
    "PrecisionName",
    "fingerprint_of",
    "golden_file",
    "model_file",
    "novelty_file",
    "write_manifest",
]

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
PARITY = "parity.json"
NOVELTY = "novelty.onnx"
MODELS = ("encoder", "decoder", "autoencoder")
GOLDEN_ARRAYS = ("images", "latents", "decoded", "denoised")


@dataclass(frozen=True)
class Bundle:
    """A folder whose files are those that its manifest names."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest and verify the size and hash of every file it names.

        Raises:
            BundleMissingError, BundleDamagedError, BundleSchemaError.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        for name, facts in manifest.files.items():
            if Path(name).name != name:
                raise BundleDamagedError(
                    f"the file name {name!r} in {path / MANIFEST}",
                    expected="plain names of files inside the bundle",
                    hint=REMAKE,
                )
            if not (path / name).is_file():
                raise BundleMissingError(
                    f"{path} without {name}", expected="every file its manifest names", hint=REMAKE
                )
            found = FileFacts.of(path / name)
            if found != facts:
                raise BundleDamagedError(
                    f"{path / name} has {found.bytes} bytes and SHA-256 {found.sha256[:12]}…",
                    expected=f"{facts.bytes} bytes and {facts.sha256[:12]}…",
                    hint=REMAKE,
                )
        wanted = {PARITY}
        for precision in manifest.available:
            wanted |= {golden_file(precision), *(model_file(m, precision) for m in MODELS)}
            wanted |= {novelty_file(precision)} if manifest.novelty else set()
        if absent := sorted(wanted - set(manifest.files)):
            raise BundleDamagedError(
                f"a manifest that does not name {', '.join(absent)}",
                expected="parity.json, and in each precision three models, golden answers and, "
                "where it has a novelty entry, what scores images",
                hint=REMAKE,
            )
        if manifest.novelty and set(manifest.novelty) != set(manifest.available):
            raise BundleDamagedError(
                f"scores for {', '.join(manifest.novelty)} in {path / MANIFEST}",
                expected=f"for {', '.join(manifest.available)}, or none",
                hint=REMAKE,
            )
        for precision in manifest.available:
            stated = manifest.at(precision).fingerprint
            if (found_print := fingerprint_of(manifest.files, precision)) != stated:
                raise BundleDamagedError(
                    f"fingerprint {stated[:12]}… ({precision}) in {path / MANIFEST}",
                    expected=f"{found_print[:12]}…, that of its own models",
                    hint=REMAKE,
                )
        return cls(path=path, manifest=manifest)

    def model(self, name: str, precision: str = FLOAT32) -> Path:
        """The ONNX file of "encoder", "decoder" or "autoencoder"."""
        return self.path / model_file(name, precision)

    def novelty(self, precision: str = FLOAT32) -> Path | None:
        """The ONNX file that scores images; None where the bundle has no scores."""
        return self.path / novelty_file(precision) if precision in self.manifest.novelty else None

    def golden(self, precision: str = FLOAT32) -> dict[str, np.ndarray]:
        """Stored inputs and answers: `images` → `latents`, `denoised`; `latents` → `decoded`.

        Images and answers are float32 (N, H, W, C) in [0, 1]; latents float32 (N, latent_size).
        """
        path = self.path / golden_file(precision)
        try:
            with (
                path.open("rb") as file,
                np.load(file, allow_pickle=False) as stored,
            ):
                return {name: stored[name] for name in GOLDEN_ARRAYS}
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as exc:
            raise BundleDamagedError(
                f"{path} does not read ({exc})",
                expected=f"arrays {', '.join(GOLDEN_ARRAYS)}",
                hint=REMAKE,
            ) from exc


def model_file(model: str, precision: str = FLOAT32) -> str:
    """encoder.onnx, encoder.int8.onnx"""
    return f"{model}.onnx" if precision == FLOAT32 else f"{model}.{precision}.onnx"


def golden_file(precision: str = FLOAT32) -> str:
    """golden.npz, golden.int8.npz"""
    return GOLDEN if precision == FLOAT32 else GOLDEN.replace(".", f".{precision}.")


def novelty_file(precision: str = FLOAT32) -> str:
    """novelty.onnx, novelty.int8.onnx"""
    return NOVELTY if precision == FLOAT32 else NOVELTY.replace(".", f".{precision}.")


def fingerprint_of(files: Mapping[str, FileFacts], precision: str = FLOAT32) -> str:
    """One SHA-256 over names and hashes of the three models of a precision, in a fixed order."""
    digest = hashlib.sha256()
    for model in MODELS:
        digest.update(f"{model} {files[model_file(model, precision)].sha256}\n".encode())
    return digest.hexdigest()


def write_manifest(
    folder: Path,
    *,
    name: str,
    image_shape: tuple[int, int, int],
    latent_size: int,
    training: dict[str, Any],
    quality: dict[str, Any],
    parity: dict[str, Any],
    tools: dict[str, str],
    created: str,
    chunks: dict[str, int] | None = None,
    precisions: Mapping[str, Precision] | None = None,
    novelty: dict[str, dict[str, Any]] | None = None,
) -> Manifest:
    """Seal `folder`: hash every file in it and write `manifest.json` beside them.

    `precisions` are those beside float32; what has no reason to be missing gets its fingerprint.
    """
    files = {
        path.name: FileFacts.of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST
    }
    manifest = Manifest(
        name=name,
        fingerprint=fingerprint_of(files),
        image_shape=image_shape,
        latent_size=latent_size,
        files=files,
        training=training,
        quality=quality,
        parity=parity,
        chunks=chunks or {},
        tools=tools,
        created=created,
        novelty=novelty or {},
        precisions={
            name: tried if tried.reason else replace(tried, fingerprint=fingerprint_of(files, name))
            for name, tried in {FLOAT32: Precision(), **(precisions or {})}.items()
        },
    )
    text = json.dumps(manifest.as_dict(), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise BundleMissingError(
            f"no folder {path}",
            expected="a bundle",
            hint="Set DENOISER_BUNDLE to one, or make one: python -m export RUN --out BUNDLE.",
        )
    if not (path / MANIFEST).is_file():
        raise BundleMissingError(
            f"{path} without {MANIFEST}", expected="a bundle that export has sealed", hint=REMAKE
        )
    try:
        plain = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as exc:
        raise BundleDamagedError(
            f"{path / MANIFEST} is not JSON ({exc})", expected="a manifest", hint=REMAKE
        ) from exc
    if not isinstance(plain, dict):
        raise BundleDamagedError(
            f"{path / MANIFEST} holds a {type(plain).__name__}",
            expected="a JSON object",
            hint=REMAKE,
        )
    return Manifest.from_dict(plain)
