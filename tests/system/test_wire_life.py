"""Shutdown, killed workers, clients that disconnect, health under load."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from common.arrays import Array
from service.engine import Engine
from tests.support.processes import Server, require_serving, serving
from tests.support.wire import as_npy, from_npy, some_images

NPY = {"Content-Type": "application/x-npy"}


def until(true: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.1)
    return true()


def workers(server: Server) -> list[psutil.Process]:
    """The processes that hold a model."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [
        child for child in children if any("_bentoml_impl.worker" in word for word in words(child))
    ]


def words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def denoise(server: Server, images: Array, timeout: float = 60) -> Array:
    answer = httpx.post(
        f"{server.url}/denoise", content=as_npy(images), headers=NPY, timeout=timeout
    )
    assert answer.status_code == 200, answer.text[:300]
    return from_npy(answer.content)


def close_to(result: Array, expected: Array) -> bool:
    return result.shape == expected.shape and np.abs(result.astype(int) - expected).max() <= 1


def in_progress(server: Server) -> float:
    """The sum of the gauge over all workers."""
    text = httpx.get(f"{server.url}/metrics").text
    name = "denoiser_requests_in_progress"
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_sigterm_finishes_what_is_in_flight(tmp_path: Path, local_engine: Engine) -> None:
    require_serving()
    images = some_images(30_000)
    results: list[Array] = []
    with serving(tmp_path) as server:
        denoise(server, images[:10])
        client = threading.Thread(target=lambda: results.append(denoise(server, images)))
        client.start()
        assert until(lambda: in_progress(server) > 0, 20)
        assert not results
        assert server.stop() == 0
        client.join()
        assert "Traceback" not in server.printed()
    assert len(results) == 1
    assert close_to(results[0][::100], local_engine.denoise(images[::100], dtype="uint8"))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/livez")


@pytest.mark.alone
@pytest.mark.parametrize("containerized", [False, True])
def test_a_killed_worker_is_replaced_while_the_other_answers(
    tmp_path: Path, containerized: bool
) -> None:
    require_serving()
    settings = {"DENOISER_WORKERS": "2"}
    if containerized:
        settings["BENTOML_CONTAINERIZED"] = "true"
    images = some_images(3)
    with serving(tmp_path, settings=settings) as server:
        assert until(lambda: len(workers(server)) == 2)
        for _ in range(20):  # both are ready
            denoise(server, images)
        time.sleep(1)
        victim = workers(server)[0]
        others = {worker.pid for worker in workers(server)} - {victim.pid}
        victim.kill()
        good = lost = 0
        began = time.monotonic()
        replaced = 0.0
        while time.monotonic() - began < 40:
            try:
                denoise(server, images, timeout=5)
                good += 1
            except httpx.TransportError:  # accepted by the killed worker
                lost += 1
            now = {worker.pid for worker in workers(server)}
            if len(now - {victim.pid}) == 2 and not replaced:
                replaced = time.monotonic() - began
            if replaced and time.monotonic() - began > replaced + 1:
                break
        assert replaced, "the worker was not replaced"
        assert others <= {worker.pid for worker in workers(server)}
        assert good > 10
        assert lost <= 1
        assert server.process.poll() is None


@pytest.mark.alone
def test_clients_that_disconnect_cancel_their_work(tmp_path: Path) -> None:
    require_serving()
    with serving(tmp_path) as server:
        images = some_images(20_000)
        denoise(server, images[:50])
        body = as_npy(images)
        host, port = server.url.removeprefix("http://").split(":")
        head = (
            "POST /denoise HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        for sent in (head, head + body[: len(body) // 2], head + body, head + body, head + body):
            connection = socket.create_connection((host, int(port)), timeout=20)
            connection.sendall(sent)
            time.sleep(0.3)  # the computation has started
            connection.close()
        worker = workers(server)[0] if workers(server) else psutil.Process(server.process.pid)
        time.sleep(0.7)
        before = sum(worker.cpu_times()[:2])
        time.sleep(1)
        busy = sum(worker.cpu_times()[:2]) - before
        # Three calls of 20,000 images would keep both cores busy for seconds.
        assert busy < 0.5
        metrics = httpx.get(f"{server.url}/metrics").text
        rows = [ln for ln in metrics.splitlines() if ln.startswith("denoiser_rows_total")]
        assert rows == ['denoiser_rows_total{model="autoencoder"} 50.0']
        assert in_progress(server) == 0
        printed = server.printed()
        assert "Traceback" not in printed and "Exception" not in printed, printed


def test_two_servers_keep_their_own_metrics(tmp_path: Path) -> None:
    """BentoML's default folder is shared, and each server empties it at start."""
    require_serving()
    settings = {"BENTOML_HOME": str(tmp_path / "home")}

    def rows(server: Server) -> list[str]:
        text = httpx.get(f"{server.url}/metrics").text
        return [line for line in text.splitlines() if line.startswith("denoiser_rows_total")]

    with serving(tmp_path, settings=settings) as first:
        denoise(first, some_images(3))
        with serving(tmp_path, settings=settings) as second:
            denoise(second, some_images(4))
            assert rows(second) == ['denoiser_rows_total{model="autoencoder"} 4.0']
            assert rows(first) == ['denoiser_rows_total{model="autoencoder"} 3.0']
        denoise(first, some_images(3))
        assert rows(first) == ['denoiser_rows_total{model="autoencoder"} 6.0']


@pytest.mark.alone
def test_health_answers_while_100_000_images_are_denoised(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    body = as_npy(some_images(2500))
    finished: list[int] = []

    def load() -> None:
        with httpx.Client(timeout=120) as client:
            for _ in range(20):
                answer = client.post(f"{server.url}/denoise", content=body, headers=NPY)
                finished.append(answer.status_code)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    times = []
    with httpx.Client() as client:
        while any(thread.is_alive() for thread in threads):
            began = time.perf_counter()
            assert client.get(f"{server.url}/livez").status_code == 200
            times.append(time.perf_counter() - began)
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert finished == [200] * 40
    median, worst = statistics.median(times), max(times)
    record_property("health", f"p50 {median * 1e3:.1f} ms, max {worst * 1e3:.1f} ms")
    print(f"health: {len(times)} answers, p50 {median * 1e3:.1f} ms, max {worst * 1e3:.1f} ms")
    assert len(times) > 50
    assert median < 0.05
