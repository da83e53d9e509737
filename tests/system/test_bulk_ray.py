"""Bulk jobs on real Ray clusters of this machine: same rows to the bit, also when a node dies."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from common.errors import FingerprintError
from service.bulk import job, pipeline
from service.bulk.errors import ClusterError
from service.bulk.options import BulkOptions
from service.bulk.ray.worker import JobPayload
from service.bulk.work import Work
from service.codecs import png
from tests.support.paths import ROOT
from tests.support.tiny import some_images

SECONDS = 240  # for one command; it takes some ten on a quiet machine
UNREADABLE = 3

ray_is_needed = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed"
)

# Starts a head without CPUs; then each line of stdin is a command, each answer one of JSON.
CLUSTER = """
import json, os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster

memory = {"object_store_memory": 80_000_000}
quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000,
         "health_check_failure_threshold": 5}
cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False,
                                        "_system_config": quick, **memory})
print(json.dumps(cluster.address), flush=True)
nodes = []
for line in sys.stdin:
    nodes.append(cluster.add_node(num_cpus=1, **memory))
    print(json.dumps(nodes[-1].all_processes["raylet"][0].process.pid), flush=True)
for node in nodes:
    if node.all_processes["raylet"][0].process.poll() is None:
        cluster.remove_node(node)
