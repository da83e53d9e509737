"""The units of a job on a Ray cluster: `--engine ray`.

Ray Data distributes the units to a pool of actors (`map_batches`) and restarts actors and tasks
when a worker or a node dies. Each actor reads its units from shared storage and writes their parts
to the job's folder, as the local engine does; rows never pass through this process. A job that was
begun with one engine can therefore be finished with the other.

Input and output must be on storage that every node sees: a shared folder, or s3:// or gs:// for
the input. Without --address, Ray runs on this machine alone and any path will do.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import secrets
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import denoiser_client
import service
from common.cores import usable_cores
from common.errors import OptionError
from service.bulk.errors import ClusterError, ExtraMissingError
from service.bulk.pipeline import Done
from service.bulk.ray.worker import JobPayload, Worker
from service.bulk.work import Work

AUTO = "auto"  # the cluster of which this machine is a node
CONNECT_TIMEOUT = 10.0  # seconds, to the head of a cluster; Ray alone would try for many minutes
MAX_TASKS = 10_000  # each costs Ray some memory, and is repeated as a whole


def run(work: Work, units: Iterable[int], done: Done) -> None:
    """Make the parts of `units`, in any order (see `service.bulk.job.Runner`).

    Raises:
        ExtraMissingError: Ray is not installed.
        OptionError: options that need the local engine.
        ClusterError: no cluster at `options.address`, no shared storage, or Ray gave up.
        DenoiserError, OSError: what failed on a node, as it would here.
    """
    ray, options, remaining = load(), work.options, list(units)
    if options.url:
        raise OptionError("--url with --engine ray", expected="only one of them")
    if options.address not in ("", AUTO) and not re.fullmatch(r"[^:/]+:\d{1,5}", options.address):
        raise OptionError(
            f"--address {options.address}",
            expected=f"{AUTO}, or HOST:6379 of the cluster's head; ray:// is not supported",
            hint="Start the job on a node of the cluster, with --address auto.",
        )
    if not remaining:
        return
    try:
        with _connected(ray, address=options.address, actors=options.actors):
            for result in _results(ray, work, remaining):
                if result["error"]:
                    raise pickle.loads(result["error"])
                done(int(result["rows"]), int(result["failures"]))
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as exc:
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise ClusterError(
            f"{options.address or 'Ray on this machine'}: {lines[-1]}",
            expected="a cluster of this Ray and this Python, with what the service imports",
            hint="See Ray's own logs; the same command continues after the finished parts.",
        ) from exc


def load() -> Any:
    """The package ray, with ray.data; `ExtraMissingError` if it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise ExtraMissingError.of("ray[data]", "ray", exc) from exc
    return ray


@contextmanager
def _connected(ray: Any, *, address: str, actors: int) -> Iterator[None]:
    """A connection to the cluster at `address`, or to one on this machine that ends with it.

    Raises:
        ConnectionError: nothing listens at the address.
    """
    packages = [package.__path__[0] for package in (service, common, denoiser_client)]
    environment: dict[str, Any] = {"py_modules": packages, "excludes": ["**/__pycache__"]}
    cluster: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    before = signal.getsignal(signal.SIGTERM)
    host, _, port = address.rpartition(":")
    try:
        if host:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as exc:  # OverflowError: a port above 65,535
        raise ConnectionError(f"no connection ({exc})") from exc
    with TemporaryDirectory() as own_home:
        home = str(Path.home())
        if not address:
            cluster |= {"num_cpus": actors or usable_cores(), "include_dashboard": False}
            cluster |= {"_node_ip_address": "127.0.0.1"}
            environment["env_vars"] = {"HOME": home}
            _prepare_home(Path(own_home))
        try:
            ray.init(address or "local", runtime_env=environment, **cluster)
            os.environ["HOME"] = home
            if callable(before) and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray has put its own there
            yield
        finally:
            os.environ["HOME"] = home  # also where Ray did not start
            ray.shutdown()


def _prepare_home(home: Path) -> None:
    """Let Ray's own processes start with an empty home; a worker has the user's (`env_vars`).

    Ray would write the token of the cluster to the user's, and its dashboard process, which runs
    even without a dashboard, would ask the metadata services of three clouds where it runs.
    """
    (home / "ray_bootstrap_config.yaml").write_text("{}")  # answers that question
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ["HOME"] = str(home)


def _results(ray: Any, work: Work, units: list[int]) -> Iterator[dict[str, Any]]:
    """The results of `Worker`, as they arrive."""
    ray.data.DataContext.get_current().enable_progress_bars = False  # the job has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    actors = work.options.actors or int(ray.cluster_resources().get("CPU", 1))
    dataset = ray.data.from_items(
        [{"unit": unit} for unit in units], override_num_blocks=min(len(units), MAX_TASKS)
    ).map_batches(
        Worker,
        fn_constructor_args=(JobPayload.of(work),),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(units))),
    )
    yield from dataset.iter_rows()
