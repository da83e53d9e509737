"""The bundle: what export writes and everything else reads.

    bundles/<name>/
        encoder.onnx  decoder.onnx  autoencoder.onnx    float32, dynamic batch
        parity.json                                     how they were compared with Keras
        golden.npz                                      inputs and answers, replayed at load
        *.int8.onnx  golden.int8.npz                    the same in int8, where it passes its gate
        manifest.json                                   written last: hashes, identity, facts

Writer and reader stand side by side so that they cannot drift apart.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from service.errors import BundleDamagedError, BundleMissingError, BundleSchemaError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
PARITY = "parity.json"
MODELS = ("encoder", "decoder", "autoencoder")
GOLDEN_ARRAYS = ("images", "latents", "decoded", "denoised")
FLOAT32: Final = "float32"
INT8: Final = "int8"
PrecisionName = Literal["float32", "int8"]
PRECISIONS: tuple[PrecisionName, ...] = (FLOAT32, INT8)

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
class Precision:
    """One precision that the three models exist in, or were tried in.

    Attributes:
        fingerprint: 64 hex digits over its own three models, the identity of the latents that they
            make; "" where the bundle does not have them.
        reason: why the bundle does not have them; "" where it does.
        figures: what the reduced precision costs on held-out images, and the limits.
    """

    fingerprint: str = ""
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself; `manifest.json` is this, field by field.

    Attributes:
        fingerprint: 64 hex digits, the identity of the latents: one hash over the float32 models.
            In `Engine.manifest` it is that of the precision which answers.
        image_shape: (H, W, C) of one image.
        latent_size: numbers in one latent.
        files: name → hash and size, for every file but the manifest.
        training: settings, data and noise of the run, as its `config.json` has them.
        quality: figures on the test split, as the run's `metrics.json` has them.
        parity: the largest differences found at export, and their limits.
        chunks: model → images that the engine computes at once; a rule on its cost chose it.
        tools: versions of what made it.
        created: ISO 8601, UTC.
        precisions: name → what is known of it; bundles from before int8 have none.
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
    precisions: dict[str, Precision] = field(default_factory=dict)
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def available(self) -> list[PrecisionName]:
        """The precisions that the bundle has models in: float32, and what passed its gate."""
        tried = self.precisions
        return [n for n in PRECISIONS if n == FLOAT32 or (n in tried and tried[n].fingerprint)]

    def at(self, precision: str) -> Manifest:
        """The manifest as an engine of this precision shows it: with the fingerprint of its own.

        Raises:
            BundleMissingError: the bundle has no such models; names those that it has.
        """
        if precision == FLOAT32:
            return self
        found = self.precisions.get(precision, Precision())
        if precision not in self.available:
            why = f": {found.reason}" if found.reason else ""
            raise BundleMissingError(
                f"precision {precision}, which the bundle {self.name} does not have{why}",
                expected=f"one of {', '.join(self.available)}",
                todo="Choose that (DENOISER_PRECISION), or another bundle.",
            )
        return replace(self, fingerprint=found.fingerprint)

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
            known = {name: plain[name] for name in cls.__dataclass_fields__ if name != "precisions"}
            tried = plain.get("precisions", {})
            known["precisions"] = {name: Precision(**facts) for name, facts in tried.items()}
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
        wanted = {PARITY}
        for precision in manifest.available:
            wanted |= {golden_file(precision), *(model_file(m, precision) for m in MODELS)}
        if absent := sorted(wanted - set(manifest.files)):
            raise BundleDamagedError(
                f"a manifest that does not name {', '.join(absent)}",
                expected="three models and golden answers in each precision, and parity.json",
                todo=_REMAKE,
            )
        for precision in manifest.available:
            stated = manifest.at(precision).fingerprint
            if (found_print := fingerprint_of(manifest.files, precision)) != stated:
                raise BundleDamagedError(
                    f"fingerprint {stated[:12]}… ({precision}) in {path / MANIFEST}",
                    expected=f"{found_print[:12]}…, that of its own models",
                    todo=_REMAKE,
                )
        return cls(path=path, manifest=manifest)

    def model(self, name: str, precision: str = FLOAT32) -> Path:
        """The ONNX file of "encoder", "decoder" or "autoencoder"."""
        return self.path / model_file(name, precision)

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
                todo=_REMAKE,
            ) from exc


def _check_kinds(manifest: Manifest) -> None:
    """Raise TypeError for a field of the wrong kind, also inside `files`."""
    kinds: dict[str, type] = dict.fromkeys(("name", "fingerprint", "created"), str)
    kinds |= dict.fromkeys(("latent_size", "schema_version"), int)
    dicts = ("training", "quality", "parity", "chunks", "tools", "precisions")
    kinds |= dict.fromkeys(dicts, dict)
    values = [(name, getattr(manifest, name), kind) for name, kind in kinds.items()]
    values += [(f"chunks of {name}", size, int) for name, size in manifest.chunks.items()]
    if any(size < 1 for size in manifest.chunks.values() if isinstance(size, int)):
        raise ValueError("chunks below 1")
    for name, facts in manifest.files.items():
        values += [(f"{name} sha256", facts.sha256, str), (f"{name} bytes", facts.bytes, int)]
    for name, tried in manifest.precisions.items():
        values += [
            (f"{name} {key}", value, str)
            for key, value in (("fingerprint", tried.fingerprint), ("reason", tried.reason))
        ]
        values += [(f"{name} figures", tried.figures, dict)]
    for name, value, kind in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name} is a {type(value).__name__}, not a {kind.__name__}")


def model_file(model: str, precision: str = FLOAT32) -> str:
    """encoder.onnx, encoder.int8.onnx"""
    return f"{model}.onnx" if precision == FLOAT32 else f"{model}.{precision}.onnx"


def golden_file(precision: str = FLOAT32) -> str:
    """golden.npz, golden.int8.npz"""
    return GOLDEN if precision == FLOAT32 else GOLDEN.replace(".", f".{precision}.")


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
