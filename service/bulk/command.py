"""`python -m service encode|decode|denoise`: arguments, messages, exit status."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from common.errors import OptionError
from service.bulk import job, pipeline
from service.bulk.job import Outcome, Runner
from service.bulk.journal import ERRORS
from service.bulk.options import BulkOptions, Operation
from service.bulk.ray import engine as ray_engine
from service.bulk.sources.files import names_on
from service.bulk.sources.opening import INPUTS
from service.bundle import PRECISIONS
from service.settings import Settings

UNREADABLE = 3  # exit status: finished, but some rows could not be read
INTERRUPTED = 130

HELP: dict[Operation, str] = {
    "encode": "images to latents: .parquet or .npy",
    "decode": "latents to images: .parquet, .npy or a folder of PNG files",
    "denoise": "noisy images to clean ones: .parquet, .npy or a folder of PNG files",
}
SETTINGS = ("bundle", "precision", "threads", "api_key")  # defaults that the environment sets
RUNNERS: dict[str, Runner] = {"local": pipeline.run, "ray": ray_engine.run}

logger = logging.getLogger("service.bulk")


def add_commands(commands: Any) -> None:
    """Add encode, decode and denoise to the subparsers of `python -m service`."""
    for operation, about in HELP.items():
        parser = commands.add_parser(operation, help=about, description=about)
        _add_arguments(parser, operation)


def _add_arguments(parser: argparse.ArgumentParser, operation: Operation) -> None:
    reads = "latents" if operation == "decode" else "images"
    add = parser.add_argument
    add("input", help=INPUTS[reads])
    add("--out", required=True, help="its name determines the format; a / at the end: a folder")
    add("--bundle", type=Path, help="folder of the bundle (DENOISER_BUNDLE)")
    add("--precision", choices=PRECISIONS, help="of the engine (DENOISER_PRECISION)")
    add("--threads", type=_count, help="of the engine; default: one per core")
    add("--url", default="", help="compute with this service; DENOISER_API_KEY is sent to it")
    add("--engine", choices=RUNNERS, default="local", help="where the parts are computed")
    add("--address", help="of a Ray cluster, or auto; default: start Ray on this machine")
    add("--actors", type=_count, help="of Ray, one CPU each; default: all CPUs")
    add("--column", default="", help="of a Parquet file, or array of an .npz, where several fit")
    add("--batch", type=_count, default=0, help="rows per part; Parquet has its row groups")
    if reads == "images":
        add("--fit", choices=("contain", "stretch"), help="resize image files to the model's size")
        add("--invert", action="store_true", help="image files are dark ink on light paper")
        add("--score", action="store_true", help="add the novelty score of each image, 0 to 1")
    if operation != "encode":
        add("--dtype", choices=("uint8", "float32"), help="of the images that are written")
    add("--strict", action="store_true", help="stop at the first row that cannot be read")
    add("--overwrite", action="store_true", help="replace OUT, and parts of another job")
    add("--append", action="store_true", help="add a part file to a folder of Parquet files")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _options(arguments: argparse.Namespace, settings: Settings) -> BulkOptions:
    """The options of a command line, with the defaults of `settings`."""
    names = {field.name for field in dataclasses.fields(BulkOptions)}
    values = {name: getattr(settings, name) for name in SETTINGS}
    values |= {k: v for k, v in vars(arguments).items() if k in names and v is not None}
    return BulkOptions(operation=arguments.command, **values)


def run(arguments: argparse.Namespace) -> int:
    """Do the job and return the exit status; the caller reports errors."""
    if arguments.engine != "ray" and (arguments.address is not None or arguments.actors):
        raise OptionError("--address or --actors without ray", expected="--engine ray with them")
    options = _options(arguments, Settings.from_environment())
    remarks = logging.StreamHandler(sys.stderr)
    remarks.setFormatter(logging.Formatter("service: %(message)s"))
    logger.addHandler(remarks)
    logger.setLevel(logging.INFO)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
    try:
        outcome = job.run(options, names=names_on(sys.stdin), runner=RUNNERS[arguments.engine])
        print(_summary(options, outcome))
        listed = options.out.rstrip("/") + ERRORS
        if outcome.skipped:
            logger.info("further frames or pages not read: %s: %s", f"{outcome.skipped:,}", listed)
        if outcome.failures:
            count = f"{outcome.failures:,} {'row' if outcome.failures == 1 else 'rows'}"
            logger.info("%s could not be read: %s", count, listed)
        return UNREADABLE if outcome.failures else 0
    except KeyboardInterrupt:
        logger.info("stopped; the same command continues with %s", options.out)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
        logger.removeHandler(remarks)


def _summary(options: BulkOptions, outcome: Outcome) -> str:
    """`latents.parquet: 70,000 rows (4.2 s, 16,667 rows/s)`."""
    fresh = outcome.rows - outcome.resumed
    rate = f", {fresh / outcome.seconds:,.0f} rows/s" if fresh and outcome.seconds else ""
    before = f", {outcome.resumed:,} of them before" if outcome.resumed else ""
    return f"{options.out}: {outcome.rows:,} rows{before} ({outcome.seconds:.1f} s{rate})"
