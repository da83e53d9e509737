"""The metadata of a bulk output, written and read here.

In Parquet it is the schema's metadata, `denoiser.<field>`; beside an .npy file it is
`<output>.json`, in a folder of PNG files `denoiser.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import FingerprintError, MalformedError
from service import __version__
from service.bulk.options import BulkOptions, Kind
from service.bundle import FLOAT32, Manifest

PREFIX = "denoiser."
FOLDER_FILE = "denoiser.json"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Which model made the rows of a file, and from which inputs."""

    kind: Kind
    fingerprint: str  # 64 hex digits; latents with different fingerprints must not be mixed
    model: str  # the manifest's name
    precision: str  # "float32" or "int8"
    # image_shape [H, W, C]; range of the model's input; fit and invert, of image files.
    preprocessing: dict[str, Any]
    version: str  # of this project

    @classmethod
    def of(cls, model: Manifest, options: BulkOptions) -> Provenance:
        """The metadata of a job's output; `model` is the manifest of the engine."""
        same = [n for n, p in model.precisions.items() if p.fingerprint == model.fingerprint]
        return cls(
            kind=options.writes,
            fingerprint=model.fingerprint,
            model=model.name,
            precision=same[0] if same else FLOAT32,
            preprocessing={
                "image_shape": list(model.image_shape),
                "range": [0, 1],
                "fit": options.fit,
                "invert": options.invert,
            },
            version=__version__,
        )

    def as_metadata(self) -> dict[bytes, bytes]:
        """As the metadata of an Arrow schema; values that are not text become JSON."""
        fields = {**asdict(self), "preprocessing": json.dumps(self.preprocessing)}
        return {f"{PREFIX}{name}".encode(): value.encode() for name, value in fields.items()}

    def write(self, path: Path) -> None:
        """As a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None) -> Provenance | None:
        """Read what `as_metadata` wrote; None for files of other programs."""
        fields = {
            key.decode().removeprefix(PREFIX): value.decode()
            for key, value in (metadata or {}).items()
            if key.startswith(PREFIX.encode())
        }
        return _checked(fields) if "fingerprint" in fields else None

    @classmethod
    def read(cls, path: Path) -> Provenance | None:
        """Read what `write` wrote; None if there is no such file."""
        return _checked(path.read_text(encoding="utf-8")) if path.is_file() else None

    @classmethod
    def common(
        cls, metadata: Mapping[str, Mapping[bytes, bytes] | None], *, check: bool = True
    ) -> Provenance | None:
        """The first of several files, by name; `check` that all are of one model."""
        known = {name: own for name, one in metadata.items() if (own := cls.from_metadata(one))}
        first = next(iter(known), "")
        for name, own in known.items():
            if check:
                own.check_same(known[first], mine=name, others=first)
        return known.get(first)

    def check_same(self, other: Provenance | Manifest, *, mine: str, others: str) -> None:
        """Raise a `FingerprintError` if the models differ; `mine` and `others` name the files."""
        if self.fingerprint != other.fingerprint:
            raise FingerprintError(
                f"{mine} with fingerprint {self.fingerprint}",
                expected=f"{other.fingerprint}, that of {others}",
                hint="Use the bundle and the precision that made them, or encode the images again.",
            )


def sidecar(output: Path) -> Path:
    """Where the metadata of an .npy file is."""
    return output.with_name(output.name + ".json")


def _checked(fields: Any) -> Provenance:
    """From the fields as they were stored, or their JSON."""
    names = Provenance.__dataclass_fields__
    try:
        fields = json.loads(fields) if isinstance(fields, str) else fields
        values = {name: fields[name] for name in names}
        if isinstance(values["preprocessing"], str):
            values["preprocessing"] = json.loads(values["preprocessing"])
        types = {name: dict if name == "preprocessing" else str for name in names}
        if not all(isinstance(values[name], types[name]) for name in names):
            raise TypeError
    except (KeyError, TypeError, ValueError) as exc:
        raise MalformedError(
            f"metadata {str(fields)[:60]}",
            expected=f"the fields {', '.join(names)}",
            hint="Make the file again, or remove its metadata to have it read as any other.",
        ) from exc
    return Provenance(**values)
