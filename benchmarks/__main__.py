"""Command line: `python -m benchmarks [SECTION …]`."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks.settings import Settings

# Sections with `run(settings, models)`: how fast one network runs.
SPEED = ("engine", "scaling", "wire", "bulk")
# Sections with `run(settings)`: how good its output is.
QUALITY = ("search", "learning", "novelty")
SECTIONS = (*SPEED, *QUALITY)


def main(argv: Sequence[str] | None = None) -> int:
    """Run some sections or all; the exit status."""
    options = vars(_parser().parse_args(argv))
    names = options.pop("sections") or SECTIONS
    settings = Settings(**options)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)

    from benchmarks.agreement import DisagreementError
    from benchmarks.models import prepare_models
    from common.errors import DenoiserError

    try:
        with ExitStack() as stack:
            models = None
            for name in names:
                section: Any = import_module(f"benchmarks.{name}")
                if name in QUALITY:
                    section.run(settings)
                    continue
                models = models or stack.enter_context(prepare_models(settings))
                section.run(settings, models)
    except (DisagreementError, DenoiserError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    """Options that are not passed stay out of the namespace: `Settings` has the defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=benchmarks.__doc__,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    listed = f"of {', '.join(SECTIONS)}; default: all"
    add("sections", nargs="*", type=_section, default=[], metavar="SECTION", help=listed)
    add("--bundle", type=Path, help="whose network is measured; its shape counts, not its weights")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--run", type=Path, help="measure with the weights of this run folder")
    weights.add_argument(
        "--image-shape",
        type=_image_shape,
        metavar="HxWxC",
        help="the bundle's network for images of another shape, such as 64x64x3",
    )
    add("--served", type=Path, help=f"bundle for {', '.join(QUALITY)}; they need --dataset")
    add("--dataset", help="images for these, as in training")
    add("--out", type=Path, help="folder of the results")
    add("--quick", action="store_true", help="small numbers, in seconds")
    return parser


def _section(name: str) -> str:
    if name not in SECTIONS:
        known = ", ".join(SECTIONS)
        raise argparse.ArgumentTypeError(f"{name!r} is not a section; there are {known}")
    return name


def _image_shape(text: str) -> tuple[int, int, int]:
    sides = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([13])", text)
    if sides is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HEIGHTxWIDTHxCHANNELS with 1 or 3 channels, such as 64x64x3"
        )
    height, width, channels = map(int, sides.groups())
    return height, width, channels


if __name__ == "__main__":
    sys.exit(main())
