"""The parent of the workers: no control port, one bundle a server, true gauges, an orderly stop."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.processes import Server, require_serving, serving
from tests.support.wire import as_npy, some_images

NPY = {"Content-Type": "application/x-npy"}
MNIST, CLASSIC = (ROOT / "bundles" / name for name in ("mnist", "classic"))


@pytest.fixture(autouse=True)
def _serving() -> None:
    require_serving()


def until(true: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.1)
    return true()


def workers(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [one for one in children if "_bentoml_impl.worker.service" in _words(one)]


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""


def fingerprints(server: Server, count: int = 40) -> set[str]:
    """Those of the workers that answer, each request on a connection of its own."""
    return {
        httpx.get(f"{server.url}/v2/health/live").headers["x-model-fingerprint"]
        for _ in range(count)
    }


def metric(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_the_only_port_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    """BentoML's process manager has one more, through which any local user runs commands."""
    with serving(tmp_path) as server:
        parent = psutil.Process(server.process.pid)
        listening = {
            (kind.laddr.ip, kind.laddr.port)
            for process in (parent, *parent.children(recursive=True))
            for kind in process.net_connections("inet")
            if kind.status == psutil.CONN_LISTEN
        }
        host, port = server.url.removeprefix("http://").split(":")
        assert listening == {(host, int(port))}


def test_a_bundle_switched_on_disk_waits_for_a_reload(tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(MNIST)
    settings = {"DENOISER_BUNDLE": str(link), "DENOISER_WORKERS": "2"}
    with serving(tmp_path, settings=settings) as server:
        assert until(lambda: len(workers(server)) == 2)
        old = fingerprints(server)
        assert len(old) == 1
        (tmp_path / "new").symlink_to(CLASSIC)
        (tmp_path / "new").rename(link)
        victim = workers(server)[0]
        victim.kill()
        assert until(lambda: len({one.pid for one in workers(server)} - {victim.pid}) == 2)
        time.sleep(4)
        assert fingerprints(server) == old, "a worker that was replaced loads the same model"
        server.process.send_signal(signal.SIGHUP)
        assert until(lambda: not fingerprints(server, 5) & old, 40)
        assert len(fingerprints(server)) == 1


def test_a_damaged_bundle_never_replaces_a_good_one(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(MNIST, tmp_path / "bundle"))
    settings = {"DENOISER_BUNDLE": str(bundle), "DENOISER_WORKERS": "1"}
    with serving(tmp_path, settings=settings) as server:
        before, old = {one.pid for one in workers(server)}, fingerprints(server, 3)
        with (bundle / "encoder.onnx").open("ab") as file:
            file.write(b"x")
        server.process.send_signal(signal.SIGHUP)
        assert until(lambda: "The new bundle is not served" in server.printed(), 60)
        assert "encoder.onnx" in server.printed()
        assert {one.pid for one in workers(server)} == before
        assert fingerprints(server, 3) == old
        assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_requests_of_a_killed_worker_are_not_in_progress_for_ever(tmp_path: Path) -> None:
    body = as_npy(some_images(60_000))
    with serving(tmp_path, settings={"DENOISER_WORKERS": "1"}) as server:

        def send() -> None:
            with suppress(httpx.TransportError):
                httpx.post(f"{server.url}/denoise", content=body, headers=NPY, timeout=60)

        client = threading.Thread(target=send)
        client.start()
        assert until(lambda: metric(server, "denoiser_requests_in_progress") == 1)
        time.sleep(1.2)  # it is in the file that workers share
        workers(server)[0].kill()
        client.join()
        assert until(lambda: httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200)
        assert metric(server, "denoiser_requests_in_progress") == 0


def test_no_count_is_lost_when_workers_are_replaced(tmp_path: Path) -> None:
    body = as_npy(some_images(1))
    with serving(tmp_path, settings={"DENOISER_WORKERS": "1"}) as server:
        with httpx.Client() as client:
            for _ in range(200):
                client.post(f"{server.url}/encode", content=body, headers=NPY)
        before = {one.pid for one in workers(server)}
        server.process.send_signal(signal.SIGHUP)
        assert until(
            lambda: bool(workers(server)) and not before & {w.pid for w in workers(server)}
        )
        assert until(lambda: httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200)
        assert metric(server, 'denoiser_requests_total{route="/encode"') == 200


def test_new_connections_are_refused_while_the_last_answer_is_sent(tmp_path: Path) -> None:
    images = some_images(60_000)
    with serving(tmp_path) as server:
        answers: list[int] = []

        def send() -> None:
            response = httpx.post(
                f"{server.url}/denoise", content=as_npy(images), headers=NPY, timeout=60
            )
            answers.append(len(response.content) if response.status_code == 200 else -1)

        client = threading.Thread(target=send)
        client.start()
        assert until(lambda: metric(server, "denoiser_requests_in_progress") == 1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        host, port = server.url.removeprefix("http://").split(":")
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)
        assert time.monotonic() - began < 1
        client.join()
        assert answers == [images.nbytes + 128]
        assert server.stop() == 0


def test_slow_bodies_do_not_delay_a_stop_beyond_its_grace(tmp_path: Path) -> None:
    with serving(tmp_path, settings={"DENOISER_GRACE": "3"}) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        slow = [socket.create_connection((host, int(port))) for _ in range(5)]
        for one in slow:
            one.sendall(head + b"x")
        time.sleep(0.5)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 8
        for one in slow:
            one.close()


def test_a_bundle_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="no folder"),
        serving(tmp_path, settings={"DENOISER_BUNDLE": str(tmp_path / "none")}),
    ):
        pass
