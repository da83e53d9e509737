"""The manifest: what a bundle says about itself, as a dataclass and as JSON.

`service/bundle.py` writes and reads the file and the others that it names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from common.errors import BundleDamagedError, BundleMissingError, BundleSchemaError

SCHEMA_VERSION = 1
FLOAT32: Final = "float32"
INT8: Final = "int8"
PrecisionName = Literal["float32", "int8"]
PRECISIONS: tuple[PrecisionName, ...] = (FLOAT32, INT8)

REMAKE = "Export the run again (python -m export RUN --out BUNDLE) or restore the bundle."
# Fields that came after the first bundles of this schema, and what those count as.
_LATER: dict[str, Any] = {"precisions": {}, "novelty": {}}


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
        files: name → hash and size, for every file but the manifest and the card (README.md).
        training: settings, data and noise of the run, as its `config.json` has them.
        quality: figures on the test split, as the run's `metrics.json` has them.
        parity: the largest differences found at export, and their limits.
        chunks: model → images that the engine computes at once; a rule on its cost chose it.
        tools: versions of what made it.
        created: ISO 8601, UTC.
        precisions: name → what is known of it; bundles from before int8 have none.
        novelty: precision → how its scores were made: the method, a threshold and what it means,
            figures on probes. For every precision that the bundle has, or empty: it has no scores.
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
    novelty: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def available(self) -> list[PrecisionName]:
        """The precisions that the bundle has models in: float32, and what passed its gate."""
        tried = self.precisions
        return [n for n in PRECISIONS if n == FLOAT32 or (n in tried and tried[n].fingerprint)]

    def row_shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of one row of "images", "denoised", "latents" or "scores" (one number: ())."""
        if tensor == "scores":
            return ()
        return (self.latent_size,) if tensor == "latents" else self.image_shape

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
                hint="Choose that (DENOISER_PRECISION), or another bundle.",
            )
        own: dict[str, dict[str, Any]] = {
            name: facts for name, facts in self.novelty.items() if name == precision
        }
        return replace(self, fingerprint=found.fingerprint, novelty=own)

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
                hint="Upgrade this project, or export the model again with this version.",
            )
        try:
            later = {name: plain.get(name, default) for name, default in _LATER.items()}
            known = {n: plain[n] for n in cls.__dataclass_fields__ if n not in later} | later
            tried = known["precisions"]
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
                hint=REMAKE,
            ) from exc


def _check_kinds(manifest: Manifest) -> None:
    """Raise TypeError for a field of the wrong kind, also inside `files`."""
    kinds: dict[str, type] = dict.fromkeys(("name", "fingerprint", "created"), str)
    kinds |= dict.fromkeys(("latent_size", "schema_version"), int)
    dicts = ("training", "quality", "parity", "chunks", "tools", "precisions", "novelty")
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
    values += [(f"novelty of {name}", facts, dict) for name, facts in manifest.novelty.items()]
    for name, value, kind in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name} is a {type(value).__name__}, not a {kind.__name__}")
