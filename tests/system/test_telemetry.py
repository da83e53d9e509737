"""Nothing reports home: no process opens a connection or writes a file unasked."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.paths import BUNDLE, ROOT
from tests.support.processes import Server, environment, free_port, require_serving
from tests.support.wire import as_npy, some_images

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="no strace on this machine")

SWITCHES = ("ORT_DISABLE_TELEMETRY", "BENTOML_DO_NOT_TRACK", "RAY_USAGE_STATS_ENABLED", "CI")
# A thread that reports sends its first events seconds after the library has been loaded.
PATIENCE = 8.0


def bare(home: Path) -> dict[str, str]:
    """An environment that switches nothing off, with an empty home."""
    plain = {name: text for name, text in environment().items() if name not in SWITCHES}
    return {**plain, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}


def outside(trace: Path) -> list[str]:
    """Connections and datagrams to addresses that are not this machine's."""
    lines = trace.read_text(errors="replace").splitlines()
    sent = [line for line in lines if "sa_family=AF_INET" in line]
    local = re.compile(r'inet_addr\("(127\.|0\.0\.0\.0)|"::1?"|"::ffff:127\.')
    return [line for line in sent if not local.search(line)]


def traced(
    command: list[str], trace: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    strace = ["strace", "-f", "-qq", "-e", calls, "-o", str(trace)]
    return subprocess.run(
        [*strace, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=180
    )


def files_in(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "code",
    [
        "from service.engine import Engine\nEngine.load('bundles/mnist')",
        "from service.__main__ import main\nmain(['info', 'bundles/mnist'])",
        "import export.quantise",
        "from denoiser_client import DenoiserClient\nDenoiserClient('http://127.0.0.1:9').close()",
    ],
    ids=["engine", "info", "export", "client"],
)
def test_libraries_that_we_load_are_silent(tmp_path: Path, code: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    wait = f"\nimport time\ntime.sleep({PATIENCE})"
    done = traced([sys.executable, "-c", code + wait], tmp_path / "trace", bare(home))
    assert done.returncode == 0, done.stderr[-2000:]
    assert outside(tmp_path / "trace") == []
    assert files_in(home) == []


def test_the_watch_sees_a_connection(tmp_path: Path) -> None:
    """A guard that guards: a datagram to a documentation address (RFC 5737) is reported."""
    code = "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.connect(('192.0.2.1', 9))"
    traced([sys.executable, "-c", code], tmp_path / "trace", dict(os.environ))
    assert len(outside(tmp_path / "trace")) == 1


def test_a_server_is_silent(tmp_path: Path) -> None:
    require_serving()
    home, trace, port = tmp_path / "home", tmp_path / "trace", free_port()
    home.mkdir()
    command = [
        "strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace),
        str(ROOT / ".venv-serve" / "bin" / "bentoml"), "serve", "service.app:Denoiser",
        "--port", str(port),
    ]  # fmt: skip
    env = {**bare(home), "DENOISER_BUNDLE": str(BUNDLE), "DENOISER_WORKERS": "1"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        body = as_npy(some_images(5))
        answer = httpx.post(
            f"{url}/denoise", content=body, headers={"Content-Type": "application/x-npy"}
        )
        assert answer.status_code == 200
        time.sleep(PATIENCE)
    finally:
        for child in psutil.Process(server.pid).children():  # strace passes no signal on
            child.terminate()
        server.wait(60)
    assert outside(trace) == []
    assert files_in(home) == []


# --- bulk jobs

# Where a bulk job and its libraries may write, apart from the output and the folder beside it:
# shared memory, settings of its own processes, temporary files, Ray's session.
TEMPORARY = ("/dev/", "/proc/", f"{tempfile.gettempdir()}/")


def written(trace: Path) -> set[str]:
    """Absolute paths that were opened to be written to, made or renamed."""
    calls = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|mkdir|rename")
    lines = trace.read_text(errors="replace").splitlines()
    found = (re.findall(r'"(/[^"]*)"', line) for line in lines if calls.search(line))
    return {path for paths in found for path in paths}


def bulk_trace(tmp_path: Path, *options: str) -> Path:
    """A trace of `encode` of a folder of images; the job must succeed."""
    home, trace, out = tmp_path / "home", tmp_path / "trace", tmp_path / "out"
    for folder in (home, tmp_path / "in", out):
        folder.mkdir()
    for name in ("1.png", "2.png"):
        shutil.copy(ROOT / "examples" / "noisy.png", tmp_path / "in" / name)
    calls = "trace=openat,mkdir,mkdirat,rename,renameat,renameat2,connect,sendto,sendmsg,sendmmsg"
    job = ["encode", str(tmp_path / "in"), "--out", str(out / "x.parquet"), "--bundle", str(BUNDLE)]
    strace = ["strace", "-f", "-qq", "-s", "300", "-e", calls, "-o", str(trace)]
    done = subprocess.run(
        [*strace, sys.executable, "-m", "service", *job, *options],
        cwd=ROOT,
        env={**bare(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in out.iterdir()] == ["x.parquet"]
    assert files_in(home) == []
    elsewhere = {path for path in written(trace) if not path.startswith(f"{out}/")}
    strange = {path for path in elsewhere if not path.startswith(TEMPORARY)}
    assert strange | {path for path in elsewhere if path.startswith(str(tmp_path))} == set()
    return trace


def test_a_bulk_job_is_silent(tmp_path: Path) -> None:
    trace = bulk_trace(tmp_path)
    assert "sa_family=AF_INET" not in trace.read_text(errors="replace")


def test_a_bulk_job_with_a_service_speaks_to_it_alone(server: Server, tmp_path: Path) -> None:
    trace, port = bulk_trace(tmp_path, "--url", server.url), server.url.rpartition(":")[2]
    connects = re.findall(r"connect\(.*sa_family=AF_INET.*", trace.read_text(errors="replace"))
    assert connects
    assert [line for line in connects if f"htons({port})" not in line] == []
    assert outside(trace) == []


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="the extra `ray` is not installed")
def test_a_bulk_job_on_ray_is_silent(tmp_path: Path) -> None:
    """Apart from this machine's own addresses; for these, Ray asks the kernel for a route."""
    trace = bulk_trace(tmp_path, "--engine", "ray", "--actors", "1")
    own = {one.address for each in psutil.net_if_addrs().values() for one in each}
    route = re.compile(r'connect\(.*htons\(53\).*inet_addr\("8\.8\.8\.8"\)')  # nothing is sent
    strange = [line for line in outside(trace) if not route.search(line)]
    assert [line for line in strange if not any(f'{one}"' in line for one in own)] == []
