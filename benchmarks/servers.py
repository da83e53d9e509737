"""The servers to measure: started on free loopback ports, waited for, ended by their process id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers" / "bin" / "python"
Running = AbstractContextManager[str]  # gives the server's address


def ours(bundle: Path, log: Path, *, workers: int, threads: int) -> Running:
    """`bentoml serve` with the given workers and engine threads."""
    environment = {
        "DENOISER_BUNDLE": str(bundle),
        "DENOISER_WORKERS": str(workers),
        "DENOISER_THREADS": str(threads),
    }
    return _bentoml("service.app:Denoiser", environment, log)


def plain_bentoml(model: Path, log: Path, *, workers: int) -> Running:
    """BentoML with its own endpoints and a mounted app, without our gateway."""
    environment = {
        "PEER_MODEL": str(model),
        "PEER_WORKERS": str(workers),
        "BENTOML_HOME": str(log.with_suffix(".home")),
    }
    return _bentoml("benchmarks.http_peers.bentoml_plain:Plain", environment, log)


def fastapi(model: Path, log: Path, *, workers: int) -> Running:
    """The hand-written FastAPI app under uvicorn, with uvloop and httptools."""
    port = _free_port()
    options = f"--port {port} --workers {workers} --no-access-log --loop uvloop --http httptools"
    app = "benchmarks.http_peers.fastapi_app:app"
    command = [str(PEERS), "-m", "uvicorn", app, *options.split()]
    return _running(command, {"PEER_MODEL": str(model)}, log, port)


def mlserver(model: Path, log: Path, *, workers: int) -> Running:
    """MLServer with that many parallel workers; metrics and gRPC on ports of their own."""
    port, folder = _free_port(), log.with_suffix("")
    folder.mkdir()
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
        "metrics_dir": str(folder / "metrics"),
        "parallel_workers": workers,
        "debug": False,
    }
    implementation = "benchmarks.http_peers.mlserver_model.Denoiser"
    described = {"name": "autoencoder", "implementation": implementation}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(described))
    command = [str(PEERS.with_name("mlserver")), "start", str(folder)]
    environment = {"PEER_MODEL": str(model), "PYTHONPATH": str(ROOT)}
    return _running(command, environment, log, port, "/v2/models/autoencoder/ready")


def _bentoml(service: str, environment: Mapping[str, str], log: Path) -> Running:
    port = _free_port()
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", service]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    return _running(command, {**environment, "BENTOML_DO_NOT_TRACK": "True"}, log, port)


@contextmanager
def _running(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    port: int,
    ready: str = "/readyz",
) -> Iterator[str]:
    """Start the command without our own variables, wait until it is ready, yield its address."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("DENOISER_")}
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**clean, **environment}, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        _wait(process, url + ready, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"no server at {url}:\n{log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
