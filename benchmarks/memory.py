"""One call of the engine in a process of its own: how long, and how much memory at its peak.

    python -m benchmarks.memory BUNDLE MODEL IMAGES CALLS SEED

prints one line of JSON. A fresh process is the only one whose peak belongs to this call.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common.arrays import Array


@dataclass(frozen=True)
class Measured:
    """Time and memory of calls with the same number of images.

    Attributes:
        images: rows in one call.
        seconds: of each timed call.
        extra: peak bytes of the process beyond what it held before the call and the answer.
        inputs, answer: bytes of the arrays themselves.
    """

    images: int
    seconds: tuple[float, ...]
    extra: int
    inputs: int
    answer: int


def in_subprocess(bundle: Path, model: str, *, images: int, calls: int, seed: int) -> Measured:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory"]
    arguments = [str(bundle), model, str(images), str(calls), str(seed)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [*command, *arguments], cwd=root, check=True, stdout=subprocess.PIPE, text=True
    )
    plain = json.loads(done.stdout)
    return Measured(**{**plain, "seconds": tuple(plain["seconds"])})


def measure(bundle: Path, model: str, *, images: int, calls: int, seed: int) -> Measured:
    """Load the engine, warm it on a few chunks, then call it with so many images."""
    from service.engine import Engine

    engine = Engine.load(bundle)
    functions: dict[str, Callable[[Array], Array]] = {
        "encoder": engine.encode,
        "decoder": engine.decode,
        "autoencoder": engine.denoise,
    }
    call = functions[model]
    row = (engine.manifest.latent_size,) if model == "decoder" else engine.manifest.image_shape
    rows = np.random.default_rng(seed).random((images, *row), dtype=np.float32)
    few = np.resize(rows[:64], (512, *row))
    call(few)

    before = _held()
    seconds, answer = [], np.empty(0, np.float32)
    for _ in range(calls):
        del answer
        begin = time.perf_counter()
        answer = call(rows)
        seconds.append(time.perf_counter() - begin)
    extra = max(0, _peak() - before - answer.nbytes)
    return Measured(images, tuple(seconds), extra, rows.nbytes, answer.nbytes)


def _held() -> int:
    """Bytes that the process holds now; from here on the peak is counted anew where it can be."""
    # The system's word for "forget the peak"; without it the peak of loading would stand.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS") or _max_rss()


def _peak() -> int:
    """Most bytes that the process has held.

    Linux hands a parent's `ru_maxrss` down to its children, so its own VmHWM is better there.
    """
    return _status("VmHWM") or _max_rss()


def _max_rss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)


if __name__ == "__main__":
    _bundle, _model, *_numbers = sys.argv[1:]
    _images, _calls, _seed = map(int, _numbers)
    print(
        json.dumps(asdict(measure(Path(_bundle), _model, images=_images, calls=_calls, seed=_seed)))
    )
