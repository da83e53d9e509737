"""Training and export write nothing but what they were asked for, and open no connection."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SWITCHES = (
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "KERAS_HOME",
    "MPLCONFIGDIR",
    "PYTHONDONTWRITEBYTECODE",
)
COMMANDS = (
    "training fit --out {0}/run --epochs 1 --filters 4 --latent-size 3",
    "training evaluate {0}/run --html {0}/report.html",
    "export {0}/run --out {0}/bundle",
)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("place", ["empty", "impossible"])
def test_nothing_is_left_behind(tmp_path: Path, place: str) -> None:
    home, temporary, work = (tmp_path / name for name in ("home", "temporary", "work"))
    for folder in (temporary, work):
        folder.mkdir()
    home.mkdir() if place == "empty" else home.touch()  # nothing can be made below a file
    plain = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    env = plain | {"HOME": str(home), "TMPDIR": str(temporary)}
    trace = tmp_path / "trace"
    strace = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=connect,sendto,sendmsg,sendmmsg",
        "-o",
        str(trace),
    ]
    for command in COMMANDS:
        done = subprocess.run(
            [*(strace if shutil.which("strace") else []), sys.executable, "-m",
             *command.format(work).split()],
            cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        if shutil.which("strace"):
            assert not re.findall(r".*sa_family=AF_INET.*", trace.read_text(errors="replace"))
    assert listing(home) == listing(temporary) == []
    assert sorted(path.name for path in work.iterdir()) == ["bundle", "report.html", "run"]
