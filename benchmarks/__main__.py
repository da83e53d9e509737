"""`python -m benchmarks [SECTION]`: parse, make settings, run the sections."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.settings import Settings

# Section → module with `run(settings, material, say)`. A module is imported when it is asked for.
SECTIONS = {
    "engine": "benchmarks.engine",
    "scaling": "benchmarks.scaling",
    "wire": "benchmarks.wire",
}
# Asked for by name only: what LOG.md is made from.
EXTRA = {"ideas": "benchmarks.ideas"}


def main(argv: Sequence[str] | None = None, *, say: Callable[[str], None] = print) -> int:
    """Run one section or all of them; the exit status."""
    options = _parser().parse_args(argv)
    settings = Settings(
        bundle=options.bundle, run=options.run, out=options.out, quick=options.quick
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    names = list(SECTIONS) if options.section == "all" else [options.section]

    from benchmarks.agreement import DisagreementError
    from benchmarks.material import prepared
    from service.errors import DenoiserError
    from training.errors import TrainingError

    try:
        with prepared(settings) as material:
            for name in names:
                section: Any = import_module({**SECTIONS, **EXTRA}[name])
                section.run(settings, material, say)
    except (DisagreementError, DenoiserError, TrainingError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("section", nargs="?", default="all", choices=[*SECTIONS, *EXTRA, "all"])
    parser.add_argument(
        "--bundle",
        type=Path,
        default=Path("bundles/mnist"),
        help="whose network is measured; its shape counts, not its weights",
    )
    parser.add_argument("--run", type=Path, help="measure with the weights of this run folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="small numbers, in seconds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
