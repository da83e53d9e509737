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
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import common
import denoiser_client
import service
from common.errors import OptionError
from service.bulk.errors import ClusterError, ExtraMissingError
from service.bulk.pipeline import Done
from service.bulk.ray.worker import JobPayload, Worker
from service.bulk.work import Work
from service.runtime.pool import usable_cores

LOOPBACK = "127.0.0.1"
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
    ray = load()
    _check(work)
    remaining = list(units)
    if not remaining:
        return
    try:
        with _connected(ray, address=work.options.address, actors=work.options.actors):
            _collect(_results(ray, work, remaining), remaining, done)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as exc:
        where = work.options.address or "Ray on this machine"
        raise ClusterError(
            f"{where}: {_first_line(exc)}",
            expected="a cluster of this Ray and this Python, with what the service imports",
            hint="See Ray's own logs; the same command continues after the finished parts.",
        ) from exc


def load() -> Any:
    """The package ray, with ray.data; importing it starts nothing.

    Raises:
        ExtraMissingError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else ray.init reports to its makers
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as exc:
        raise ExtraMissingError(
            f"no ray ({exc})",
            expected="the extra `ray` of pyproject.toml, which --engine ray needs",
            hint="Install it: pip install 'ray[data]', or leave --engine out.",
        ) from exc
    return ray


def _check(work: Work) -> None:
    address = work.options.address
    if work.options.url:
        raise OptionError("--url with --engine ray", expected="only one of them")
    if address not in ("", AUTO) and not re.fullmatch(r"[^:/]+:\d{1,5}", address):
        raise OptionError(
            f"--address {address}",
            expected=f"{AUTO}, or HOST:6379 of the cluster's head; ray:// is not supported",
            hint="Start the job on a node of the cluster, with --address auto.",
        )


@contextmanager
def _connected(ray: Any, *, address: str, actors: int) -> Iterator[None]:
    """A connection to the cluster at `address`, or to one on this machine that ends with it."""
    own: dict[str, Any] = {"address": "local", "num_cpus": actors or usable_cores()}
    own |= {"include_dashboard": False, "_node_ip_address": LOOPBACK}
    packages = [package.__path__[0] for package in (service, common, denoiser_client)]
    before = signal.getsignal(signal.SIGTERM)
    if address not in ("", AUTO):
        _check_reachable(address)
    try:
        ray.init(
            **({"address": address} if address else own),
            runtime_env={"py_modules": packages, "excludes": ["**/__pycache__"]},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put its own there
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Connect to HOST:PORT once.

    Raises:
        ConnectionError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as exc:  # OverflowError: a port above 65,535
        raise ConnectionError(f"no connection ({exc})") from exc


def _results(ray: Any, work: Work, units: list[int]) -> Iterator[dict[str, Any]]:
    """The results of `Worker`, as they arrive."""
    data = ray.data
    context = data.DataContext.get_current()
    context.enable_progress_bars = False  # the job has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    actors = work.options.actors or int(ray.cluster_resources().get("CPU", 1))
    dataset = data.from_items(
        [{"unit": unit} for unit in units], override_num_blocks=min(len(units), MAX_TASKS)
    ).map_batches(
        Worker,
        fn_constructor_args=(JobPayload.of(work),),
        batch_size=1,
        num_cpus=1,
        compute=data.ActorPoolStrategy(size=min(actors, len(units))),
    )
    yield from dataset.iter_rows()


def _collect(results: Iterable[dict[str, Any]], units: list[int], done: Done) -> None:
    """Count each unit once; the first error stops the job."""
    remaining = set(units)
    for result in results:
        if result["error"]:
            raise pickle.loads(result["error"])
        if result["unit"] in remaining:
            remaining.remove(result["unit"])
            done(int(result["rows"]), int(result["failures"]))
    if remaining:
        raise ClusterError(
            f"{len(remaining):,} of {len(units):,} parts were not made",
            expected="all of them",
            hint="Run the same command again; it continues with these.",
        )


def _first_line(exc: BaseException) -> str:
    """An exception's message on one line; of a traceback, its end."""
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    return lines[-1] if isinstance(exc, RuntimeError) else lines[0]
