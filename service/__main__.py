"""python -m service info X · encode|decode|denoise INPUT --out OUTPUT · drift REFERENCE NEW"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from common.errors import DenoiserError
from service import describe as report
from service.bulk import command, describe
from service.bundle import Bundle
from service.drift import command as drift


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="what a bundle or an output is: identity, rows, origin")
    info.add_argument("path", type=Path, help="e.g. bundles/mnist or latents.parquet")
    command.add_commands(commands)
    drifted = commands.add_parser("drift", help="do new latents come from the same source?")
    drift.add_arguments(drifted)
    options = parser.parse_args(arguments)
    try:
        if options.command == "drift":
            return drift.run(options)
        if options.command != "info":
            return command.run(options)
        if describe.is_output(options.path):
            print(describe.describe(options.path))
        else:
            print(report.describe(Bundle.open(options.path)))
    except DenoiserError as exc:
        print(f"service: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:  # a full disk, a folder that may not be read
        print(f"service: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    if status == command.INTERRUPTED:  # engine threads may be inside a chunk: Python's own end
        sys.stdout.flush()  # would pull the interpreter from under them, which aborts
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
