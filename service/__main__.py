"""python -m service info X · encode|decode|denoise INPUT --out OUTPUT · drift REFERENCE NEW."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

from common.errors import DenoiserError
from service import describe
from service.bulk import command as bulk
from service.bulk import describe as bulk_describe
from service.bundle import Bundle
from service.drift import command as drift


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or log need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser(
        "info", help="describe a bundle or an output: identity, rows, origin"
    )
    info.add_argument("path", type=Path, help="e.g. bundles/mnist or latents.parquet")
    bulk.add_commands(commands)
    drift.add_arguments(commands.add_parser("drift", help="compare new latents with a reference"))
    options = parser.parse_args(arguments)
    try:
        if options.command == "drift":
            return drift.run(options)
        if options.command != "info":
            return bulk.run(options)
        if bulk_describe.is_output(options.path):
            print(bulk_describe.describe(options.path))
        else:
            print(describe.describe(Bundle.open(options.path)))
    except (DenoiserError, OSError) as exc:  # OSError: a full disk, a folder without permission
        print(f"service: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    if status == bulk.INTERRUPTED:
        # Engine threads may still be inside a chunk, and a normal exit would abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
