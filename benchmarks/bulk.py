"""Section `bulk`: jobs without a server beside what they cannot be faster than.

An array of a million images beside `Engine.encode` on the same rows; a folder of PNG files beside
decoding them; the most memory that the command holds, against a bare interpreter's; and, where Ray
is installed, two of its actors beside two threads.
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
from benchmarks.models import Models as Material
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
WRITTEN_AT_ONCE = 10_000
IN_ONE_FOLDER = 1_000
SLICE = 32
ACTORS = 2


@dataclass(frozen=True)
class Sizes:
    """Images in the array and in the folder."""

    array: int = 1_000_000
    files: int = 70_000


def run(
    settings: Settings, material: Material, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Array, memory, folder; write JSON."""
    sizes = Sizes(2_000, 300) if settings.quick else Sizes()
    with TemporaryDirectory(prefix="denoiser-bulk-") as folder:
        base = Path(folder)
        result = {
            "machine": machine.facts(),
            "weights": material.weights,
            "array": _array(settings, material, base, sizes.array, say),
            "folder": _folder(settings, material, base, sizes.files, say),
        }
        # Not in a quick run, which takes seconds: Ray alone takes that long to start, ten times.
        if not settings.quick and importlib.util.find_spec("ray") is not None:
            result["ray"] = _ray(settings, material, base, sizes.array, say)
    report.write_json(settings.results / "bulk.json", result)
    say(f"written: {settings.results / 'bulk.json'}")
    return result


