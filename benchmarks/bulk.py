"""Section `bulk`: jobs without a server, beside their upper bounds.

An array of a million images beside `Engine.encode` on the same rows; a folder of PNG files beside
decoding them; the command's peak memory beside an idle interpreter's; and, where Ray is installed,
two of its actors beside two threads.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image

from benchmarks import machine, report
from benchmarks.harness import Timing, interleave
from benchmarks.memory import memory_of
from benchmarks.models import Models
from benchmarks.servers import ROOT
from benchmarks.settings import Settings
from common.cores import usable_cores
from service.bulk import job, pipeline
from service.bulk.job import Runner
from service.bulk.models import open_model
from service.bulk.options import BulkOptions
from service.bulk.ray import engine as ray_engine
from service.bulk.sources.opening import open_source
from service.bulk.work import Work
from service.codecs import png

ROUNDS = 5
BLOCK = 10_000  # different images in the array
FILES_PER_FOLDER = 1_000
CHUNK = 32  # files
ACTORS = 2
TITLES = {
    "engine": "Engine.encode",
    "bulk": "python -m service encode, Parquet written",
    "pillow": "Pillow alone, a thread per core",
    "pillow_processes": "Pillow alone, a process per core",
    "reader": "the job's reader alone",
    "local": f"local, {ACTORS} threads",
    "ray": f"Ray, {ACTORS} actors",
}


@dataclass(frozen=True)
class Sizes:
    """Images in the array and in the folder."""

    array: int = 1_000_000
    files: int = 70_000


def run(settings: Settings, models: Models) -> dict[str, Any]:
    """Array, memory, folder, Ray; write JSON."""
    sizes = Sizes(2_000, 300) if settings.quick else Sizes()
    with TemporaryDirectory(prefix="denoiser-bulk-") as folder:
        base = Path(folder)
        result = {
            "machine": machine.facts(),
            "weights": models.weights,
            "array": _array(settings, models, base, sizes.array),
            "folder": _folder(settings, models, base, sizes.files),
        }
        # Not in a quick run, which takes seconds: Ray alone takes that long to start, ten times.
        if not settings.quick and importlib.util.find_spec("ray") is not None:
            result["ray"] = _ray(settings, models, base, sizes.array)
    report.write_json(settings.results / "bulk.json", result)
    return result


def _array(settings: Settings, models: Models, base: Path, images: int) -> dict[str, Any]:
    """`encode` on an .npy file, loading the engine and writing Parquet included."""
    path = base / "images.npy"
    shape = models.engine.manifest.image_shape
    mapped = open_memmap(path, "w+", np.uint8, (images, *shape))
    rng = np.random.default_rng(settings.seed)
    block = rng.integers(0, 256, (min(images, BLOCK), *shape), dtype=np.uint8)
    for first in range(0, images, len(block)):
        mapped[first : first + len(block)] = block[: images - first]
    mapped.flush()
    options = _options(models, path, base / "latents.parquet")
    timings = _timed(
        settings,
        {"engine": lambda: models.engine.encode(mapped), "bulk": lambda: job.run(options)},
    )
    idle = _peak([sys.executable, "-c", "import time; time.sleep(0.5)"])
    arguments = [str(path), "--out", str(base / "again.parquet"), "--bundle", str(models.bundle)]
    peak = _peak([sys.executable, "-m", "service", "encode", *arguments])
    facts = _facts(f"encode, {images:,} images in .npy", timings, images)
    print(f"peak memory: {report.size(peak - idle)} above an idle interpreter\n")
    return {**facts, "peak_bytes": peak, "bare_bytes": idle}


def _folder(settings: Settings, models: Models, base: Path, images: int) -> dict[str, Any]:
    """`encode` on a folder of PNG files, beside Pillow and beside our own reader alone."""
    root = base / "pictures"
    paths = _pictures(settings, models, root, images)
    options = _options(models, root, base / "pictures.parquet")
    facts = open_model(options).facts

    def read() -> None:
        source = open_source(options, facts, scratch=base)
        for unit in range(source.units):
            source.read(unit)
        source.close()

    chunks = [paths[at : at + CHUNK] for at in range(0, len(paths), CHUNK)]
    processes = get_context("forkserver")
    with (
        ThreadPoolExecutor(usable_cores()) as threads,
        ProcessPoolExecutor(usable_cores(), mp_context=processes) as pool,
    ):
        timings = _timed(
            settings,
            {
                "pillow": lambda: list(threads.map(_pillow, chunks)),
                "pillow_processes": lambda: list(pool.map(_pillow, chunks)),
                "reader": read,
                "bulk": lambda: job.run(options),
            },
        )
    return _facts(f"encode, a folder of {images:,} PNG files", timings, images)


def _ray(settings: Settings, models: Models, base: Path, images: int) -> dict[str, Any]:
    """`denoise` on the array by two actors of one thread, and here by two threads.

    The clock of both begins when the actors' first parts are there: starting Ray takes seconds,
    once for each job, however long it is.
    """
    options = replace(
        _options(models, base / "images.npy", base / "clean.npy"),
        operation="denoise",
        threads=ACTORS,
        actors=ACTORS,
        batch=max(1, min(4096, images // 10)),
    )
    runners: dict[str, Runner] = {"local": pipeline.run, "ray": ray_engine.run}
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    rows = 0
    for _ in range(ROUNDS):
        for name, runner in runners.items():
            time.sleep(settings.settle)
            rows, elapsed = _steady(options, runner)
            seconds[name].append(elapsed)
    timings = {name: Timing(tuple(values)) for name, values in seconds.items()}
    return _facts(f"denoise, {images:,} images, after the start", timings, rows)


def _timed(settings: Settings, candidates: dict[str, Callable[[], Any]]) -> dict[str, Timing]:
    rounds = 2 if settings.quick else ROUNDS
    return interleave(candidates, rounds=rounds, settle=settings.settle)


def _facts(title: str, timings: dict[str, Timing], images: int) -> dict[str, Any]:
    """Seconds and rates as JSON, and printed beside the first candidate's."""
    rates = {name: timing.rate(images) for name, timing in timings.items()}
    first = next(iter(timings))
    rows = [
        [
            TITLES[name],
            report.rate(rates[name]),
            "" if name == first else report.ratio(timing.speed_over(timings[first])),
        ]
        for name, timing in timings.items()
    ]
    print(report.table([title, "images/s (range)", "of the first"], rows) + "\n")
    return {
        "images": images,
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "images_per_second": {name: asdict(rate) for name, rate in rates.items()},
    }


