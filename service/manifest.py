"""The manifest: the description of a bundle, as a dataclass and as JSON.

`service/bundle.py` writes and reads the file, and those that it names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_origin, get_type_hints

from common.errors import BundleDamagedError, BundleMissingError, BundleSchemaError

SCHEMA_VERSION = 1
FLOAT32: Final = "float32"
INT8: Final = "int8"
PrecisionName = Literal["float32", "int8"]
PRECISIONS: tuple[PrecisionName, ...] = (FLOAT32, INT8)

REMAKE = "Export the run again (python -m export RUN --out BUNDLE) or restore the bundle."


@dataclass(frozen=True)
class FileFacts:
    """One file of a bundle: its SHA-256 as 64 hex digits, and its size in bytes."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """The facts of the file at `path`."""
        data = path.read_bytes()
        return cls(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


@dataclass(frozen=True)
class Precision:
    """One precision of the three models.

    Attributes:
        fingerprint: 64 hex digits over these three models, the identity of their latents; "" if
            the bundle does not have them.
        reason: why the bundle does not have them; "" if it does.
        figures: what the reduced precision costs on held-out images, and the limits.
    """

    fingerprint: str = ""
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The description of a bundle; `manifest.json` has the same fields.

    Attributes:
        fingerprint: 64 hex digits, the identity of the latents: one hash over the float32 models.
            In `Engine.manifest` it is that of the engine's precision.
        image_shape: (H, W, C) of one image.
        latent_size: numbers in one latent.
        files: name → hash and size, for every file but the manifest and the card (README.md).
        training: settings, data and noise of the run, as its `config.json` has them.
        quality: figures on the test split, as the run's `metrics.json` has them.
        parity: the largest differences from Keras at export, and their limits.
        chunks: model → images that the engine computes at once, chosen by the model's cost.
        tools: versions of the packages that wrote it.
        created: ISO 8601, UTC.
        precisions: name → its fingerprint and cost. Empty: float32 alone.
        novelty: precision → method, threshold and its meaning, detection rates. One entry per
            precision that the bundle has. Empty: the bundle has no novelty scores.
        schema_version: of the manifest and the files that it names.
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
        """The precisions that the bundle has models in: float32, and int8 if it passed its gate."""
        facts = self.precisions
        return [n for n in PRECISIONS if n == FLOAT32 or (n in facts and facts[n].fingerprint)]

    def row_shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of one row of "images", "denoised", "latents" or "scores" (one number: ())."""
        if tensor == "scores":
            return ()
        return (self.latent_size,) if tensor == "latents" else self.image_shape

    def at(self, precision: str) -> Manifest:
        """The manifest of an engine of this precision, with its fingerprint and novelty entry.

        Raises:
            BundleMissingError: the bundle has no such models.
        """
        if precision == FLOAT32:
            return self
        facts = self.precisions.get(precision, Precision())
        if precision not in self.available:
            reason = f": {facts.reason}" if facts.reason else ""
            raise BundleMissingError(
                f"precision {precision}, which the bundle {self.name} does not have{reason}",
                expected=f"one of {', '.join(self.available)}",
                hint="Set DENOISER_PRECISION to it, or choose another bundle.",
            )
        novelty: dict[str, dict[str, Any]] = {
            name: entry for name, entry in self.novelty.items() if name == precision
        }
        return replace(self, fingerprint=facts.fingerprint, novelty=novelty)

    def as_dict(self) -> dict[str, Any]:
        """The manifest as plain JSON types."""
        fields = asdict(self) | {"image_shape": list(self.image_shape)}
        return {"schema_version": fields.pop("schema_version"), **fields}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Manifest:
        """The inverse of `as_dict`; unknown fields are ignored.

        Raises:
            BundleSchemaError: the schema is newer than this version of the project.
            BundleDamagedError: a field is missing or of the wrong kind.
        """
        version = fields.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise BundleSchemaError(
                f"a bundle of schema {version}",
                expected=f"schema {SCHEMA_VERSION} or older",
                hint="Upgrade this project, or export the model again with this version.",
            )
        try:
            known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
            known["schema_version"] = fields["schema_version"]
            height, width, channels = (int(side) for side in fields["image_shape"])
            known["image_shape"] = (height, width, channels)
            known["files"] = {name: FileFacts(**facts) for name, facts in fields["files"].items()}
            precisions = known.get("precisions", {})
            known["precisions"] = {name: Precision(**facts) for name, facts in precisions.items()}
            manifest = cls(**known)
            _check_types(manifest)
            return manifest
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise BundleDamagedError(
                f"a manifest with missing or invalid fields ({type(exc).__name__}: {exc})",
                expected=f"every field of schema {SCHEMA_VERSION}",
                hint=REMAKE,
            ) from exc


def _check_types(manifest: Manifest) -> None:
    """Raise TypeError or ValueError for a field of the wrong type, also inside its entries."""
    for entry in (manifest, *manifest.files.values(), *manifest.precisions.values()):
        for name, hint in get_type_hints(type(entry)).items():
            value, expected = getattr(entry, name), get_origin(hint) or hint
            if not isinstance(value, expected) or isinstance(value, bool):
                raise TypeError(f"{name} is a {type(value).__name__}, not a {expected.__name__}")
    if not all(isinstance(entry, dict) for entry in manifest.novelty.values()):
        raise TypeError("novelty of entries that are not objects")
    if not all(type(size) is int and size > 0 for size in manifest.chunks.values()):
        raise ValueError("chunks that are not positive integers")
