"""The bundle: what export writes and everything else reads.

    bundles/<name>/
        encoder.onnx  decoder.onnx  autoencoder.onnx    float32, dynamic batch
        parity.json                                     their comparison with Keras
        golden.npz                                      inputs and outputs, replayed at load
        *.int8.onnx  golden.int8.npz                    the same in int8, where it passes its gate
        novelty.onnx  novelty.int8.onnx                 novelty score per image (export/novelty)
        README.md                                       the model card (export/card.py), not hashed
        manifest.json                                   hashes, identity, facts

Writer and reader are in one file, so that they stay the same.
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

from common.arrays import Array
from common.errors import BundleDamagedError, BundleMissingError
from service.manifest import FLOAT32 as FLOAT32
from service.manifest import INT8 as INT8
from service.manifest import PRECISIONS as PRECISIONS
from service.manifest import REMAKE
from service.manifest import SCHEMA_VERSION as SCHEMA_VERSION
from service.manifest import FileFacts as FileFacts
from service.manifest import Manifest as Manifest
from service.manifest import Precision as Precision
from service.manifest import PrecisionName as PrecisionName

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
PARITY = "parity.json"
NOVELTY = "novelty.onnx"
MODELS = ("encoder", "decoder", "autoencoder")
GOLDEN_ARRAYS = ("images", "latents", "decoded", "denoised")


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and its manifest."""

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
            _check_file(path, name, facts)
        _check_contents(path / MANIFEST, manifest)
        return cls(path=path, manifest=manifest)

    def model(self, name: str, precision: str = FLOAT32) -> Path:
        """The ONNX file of "encoder", "decoder" or "autoencoder"."""
        return self.path / model_file(name, precision)

    def novelty(self, precision: str = FLOAT32) -> Path | None:
        """The ONNX file of the novelty score; None where the bundle has none."""
        return self.path / novelty_file(precision) if precision in self.manifest.novelty else None

    def golden(self, precision: str = FLOAT32) -> dict[str, Array]:
        """Stored inputs and outputs: `images` → `latents`, `denoised`; `latents` → `decoded`.

        Images are float32 (N, H, W, C) in [0, 1]; latents float32 (N, latent_size).
        """
        path = self.path / golden_file(precision)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in GOLDEN_ARRAYS}
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as exc:
            raise _damaged(
                f"{path} does not read ({exc})", f"arrays {', '.join(GOLDEN_ARRAYS)}"
            ) from exc


def model_file(model: str, precision: str = FLOAT32) -> str:
    """File name of a model: encoder.onnx, encoder.int8.onnx."""
    return _file_of(f"{model}.onnx", precision)


def golden_file(precision: str = FLOAT32) -> str:
    """File name of the golden answers: golden.npz, golden.int8.npz."""
    return _file_of(GOLDEN, precision)


def novelty_file(precision: str = FLOAT32) -> str:
    """File name of the novelty model: novelty.onnx, novelty.int8.onnx."""
    return _file_of(NOVELTY, precision)


def _file_of(name: str, precision: str) -> str:
    return name if precision == FLOAT32 else name.replace(".", f".{precision}.")


def fingerprint_of(files: Mapping[str, FileFacts], precision: str = FLOAT32) -> str:
    """SHA-256 over names and hashes of the three models of a precision, in a fixed order."""
    digest = hashlib.sha256()
    for model in MODELS:
        digest.update(f"{model} {files[model_file(model, precision)].sha256}\n".encode())
    return digest.hexdigest()


def write_manifest(
    folder: Path, *, precisions: Mapping[str, Precision] | None = None, **facts: Any
) -> Manifest:
    """Hash every file in `folder` and write `manifest.json`, once all of them are there.

    Args:
        folder: the bundle's, without a manifest, or with one to be replaced.
        precisions: those besides float32. Their fingerprints, and float32's, are computed from the
            files; a precision with a `reason` is not in the bundle and has none.
        facts: the other fields of `Manifest`, without `fingerprint` and `files`.
    """
    files = {
        path.name: FileFacts.of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST
    }
    tried = {FLOAT32: Precision(), **(precisions or {})}
    manifest = Manifest(
        fingerprint=fingerprint_of(files),
        files=files,
        precisions={
            name: entry if entry.reason else replace(entry, fingerprint=fingerprint_of(files, name))
            for name, entry in tried.items()
        },
        **{"chunks": {}, **facts},
    )
    text = json.dumps(manifest.as_dict(), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise BundleMissingError(
            f"no folder {path}",
            expected="a bundle",
            hint="Set DENOISER_BUNDLE to one, or create one: python -m export RUN --out BUNDLE.",
        )
    file = path / MANIFEST
    if not file.is_file():
        raise BundleMissingError(f"{path} without {MANIFEST}", expected="a bundle", hint=REMAKE)
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise _damaged(f"{file} is not JSON ({exc})", "a manifest") from exc
    if not isinstance(fields, dict):
        raise _damaged(f"{file} with a {type(fields).__name__}", "a JSON object")
    return Manifest.from_dict(fields)


def _check_file(path: Path, name: str, facts: FileFacts) -> None:
    """Compare a file with its size and hash in the manifest."""
    if Path(name).name != name:
        raise _damaged(
            f"the file name {name!r} in {path / MANIFEST}", "names of files inside the bundle"
        )
    if not (path / name).is_file():
        raise BundleMissingError(
            f"{path} without {name}", expected="every file its manifest names", hint=REMAKE
        )
    actual = FileFacts.of(path / name)
    if actual != facts:
        raise _damaged(
            f"{path / name} has {actual.bytes} bytes and SHA-256 {actual.sha256[:12]}…",
            f"{facts.bytes} bytes and {facts.sha256[:12]}…",
        )


def _check_contents(file: Path, manifest: Manifest) -> None:
    """Check that the manifest names all files of its precisions, and their fingerprints."""
    required = {PARITY}
    for precision in manifest.available:
        required |= {golden_file(precision), *(model_file(m, precision) for m in MODELS)}
        required |= {novelty_file(precision)} if manifest.novelty else set()
    if missing := sorted(required - set(manifest.files)):
        raise _damaged(
            f"a manifest that does not name {', '.join(missing)}",
            "parity.json, and for each precision three models, golden answers and, "
            "with a novelty entry, a novelty model",
        )
    if manifest.novelty and set(manifest.novelty) != set(manifest.available):
        raise _damaged(
            f"scores for {', '.join(manifest.novelty)} in {file}",
            f"for {', '.join(manifest.available)}, or none",
        )
    for precision in manifest.available:
        stated = manifest.at(precision).fingerprint
        if (actual := fingerprint_of(manifest.files, precision)) != stated:
            raise _damaged(
                f"fingerprint {stated[:12]}… ({precision}) in {file}",
                f"{actual[:12]}…, that of its own models",
            )


def _damaged(received: str, expected: str) -> BundleDamagedError:
    return BundleDamagedError(received, expected=expected, hint=REMAKE)
