"""kill -9 at random moments, then the same command: the same rows as an undisturbed run's.

One process imports everything and forks a child for each command, so a run takes as long as its
work and not as its imports; the children are processes of their own and are killed for real.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.codecs import png
from tests.support.paths import ROOT
from tests.support.tiny import some_images

MOMENTS = 20
UNREADABLE = 3

FORKS = """
import json, os, signal, sys, time
import pyarrow.csv, pyarrow.ipc, pyarrow.parquet, rich.progress
from service.__main__ import main

for line in sys.stdin:
    arguments, kill_after = json.loads(line)
    child = os.fork()
    if not child:
        sys.stdin, sys.stdout = open(os.devnull), sys.stderr
        os._exit(main(arguments))
    deadline = time.monotonic() + kill_after
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.001)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)  # our own child, not yet waited for
        ended = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(ended[1]), flush=True)
"""


@dataclass
class Forks:
    """Runs `python -m service ARGUMENTS` in a child of its own."""

    process: subprocess.Popen[str]

    def run(self, *arguments: str, kill_after: float = 120) -> int:
        """The child's exit status; −9 if it was killed, after so many seconds."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([arguments, kill_after]), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    log = tmp_path_factory.mktemp("forks") / "err.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        yield Forks(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 0


def array(folder: Path) -> Path:
    np.save(folder / "in.npy", some_images(2400, "uint8"))
    return folder / "in.npy"


def pictures(folder: Path) -> Path:
    """200 images, nested, every tenth broken."""
    root = folder / "in"
    for at, image in enumerate(some_images(200, "uint8")):
        path = root / f"{at % 7}" / f"{at:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png.encode(image)[: 40 if at % 10 == 0 else None])
    return root


@dataclass(frozen=True)
class Case:
    """A command: what it reads, what it writes, with how many rows in a part."""

    operation: str
    source: Callable[[Path], Path]
    out: str
    batch: int
    append: bool = False


CASES = [
    Case("encode", array, "l.parquet", 100),
    Case("encode", pictures, "l.parquet", 10),
    Case("encode", array, "l.npy", 100),
    Case("denoise", pictures, "clean/", 10),
    Case("encode", array, "l.parquet/", 100, append=True),
]


def content(out: Path) -> dict[str, Any]:
    """All that an output holds, its neighbours included, as it can be compared."""
    found: dict[str, Any] = {}
    beside = [path for path in out.parent.glob(f"{out.name}.*") if path.is_file()]
    inside = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
    for path in [*beside, *inside]:
        name = str(path.relative_to(out.parent))
        found[name] = pq.read_table(path) if path.suffix == ".parquet" else path.read_bytes()
    return found


@pytest.mark.parametrize("number", range(len(CASES)))
def test_killed_at_random_moments(
    number: int, forks: Forks, bundle_path: Path, tmp_path: Path
) -> None:
    case = CASES[number]
    source = str(case.source(tmp_path))
    base = ("--bundle", str(bundle_path), "--threads", "1", "--batch", str(case.batch))

    def prepared(name: str) -> tuple[Path, tuple[str, ...]]:
        """An empty place, or one with an output to be added to; and the command."""
        folder = tmp_path / name
        folder.mkdir()
        out = f"{folder}/{case.out}"
        command: tuple[str, ...] = (case.operation, source, "--out", out, *base)
        if case.append:
            assert forks.run(*command) == 0
            command = (*command, "--append")
        return Path(out), command

    undisturbed, command = prepared("undisturbed")
    begin = time.perf_counter()
    wanted_status = forks.run(*command)
    seconds = time.perf_counter() - begin
    assert wanted_status == (UNREADABLE if case.source is pictures else 0)
    wanted = content(undisturbed)
    assert len(wanted) >= 1

    rng = np.random.default_rng(number)
    for moment in range(MOMENTS // len(CASES)):
        out, command = prepared(f"killed-{moment}")
        before = content(out) if case.append else {}
        status = forks.run(*command, kill_after=float(rng.uniform(0.05, 1) * seconds))
        assert status in (-signal.SIGKILL, wanted_status)
        hidden = out.parent / f".{out.name}.parts"
        for part in hidden.glob("part-*.arrow"):
            with pa.memory_map(str(part)) as file:
                pa.ipc.open_file(file).read_all().validate(full=True)
        found = content(out) if out.exists() else {}
        assert found in ({}, before, wanted) or not case.out.endswith("parquet")
        if hidden.exists() or found != wanted:
            assert status == -signal.SIGKILL
            assert forks.run(*command) == wanted_status
        assert content(out) == wanted
        left = [path.name for path in out.parent.iterdir() if path.name.startswith(".")]
        assert left in ([], [f"{hidden.name}.done"])  # the next job with this name removes it
