"""Real servers for tests: started on a free port, awaited, ended by their own process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.paths import BUNDLE, ROOT, SERVING


@dataclass
class Server:
    """A running server: its address, its process and the file with its output."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM and wait; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def require_serving() -> None:
    """Skip the test where the serving environment or the shipped bundle is missing."""
    if not (SERVING / "bentoml").exists():
        pytest.skip("no .venv-serve: make env-serve")
    if not BUNDLE.is_dir():
        pytest.skip("no bundles/mnist in this checkout")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without `DENOISER_*`, and with telemetry off."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("DENOISER_")}
    return {**clean, "BENTOML_DO_NOT_TRACK": "True", **(extra or {})}


@contextmanager
def serving(
    folder: Path,
    *,
    target: Sequence[str] = ("service.app:Denoiser",),
    settings: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    command: Sequence[str] | None = None,
    port: int | None = None,
    wait: float = 60,
) -> Iterator[Server]:
    """`bentoml serve` from the serving environment, ready; ended when the block ends."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    output = folder / f"server-{port}.log"
    address = ("--host", "127.0.0.1", "--port", str(port))
    command = command or [str(SERVING / "bentoml"), "serve", *target, *address]
    # A home of its own: BentoML keeps its processes' metrics there, and empties it at each start.
    # One worker unless a test asks for more, so that limits of a worker are limits of the server.
    variables = {
        "BENTOML_HOME": str(folder / f"bentoml-{port}"),
        "DENOISER_WORKERS": "1",
        **(settings or {}),
    }
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment(variables), stdout=sink, stderr=subprocess.STDOUT
        )
    server = Server(url, process, output)
    try:
        wait_ready(server, wait)
        yield server
    finally:
        try:
            server.stop()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(server: Server, seconds: float) -> None:
    """Poll /readyz until it says 200; an ended process or the time limit is an error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            if httpx.get(f"{server.url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"no server at {server.url}; it printed:\n{server.printed()}")