cluster.shutdown()
"""


class Cluster:
    """A head without CPUs in a process of its own, and nodes of one CPU each."""

    def __init__(self, log: Path) -> None:
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CLUSTER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.address: str = self._answer()

    def add(self) -> psutil.Process:
        """A new node's raylet."""
        assert self._process.stdin is not None
        print("add", file=self._process.stdin, flush=True)
        return psutil.Process(self._answer())

    def close(self) -> None:
        self._process.communicate(timeout=120)
        assert self._process.returncode == 0

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line[0] in '"0123456789':
                return json.loads(line)
        raise AssertionError(f"the cluster ended: {self._process.wait(30)}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Only the head; a test takes away the nodes that it adds."""
    started = Cluster(tmp_path_factory.mktemp("cluster") / "cluster.log")
    yield started
    started.close()


def command(operation: str, source: str | Path, out: Path, *rest: str | Path) -> list[str]:
    arguments = [operation, source, "--out", out, *rest]
    return [sys.executable, "-m", "service", *map(str, arguments)]


def finished(arguments: list[str], status: int = 0) -> str:
    """What a command prints, once it has ended with `status`."""
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@ray_is_needed
def test_a_node_killed_midway_loses_no_row(cluster: Cluster, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "in.npy", rng.integers(0, 256, (12_000, 28, 28, 1), dtype=np.uint8))
    base = ("--bundle", ROOT / "bundles/mnist", "--batch", "200")
    wanted, out = tmp_path / "local.parquet", tmp_path / "ray.parquet"
    finished(command("denoise", tmp_path / "in.npy", wanted, *base))
    doomed = cluster.add()
    other = cluster.add()
    on_ray = ("--engine", "ray", "--address", cluster.address)
    process = subprocess.Popen(
        command("denoise", tmp_path / "in.npy", out, *base, *on_ray),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    parts = tmp_path / ".ray.parquet.parts"
    wait_for(lambda: len(list(parts.glob("part-*.arrow"))) >= 12, process)
    assert [worker for worker in doomed.children() if "MapWorker" in worker.name()]
    assert not out.exists()
    doomed.kill()
    output, errors = process.communicate(timeout=SECONDS)
    other.terminate()
    assert process.returncode == 0, errors
    assert "12,000 rows" in output
    assert pq.read_table(out).equals(pq.read_table(wanted), check_metadata=True)
    assert not parts.exists()


def pictures(folder: Path) -> Path:
    """30 images, nested, every tenth broken."""
    root = folder / "pictures"
    for at, image in enumerate(some_images(30, "uint8")):
        path = root / f"{at % 3}" / f"{at:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png.encode(image)[: 40 if at % 10 == 0 else None])
    return root


def assert_same(out: Path, wanted: Path) -> None:
    """Rows, metadata and what could not be read."""
    assert pq.read_table(out).equals(pq.read_table(wanted), check_metadata=True)
    errors = [path.with_name(path.name + ".errors.csv").read_text() for path in (out, wanted)]
    assert errors[0] == errors[1]
    assert errors[0].count("\n") == 4


@pytest.fixture
def blind(cluster: Cluster, tmp_path: Path) -> Iterator[psutil.Process]:
    """A node of the cluster that sees an empty folder where `tmp_path`/pictures is."""
    (tmp_path / "pictures").mkdir()
    apart = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"]).returncode:
        pytest.skip("unshare is not there, or not allowed")
    script = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    ray += [f"--address={cluster.address}", "--object-store-memory=80000000"]
    with (tmp_path / "blind.log").open("w") as log:
        process = subprocess.Popen(
            [*apart, "sh", "-c", script, "sh", tmp_path / "pictures", *ray],
            stdout=log,
            stderr=log,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )
    yield psutil.Process(process.pid)
    process.terminate()
    process.wait(60)


@ray_is_needed
def test_a_node_without_the_shared_folder_is_an_error(
    cluster: Cluster, blind: psutil.Process, bundle_path: Path, tmp_path: Path
) -> None:
    source, out = pictures(tmp_path), tmp_path / "ray.parquet"
    on_ray = ("--engine", "ray", "--address", cluster.address, "--actors", "1")
    message = finished(command("encode", source, out, "--bundle", bundle_path, *on_ray), 1)
    assert "storage that every node sees" in message and "Traceback" not in message
    assert blind.is_running()
    assert [path.name for path in tmp_path.iterdir() if "ray.parquet" in path.name] == []


@ray_is_needed
@pytest.mark.parametrize("url", [False, True])
def test_a_job_begun_here_and_finished_on_ray(url: bool, bundle_path: Path, tmp_path: Path) -> None:
    source = pictures(tmp_path).as_uri() if url else str(pictures(tmp_path))
    base = ("--bundle", bundle_path, "--batch", "4")
    wanted, out = tmp_path / "local.parquet", tmp_path / "ray.parquet"
    finished(command("encode", source, wanted, *base), UNREADABLE)

    def half(work: Work, units: Any, done: Any) -> None:
        pipeline.run(work, list(units)[::2], done)
        raise KeyboardInterrupt

    options = BulkOptions(
        operation="encode", input=source, out=str(out), bundle=bundle_path, batch=4
    )
    with pytest.raises(KeyboardInterrupt):
        job.run(options, runner=half)
    output = finished(
        command("encode", source, out, *base, "--engine", "ray", "--actors", "2"), UNREADABLE
    )
    assert "continuing after 4 of 8 parts" in output
    assert_same(out, wanted)


def test_without_ray_its_extra_is_named(bundle_path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", some_images(5))
    script = "import sys; sys.modules['ray'] = None; from service.__main__ import main\n"
    given = command("encode", "in.npy", Path("out.npy"), "--bundle", bundle_path)[3:]
    done = subprocess.run(
        [sys.executable, "-c", f"{script}sys.exit(main(sys.argv[1:]))", *given, "--engine", "ray"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "the extra `ray`" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.npy"]


@ray_is_needed
@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (("--actors", "2"), "--engine ray"),
        (("--engine", "ray", "--address", "ray://head:10001"), "auto"),
        (("--engine", "ray", "--address", "127.0.0.1:1"), "no connection"),
    ],
)
def test_refusals(
    rest: tuple[str, ...], message: str, bundle_path: Path, tmp_path: Path, capsys: Any
) -> None:
    from service.__main__ import main

    np.save(tmp_path / "in.npy", some_images(5))
    given = command(
        "encode", tmp_path / "in.npy", tmp_path / "out.npy", "--bundle", bundle_path, *rest
    )
    assert main(given[3:]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.npy"]


def test_what_is_sent_to_a_node(bundle_copy: Path, tmp_path: Path) -> None:
    """No key; the bundle in the job's folder; the input only while it is the very same."""
    source = tmp_path / "in.npy"
    np.save(source, some_images(50))
    checked = []

    def check(work: Work, units: Any, done: Any) -> None:
        body = pickle.dumps(JobPayload.of(work))
        assert b"only for" not in body
        payload: JobPayload = pickle.loads(body)
        shutil.rmtree(bundle_copy)
        with closing((opened := payload.open()).source):
            np.testing.assert_array_equal(opened.source.read(0).rows, some_images(50))
            pipeline.run(opened, units, done)
        with pytest.raises(FingerprintError, match="0" * 64):
            replace(payload, model=replace(payload.model, fingerprint="0" * 64)).open()
        np.save(source, some_images(51))
        with pytest.raises(ClusterError, match="every node sees"):
            payload.open()
        checked.append(payload)

    options = BulkOptions(
        operation="encode",
        input=str(source),
        out=str(tmp_path / "out.npy"),
        bundle=bundle_copy,
        api_key="only for the service",
    )
    assert job.run(options, runner=check).rows == 50
    assert len(checked) == 1
