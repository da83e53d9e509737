"""python -m service info BUNDLE"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from service import report
from service.bundle import Bundle
from service.errors import DenoiserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="what a bundle is: identity, quality, parity, files")
    info.add_argument("bundle", type=Path, help="e.g. bundles/mnist")
    options = parser.parse_args(arguments)
    try:
        print(report.describe(Bundle.open(options.bundle)))
    except DenoiserError as exc:
        print(f"service: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