def _steady(options: BulkOptions, runner: Runner) -> tuple[int, float]:
    """Rows after the first parts, one for each actor; seconds from these to the last."""
    parts: list[tuple[float, int]] = []

    def timed(work: Work, units: Iterable[int], done: pipeline.Done) -> None:
        def note(rows: int, failed: int) -> None:
            parts.append((time.perf_counter(), rows))
            done(rows, failed)

        runner(work, units, note)

    job.run(options, runner=timed)
    rest = parts[ACTORS:]
    return sum(rows for _, rows in rest), rest[-1][0] - parts[ACTORS - 1][0]


def _options(models: Models, path: Path, out: Path) -> BulkOptions:
    return BulkOptions(
        operation="encode", input=str(path), out=str(out), bundle=models.bundle, overwrite=True
    )


def _pictures(settings: Settings, models: Models, root: Path, images: int) -> list[Path]:
    """Write PNG files of blurred noise, which compress as photographs do, in nested folders."""
    height, width, channels = models.engine.manifest.image_shape
    rng = np.random.default_rng(settings.seed)
    paths = []
    for at in range(images):
        path = root / f"{at // FILES_PER_FOLDER:03d}" / f"{at:06d}.png"
        if at % FILES_PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        coarse = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
        picture = Image.fromarray(coarse[..., 0] if channels == 1 else coarse)
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        path.write_bytes(png.encode(pixels.reshape(height, width, channels)))
        paths.append(path)
    return paths


def _pillow(paths: list[Path]) -> None:
    """Open and decode some files, and no more."""
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image)


def _peak(command: list[str]) -> int:
    """Peak resident bytes of a process, mapped files included; Linux only."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid, "VmHWM"))
        time.sleep(0.01)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak
