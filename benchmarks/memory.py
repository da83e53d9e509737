"""One call of the engine in a process of its own: its seconds and its peak memory.

    python -m benchmarks.memory BUNDLE MODEL IMAGES CALLS SEED

prints one line of JSON. Only in a fresh process does the peak belong to this call.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Measured:
    """Time and memory of calls with the same number of images.

    Attributes:
        images: rows in one call.
        seconds: of each timed call.
        extra: peak bytes of the process beyond those before the call and its output.
        inputs: bytes of the input array.
        outputs: bytes of the output array.
    """

    images: int
    seconds: tuple[float, ...]
    extra: int
    inputs: int
    outputs: int


def in_subprocess(bundle: Path, model: str, *, images: int, calls: int, seed: int) -> Measured:
    """Measure in a fresh process."""
    arguments = [str(bundle), model, str(images), str(calls), str(seed)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments],
        cwd=Path(__file__).resolve().parent.parent,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    facts = json.loads(done.stdout)
    return Measured(**{**facts, "seconds": tuple(facts["seconds"])})


def measure(bundle: Path, model: str, *, images: int, calls: int, seed: int) -> Measured:
    """Load the engine, warm it up on a few chunks, then call it with so many images."""
    from service.engine import Engine

    engine = Engine.load(bundle)
    names = {"encoder": "encode", "decoder": "decode", "autoencoder": "denoise"}
    call = getattr(engine, names[model])
    row = (engine.manifest.latent_size,) if model == "decoder" else engine.manifest.image_shape
    rows = np.random.default_rng(seed).random((images, *row), dtype=np.float32)
    call(np.resize(rows[:64], (512, *row)))

    with suppress(OSError):  # resets the peak; elsewhere the peak of loading counts too
        Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    seconds, output = [], np.empty(0, np.float32)
    for _ in range(calls):
        del output
        start = time.perf_counter()
        output = call(rows)
        seconds.append(time.perf_counter() - start)
    extra = max(0, _memory("VmHWM") - before - output.nbytes)
    return Measured(images, tuple(seconds), extra, rows.nbytes, output.nbytes)


def _memory(field: str) -> int:
    """Bytes held now (VmRSS) or at most (VmHWM); elsewhere than on Linux, the latter for both.

    Linux hands a parent's `ru_maxrss` down to its children, so that VmHWM is better there.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    _bundle, _model, *_numbers = sys.argv[1:]
    _images, _calls, _seed = map(int, _numbers)
    print(
        json.dumps(asdict(measure(Path(_bundle), _model, images=_images, calls=_calls, seed=_seed)))
    )
