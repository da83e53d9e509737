"""The run folder: its file names, its writer and its reader.

A run is put together in a hidden folder beside its target (`runs/.classic.partial`) and renamed
last, so that a folder with the final name is always whole. `export` reads runs through `Run`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    """Held-out pairs, float32 (N, H, W, C) in [0, 1]; `noisy` is what the model is given."""

    clean: NDArray[np.float32]
    noisy: NDArray[np.float32]


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
            partial = stage_of(path)
            raise RunError(
                f"no run folder {path}" + (" (an unfinished one is there)" * partial.is_dir()),
                expected="the folder of a finished run",
                hint=f"Train it with: python -m training fit --out {path}"
                + (" --resume" * partial.is_dir())
                + ".",
            )
        files = [CONFIG, METRICS, HISTORY, SAMPLES, *(f"{name}.keras" for name in MODELS)]
        missing = [name for name in files if not (path / name).is_file()]
        if missing:
            raise _damaged(path, f"without {', '.join(missing)}")
        return cls(path, read_json(path, CONFIG), read_json(path, METRICS))

    def models(self) -> RunModels:
        """Load encoder, decoder and autoencoder (imports Keras)."""
        import keras

        loaded = []
        for name in MODELS:
            try:
                loaded.append(keras.saving.load_model(self.path / f"{name}.keras", compile=False))
            except Exception as exc:  # Keras raises many kinds for a damaged file
                raise _damaged(self.path, f"with an unreadable {name}.keras") from exc
        return RunModels(*loaded)

    def samples(self) -> Samples:
        """The held-out pairs of `samples.npz`."""
        try:
            with (self.path / SAMPLES).open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                samples = Samples(arrays["clean"], arrays["noisy"])
        except Exception as exc:  # zip, zlib, header and key errors all mean the same here
            raise _damaged(self.path, f"with an unreadable {SAMPLES}") from exc
        shape = (len(samples.clean), *self.config["data"]["image_shape"])
        if any(array.shape != shape or array.dtype != np.float32 for array in samples):
            raise _damaged(self.path, f"whose {SAMPLES} is not float32 {shape}")
        return samples

    def reference(self) -> Reference | None:
        """The images of `reference.npz`; None for a run from before there was one."""
        if not (self.path / REFERENCE).is_file():
            return None
        try:
            return read_reference(self.path / REFERENCE, tuple(self.config["data"]["image_shape"]))
        except Exception as exc:  # as with samples, and arrays that are missing or too many
            raise _damaged(self.path, f"with an unreadable {REFERENCE}") from exc


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON under a temporary name and rename it: the file is whole or not there."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of a run folder; what cannot be read is a RunError."""
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