def _array(
    settings: Settings, material: Material, base: Path, images: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """`encode` on an .npy file, loading the engine and writing Parquet included."""
    path = base / "images.npy"
    shape = material.engine.manifest.image_shape
    mapped = open_memmap(path, "w+", np.uint8, (images, *shape))
    rng = np.random.default_rng(settings.seed)
    some = rng.integers(0, 256, (min(images, WRITTEN_AT_ONCE), *shape), dtype=np.uint8)
    for first in range(0, images, len(some)):
        mapped[first : first + len(some)] = some[: images - first]
    mapped.flush()
    options = _options(material, path, base / "latents.parquet")
    timings = interleave(
        {"engine": lambda: material.engine.encode(mapped), "bulk": lambda: job.run(options)},
        rounds=2 if settings.quick else ROUNDS,
        settle=settings.settle,
    )
    bare = _peak([sys.executable, "-c", "import time; time.sleep(0.5)"])
    arguments = [str(path), "--out", str(base / "again.parquet"), "--bundle", str(material.bundle)]
    held = _peak([sys.executable, "-m", "service", "encode", *arguments])
    say(
        report.table(
            [f"encode, {images:,} images in .npy", "images/s (range)", "of Engine.encode"],
            [
                ["Engine.encode", report.rate(timings["engine"].rate(images)), ""],
                [
                    "python -m service encode, Parquet written",
                    report.rate(timings["bulk"].rate(images)),
                    report.ratio(timings["bulk"].speed_over(timings["engine"])),
                ],
            ],
        )
    )
    say(f"most memory held: {report.size(held - bare)} over a bare interpreter's\n")
    return {**_told(timings, images, "engine"), "peak_bytes": held, "bare_bytes": bare}


def _folder(
    settings: Settings, material: Material, base: Path, images: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """`encode` on a folder of PNG files, beside Pillow and beside our own reader alone."""
    root = base / "pictures"
    paths = _pictures(settings, material, root, images)
    options = _options(material, root, base / "pictures.parquet")
    facts = open_model(options).facts

    def read() -> None:
        source = open_source(options, facts, scratch=base)
        for unit in range(source.units):
            source.read(unit)
        source.close()

    pieces = [paths[at : at + SLICE] for at in range(0, len(paths), SLICE)]
    processes = get_context("forkserver")
    with (
        ThreadPoolExecutor(usable_cores()) as threads,
        ProcessPoolExecutor(usable_cores(), mp_context=processes) as pool,
    ):
        timings = interleave(
            {
                "pillow": lambda: list(threads.map(_pillow, pieces)),
                "pillow_processes": lambda: list(pool.map(_pillow, pieces)),
                "reader": read,
                "bulk": lambda: job.run(options),
            },
            rounds=2 if settings.quick else ROUNDS,
            settle=settings.settle,
        )
    names = {
        "pillow": f"Pillow alone, {usable_cores()} threads",
        "pillow_processes": f"Pillow alone, {usable_cores()} processes that wait",
        "reader": "the job's reader alone",
        "bulk": "python -m service encode, Parquet written",
    }
    say(
        report.table(
            [f"encode, a folder of {images:,} PNG files", "images/s (range)", "of Pillow alone"],
            [
                [
                    title,
                    report.rate(timings[name].rate(images)),
                    report.ratio(timings[name].speed_over(timings["pillow"])),
                ]
                for name, title in names.items()
            ],
        )
    )
    say("")
    return _told(timings, images, "pillow")


def _ray(
    settings: Settings, material: Material, base: Path, images: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """`denoise` on the array by two actors of one thread, and here by two threads.

    The clock of both begins when the actors' first parts are there: starting Ray takes seconds,
    once for each job, however long it is.
    """
    options = replace(
        _options(material, base / "images.npy", base / "clean.npy"),
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
            rows, taken = _steady(options, runner)
            seconds[name].append(taken)
    timings = {name: Timing(tuple(taken)) for name, taken in seconds.items()}
    say(
        report.table(
            [f"denoise, {images:,} images, after the start", "images/s (range)", "of the local"],
            [
                [f"local, {ACTORS} threads", report.rate(timings["local"].rate(rows)), ""],
                [
                    f"Ray, {ACTORS} actors",
                    report.rate(timings["ray"].rate(rows)),
                    report.ratio(timings["ray"].speed_over(timings["local"])),
                ],
            ],
        )
    )
    return _told(timings, rows, "local")


def _steady(options: BulkOptions, runner: Runner) -> tuple[int, float]:
    """Rows after the first parts, one for each actor; seconds from these to the last."""
    moments: list[tuple[float, int]] = []

    def watched(work: Work, units: Iterable[int], done: pipeline.Done) -> None:
        def noted(rows: int, failed: int) -> None:
            moments.append((time.perf_counter(), rows))
            done(rows, failed)

        runner(work, units, noted)

    job.run(options, runner=watched)
    rest = moments[ACTORS:]
    return sum(rows for _, rows in rest), rest[-1][0] - moments[ACTORS - 1][0]


def _options(material: Material, path: Path, out: Path) -> BulkOptions:
    return BulkOptions(
        operation="encode", input=str(path), out=str(out), bundle=material.bundle, overwrite=True
    )


def _pictures(settings: Settings, material: Material, root: Path, images: int) -> list[Path]:
    """Write PNG files of blurred noise, which compress as photographs do, in nested folders."""
    height, width, channels = material.engine.manifest.image_shape
    rng = np.random.default_rng(settings.seed)
    paths = []
    for at in range(images):
        path = root / f"{at // IN_ONE_FOLDER:03d}" / f"{at:06d}.png"
        if at % IN_ONE_FOLDER == 0:
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


def _told(timings: dict[str, Timing], images: int, baseline: str) -> dict[str, Any]:
    """Rates and ratios as JSON."""
    return {
        "images": images,
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "images_per_second": {name: asdict(t.rate(images)) for name, t in timings.items()},
        f"of_{baseline}": {
            name: asdict(t.speed_over(timings[baseline]))
            for name, t in timings.items()
            if name != baseline
        },
    }


def _peak(command: list[str]) -> int:
    """Most bytes that a process held resident (VmHWM), mapped files included; Linux only."""
    root = Path(__file__).resolve().parent.parent
    held = 0
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        for line in status.read_text().splitlines() if status.exists() else ():
            if line.startswith("VmHWM"):
                held = max(held, int(line.split()[1]) * 1024)
        time.sleep(0.01)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return held
