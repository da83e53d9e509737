"""The run folder: its file names, its writer and its reader.

A run is put together in a hidden folder beside its target (`runs/.classic.partial`, see
common/publishing.py), so a folder with the final name is always whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.arrays import Floats
from common.publishing import stage_of
from training.errors import RunError
from training.reference import Reference, read_reference

CONFIG = "config.json"
METRICS = "metrics.json"  # written last: a folder that has it is complete
MARKS = (CONFIG, METRICS)  # a folder with both is a run
HISTORY = "history.csv"
SAMPLES = "samples.npz"
REFERENCE = "reference.npz"
FIGURES = "figures"
CHECKPOINTS = "checkpoints"
MODELS = ("encoder", "decoder", "autoencoder")
# All names in a run's folder: `--overwrite` replaces no folder that has others.
CONTENTS = (*MARKS, HISTORY, SAMPLES, REFERENCE, FIGURES, CHECKPOINTS, "*.keras", "*.html")


class Samples(NamedTuple):
    """Held-out pairs, float32 (N, H, W, C) in [0, 1]; `noisy` is the models' input."""

    clean: Floats
    noisy: Floats


class RunModels(NamedTuple):
    """The run's three Keras models, loaded."""

    encoder: Any
    decoder: Any
    autoencoder: Any


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Open a finished run; a folder that is missing, incomplete or damaged is a RunError."""
        path = Path(path)
        if not path.is_dir():
            unfinished = stage_of(path).is_dir()
            option = " --resume" * unfinished
            raise RunError(
                f"no run folder {path}" + " (there is an unfinished one)" * unfinished,
                expected="the folder of a finished run",
                hint=f"Train it with: python -m training fit --out {path}{option}.",
            )
        files = [CONFIG, METRICS, HISTORY, SAMPLES, *(f"{name}.keras" for name in MODELS)]
        missing = [name for name in files if not (path / name).is_file()]
        if missing:
            raise _damaged(path, f"without {', '.join(missing)}")
        return cls(path, read_json(path, CONFIG), read_json(path, METRICS))

    def models(self) -> RunModels:
        """Load encoder, decoder and autoencoder (imports Keras)."""
        import keras

        models = []
        for name in MODELS:
            try:
                models.append(keras.saving.load_model(self.path / f"{name}.keras", compile=False))
            except Exception as exc:  # Keras raises many kinds for a damaged file
                raise _damaged(self.path, f"with an unreadable {name}.keras") from exc
        return RunModels(*models)

    def samples(self) -> Samples:
        """The held-out pairs of `samples.npz`."""
        try:
            with (self.path / SAMPLES).open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                samples = Samples(arrays["clean"], arrays["noisy"])
        except Exception as exc:  # zip, zlib, header and key errors
            raise _damaged(self.path, f"with an unreadable {SAMPLES}") from exc
        shape = (len(samples.clean), *self.config["data"]["image_shape"])
        if any(array.shape != shape or array.dtype != np.float32 for array in samples):
            raise _damaged(self.path, f"whose {SAMPLES} is not float32 {shape}")
        return samples

    def reference(self) -> Reference | None:
        """The images of `reference.npz`; None if the run has no such file."""
        if not (self.path / REFERENCE).is_file():
            return None
        try:
            return read_reference(self.path / REFERENCE, tuple(self.config["data"]["image_shape"]))
        except Exception as exc:  # as with samples, and missing or unknown arrays
            raise _damaged(self.path, f"with an unreadable {REFERENCE}") from exc


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that is renamed to it when the block ends well."""
    temporary = target.with_name(f".{target.name}.new")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that the file is whole or not there."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with staged_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of a run folder; an unreadable one is a RunError."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, OSError) as exc:
        raise _damaged(folder, f"with an unreadable {name}") from exc
    if not isinstance(content, dict):
        raise _damaged(folder, f"with an unreadable {name}")
    return content


def _damaged(path: Path, how: str) -> RunError:
    return RunError(
        f"a run folder {path} {how}",
        expected="a whole run",
        hint=f"Train it again with: python -m training fit --out {path} --overwrite.",
    )
