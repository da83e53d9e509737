"""The units of a job on a Ray cluster: `--engine ray`.

Ray Data deals units out to a pool of actors, starts actors and tasks again when a worker or a node
dies, and streams finished parts back; they are written here, whole and once each, as the local
engine writes them. So a job that was begun with one engine may be finished with the other.
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
from pathlib import Path
from typing import Any

import service
from common.errors import OptionError
from service.bulk.errors import BulkError, ExtraMissingError
from service.bulk.parts import Part
from service.bulk.pipeline import Done
from service.bulk.ray.worker import Luggage, Reader, Worker
from service.bulk.work import Work
from service.runtime.pool import usable_cores

LOOPBACK = "127.0.0.1"
AUTO = "auto"  # the cluster of which this machine is a node
ANSWERS_WITHIN = 10.0  # seconds, the head of a cluster; Ray alone would try for many minutes
TASKS = 10_000  # into which units are put; each costs Ray some memory, and is lost as a whole


class ClusterError(BulkError):
    title = "The cluster cannot go on"


def run(work: Work, units: Iterable[int], done: Done) -> None:
    """Make the parts of `units`, in any order (see `service.bulk.job.Runner`).

    Raises:
        ExtraMissingError: Ray is not installed. OptionError: options that need the local engine.
        ClusterError: no cluster at `options.address`, or one that gave up.
        DenoiserError, OSError: what went wrong on a node, as it would here.
    """
    ray = load()
    _check(work)
    hint = list(units)
    if not hint:
        return
    try:
        with _connected(ray, address=work.options.address, actors=work.options.actors):
            _collect(_answers(ray, work, hint), work, hint, done)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as exc:
        where = work.options.address or "Ray on this machine"
        raise ClusterError(
            f"{where}: {_first_line(exc)}",
            expected="a cluster of this Ray and this Python, with what the service imports",
            hint="Look at Ray's own logs; the same command goes on with the parts that are done.",
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
        import ray.util.scheduling_strategies
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
        raise OptionError(
            "--url with --engine ray",
            expected="one of them: where the engines are",
            hint="Leave one out.",
        )
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
    package = Path(service.__file__).parent
    before = signal.getsignal(signal.SIGTERM)
    if address not in ("", AUTO):
        _knock(address)
    try:
        ray.init(
            **({"address": address} if address else own),
            runtime_env={"py_modules": [str(package)], "excludes": ["**/__pycache__"]},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put its own there
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Make sure that somebody listens at HOST:PORT.

    Raises:
        ConnectionError: nobody does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as exc:  # OverflowError: a port above 65,535
        raise ConnectionError(f"nobody answers ({exc})") from exc


def _answers(ray: Any, work: Work, hint: list[int]) -> Iterator[tuple[int, Any]]:
    """Each unit with its part, or with the error in its place, as they come."""
    data = ray.data
    context = data.DataContext.get_current()
    context.enable_progress_bars = False  # the job has its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    luggage = ray.put(Luggage.of(work))
    actors = work.options.actors or int(ray.cluster_resources().get("CPU", 1))
    dataset = data.from_items(
        [{"unit": unit} for unit in hint], override_num_blocks=min(len(hint), TASKS)
    ).map_batches(
        Worker,
        fn_constructor_args=(luggage, _reader(ray, luggage) if work.options.address else None),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        compute=data.ActorPoolStrategy(size=min(actors, len(hint))),
    )
    for batch in dataset.iter_batches(batch_size=1, batch_format="pyarrow"):
        (unit,), (part,) = batch.column("unit").to_pylist(), batch.column("part")
        yield unit, pickle.loads(part.as_buffer())


def _reader(ray: Any, luggage: Any) -> Any:
    """An actor on this node, for those that do not see the input: also those yet to join."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Reader).remote(luggage)


def _collect(answers: Iterable[tuple[int, Any]], work: Work, hint: list[int], done: Done) -> None:
    """Write each part once; the first error ends it."""
    left = set(hint)
    for unit, answer in answers:
        if not isinstance(answer, Part):
            raise answer
        if unit in left:
            work.write(unit, answer)
            left.remove(unit)
            done(len(answer.columns["id"]), len(answer.failures))
    if left:
        raise ClusterError(
            f"{len(left):,} of {len(hint):,} parts did not come back",
            expected="all of them",
            hint="Run the same command again; it goes on with these.",
        )


def _first_line(exc: BaseException) -> str:
    """What an exception says, on one line; of a traceback, its end."""
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    return lines[-1] if isinstance(exc, RuntimeError) else lines[0]
