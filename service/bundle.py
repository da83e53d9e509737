"""The bundle: what export writes and everything else reads.

    bundles/<name>/
        encoder.onnx  decoder.onnx  autoencoder.onnx    float32, dynamic batch
        parity.json                                     how they were compared with Keras
        golden.npz                                      inputs and answers, replayed at load
        manifest.json                                   written last: hashes, identity, facts

Writer and reader stand side by side so that they cannot drift apart.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import BundleDamagedError, BundleMissingError, BundleSchemaError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
PARITY = "parity.json"
MODELS = ("encoder", "decoder", "autoencoder")
GOLDEN_ARRAYS = ("images", "latents", "decoded", "denoised")

_REMAKE = "Export the run again (python -m export RUN --out BUNDLE) or restore the bundle."


@dataclass(frozen=True)
class FileFacts:
    """One file of a bundle: its SHA-256 as 64 hex digits, and its size in bytes."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        data = path.read_bytes()
        return cls(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself; `manifest.json` is this, field by field.

    Attributes:
        fingerprint: 64 hex digits, the identity of the latents: one hash over the float32 models.
        image_shape: (H, W, C) of one image.
        latent_size: numbers in one latent.
        files: name → hash and size, for every file but the manifest.
        training: settings, data and noise of the run, as its `config.json` has them.
        quality: figures on the test split, as the run's `metrics.json` has them.
        parity: the largest differences found at export, and their limits.
        chunks: model → images that the engine computes at once; a rule on its cost chose it.
        tools: versions of what made it.
        created: ISO 8601, UTC.
    """

    name: str
    fingerprint: str
    image_shape: tuple[int, int, int]
    latent_size: int
    files: dict[str, FileFacts]
    training: dict[str, Any]
    quality: dict[str, Any]
    parity: dict[str, Any]
    chunks: dict[str, int]
    tools: dict[str, str]
    created: str
    schema_version: int = field(default=SCHEMA_VERSION)

    def as_dict(self) -> dict[str, Any]:
        """The manifest as plain JSON types."""
        plain = asdict(self)
        plain["image_shape"] = list(self.image_shape)
        return {"schema_version": plain.pop("schema_version"), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Manifest:
        """Read what `as_dict` wrote.

        Raises:
            BundleSchemaError: the schema is newer than this version of the project.
            BundleDamagedError: a field is missing or of the wrong kind.
        """
        version = plain.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise BundleSchemaError(
                f"a bundle of schema {version}",
                expected=f"schema {SCHEMA_VERSION} or older",
                todo="Upgrade this project, or export the model again with this version.",
            )
        try:
            known = {name: plain[name] for name in cls.__dataclass_fields__}
            height, width, channels = (int(side) for side in known["image_shape"])
            known["image_shape"] = (height, width, channels)
            known["files"] = {name: FileFacts(**facts) for name, facts in known["files"].items()}
            manifest = cls(**known)
            _check_kinds(manifest)
            return manifest
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise BundleDamagedError(
                f"a manifest that does not read ({type(exc).__name__}: {exc})",
                expected=f"every field of schema {SCHEMA_VERSION}",
                todo=_REMAKE,
            ) from exc


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
                    todo=_REMAKE,
                )
            if not (path / name).is_file():
                raise BundleMissingError(
                    f"{path} without {name}", expected="every file its manifest names", todo=_REMAKE
                )
            found = FileFacts.of(path / name)
            if found != facts:
                raise BundleDamagedError(
                    f"{path / name} has {found.bytes} bytes and SHA-256 {found.sha256[:12]}…",
                    expected=f"{facts.bytes} bytes and {facts.sha256[:12]}…",
                    todo=_REMAKE,
                )
        wanted = {f"{model}.onnx" for model in MODELS} | {GOLDEN, PARITY}
        if absent := sorted(wanted - set(manifest.files)):
            raise BundleDamagedError(
                f"a manifest that does not name {', '.join(absent)}",
                expected="the three models, golden.npz and parity.json",
                todo=_REMAKE,
            )
        if (found_print := fingerprint_of(manifest.files)) != manifest.fingerprint:
            raise BundleDamagedError(
                f"fingerprint {manifest.fingerprint[:12]}… in {path / MANIFEST}",
                expected=f"{found_print[:12]}…, that of its own models",
                todo=_REMAKE,
            )
        return cls(path=path, manifest=manifest)

    def model(self, name: str) -> Path:
        """The ONNX file of "encoder", "decoder" or "autoencoder"."""
        return self.path / f"{name}.onnx"

    def golden(self) -> dict[str, np.ndarray]:
        """Stored inputs and answers: `images` → `latents`, `denoised`; `latents` → `decoded`.

        Images and answers are float32 (N, H, W, C) in [0, 1]; latents float32 (N, latent_size).
        """
        try:
            with (
                (self.path / GOLDEN).open("rb") as file,
                np.load(file, allow_pickle=False) as stored,
            ):
                return {name: stored[name] for name in GOLDEN_ARRAYS}
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as exc:
            raise BundleDamagedError(
                f"{self.path / GOLDEN} does not read ({exc})",
                expected=f"arrays {', '.join(GOLDEN_ARRAYS)}",
                todo=_REMAKE,
            ) from exc


def _check_kinds(manifest: Manifest) -> None:
    """Raise TypeError for a field of the wrong kind, also inside `files`."""
    kinds: dict[str, type] = dict.fromkeys(("name", "fingerprint", "created"), str)
    kinds |= dict.fromkeys(("latent_size", "schema_version"), int)
    kinds |= dict.fromkeys(("training", "quality", "parity", "chunks", "tools"), dict)
    values = [(name, getattr(manifest, name), kind) for name, kind in kinds.items()]
    values += [(f"chunks of {name}", size, int) for name, size in manifest.chunks.items()]
    if any(size < 1 for size in manifest.chunks.values() if isinstance(size, int)):
        raise ValueError("chunks below 1")
    for name, facts in manifest.files.items():
        values += [(f"{name} sha256", facts.sha256, str), (f"{name} bytes", facts.bytes, int)]
    for name, value, kind in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name} is a {type(value).__name__}, not a {kind.__name__}")


def fingerprint_of(files: Mapping[str, FileFacts]) -> str:
    """One SHA-256 over names and hashes of the three float32 models, in a fixed order."""
    digest = hashlib.sha256()
    for model in MODELS:
        digest.update(f"{model} {files[f'{model}.onnx'].sha256}\n".encode())
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
) -> Manifest:
    """Seal `folder`: hash every file in it and write `manifest.json` beside them."""
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
    )
    text = json.dumps(manifest.as_dict(), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise BundleMissingError(
            f"no folder {path}",
            expected="a bundle",
            todo="Set DENOISER_BUNDLE to one, or make one: python -m export RUN --out BUNDLE.",
        )
    if not (path / MANIFEST).is_file():
        raise BundleMissingError(
            f"{path} without {MANIFEST}", expected="a bundle that export has sealed", todo=_REMAKE
        )
    try:
        plain = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as exc:
        raise BundleDamagedError(
            f"{path / MANIFEST} is not JSON ({exc})", expected="a manifest", todo=_REMAKE
        ) from exc
    if not isinstance(plain, dict):
        raise BundleDamagedError(
            f"{path / MANIFEST} holds a {type(plain).__name__}",
            expected="a JSON object",
            todo=_REMAKE,
        )
    return Manifest.from_dict(plain)
