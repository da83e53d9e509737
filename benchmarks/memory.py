"""One call of the engine in a process of its own: its seconds and its peak memory.

    python -m benchmarks.memory BUNDLE MODEL IMAGES CALLS SEED

prints one line of JSON. Only in a fresh process does the peak belong to this call.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np


def in_subprocess(bundle: Path, model: str, *, images: int, calls: int, seed: int) -> Any:
    """What `measure` returns, measured in a fresh process."""
    arguments = [str(bundle), model, str(images), str(calls), str(seed)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments],
        cwd=Path(__file__).resolve().parent.parent,
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def measure(bundle: Path, model: str, images: int, calls: int, seed: int) -> dict[str, Any]:
    """Load the engine, warm it up on a few chunks, then call it with so many images.

    Returns:
        `seconds` of each call; bytes of its input and output; `extra_bytes`, the peak of the
        process beyond those before the call and its output.
    """
    from service.engine import Engine

    engine = Engine.load(bundle)
    names = {"encoder": "encode", "decoder": "decode", "autoencoder": "denoise"}
    call = getattr(engine, names[model])
    row = (engine.manifest.latent_size,) if model == "decoder" else engine.manifest.image_shape
    rows = np.random.default_rng(seed).random((images, *row), dtype=np.float32)
    call(np.resize(rows[:64], (512, *row)))

    with suppress(OSError):  # resets the peak
        Path("/proc/self/clear_refs").write_text("5")
    before = memory_of("self", "VmRSS")
    seconds, output = [], np.empty(0, np.float32)
    for _ in range(calls):
        del output
        start = time.perf_counter()
        output = call(rows)
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds,
        "extra_bytes": max(0, memory_of("self", "VmHWM") - before - output.nbytes),
        "input_bytes": rows.nbytes,
        "output_bytes": output.nbytes,
    }


def memory_of(process: int | str, field: str) -> int:
    """Resident bytes of a process now (VmRSS) or at most (VmHWM), 0 once it has ended; Linux only.

    `ru_maxrss` would not do: Linux hands a parent's down to its children.
    """
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    _bundle, _model, *_numbers = sys.argv[1:]
    print(json.dumps(measure(Path(_bundle), _model, *map(int, _numbers))))
