"""`python -m benchmarks [SECTION …]`: parse, make settings, run the sections."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.settings import Settings

# Section → module with `run(settings, material, say)`: how fast one network runs. A module is
# imported when it is asked for.
SPEED = {
    "engine": "benchmarks.engine",
    "scaling": "benchmarks.scaling",
    "wire": "benchmarks.wire",
    "bulk": "benchmarks.bulk",
}
# Section → module with `run(settings, say)`: what answers are worth.
WORTH = {
    "search": "benchmarks.search",
    "learning": "benchmarks.learning",
    "novelty": "benchmarks.novelty",
}
# Asked for by name only: what LOG.md is made from.
EXTRA = {"ideas": "benchmarks.ideas"}
KNOWN = {**SPEED, **WORTH, **EXTRA}


def main(argv: Sequence[str] | None = None, *, say: Callable[[str], None] = print) -> int:
    """Run one section or all of them; the exit status."""
    options = _parser().parse_args(argv)
    settings = Settings(
        bundle=options.bundle,
        served=options.served,
        run=options.run,
        image_shape=options.image_shape,
        dataset=options.dataset,
        out=options.out,
        quick=options.quick,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    names = options.sections or [*SPEED, *WORTH]

    from benchmarks.agreement import DisagreementError
    from benchmarks.material import prepared
    from common.errors import DenoiserError
    from training.errors import TrainingError

    try:
        with ExitStack() as stack:
            material = None
            for name in names:
                section: Any = import_module(KNOWN[name])
                if name in WORTH:
                    section.run(settings, say)
                    continue
                material = material or stack.enter_context(prepared(settings))
                section.run(settings, material, say)
    except (DisagreementError, DenoiserError, TrainingError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "sections",
        nargs="*",
        type=_section,
        metavar="SECTION",
        help=f"of {', '.join(KNOWN)}; default: all but {', '.join(EXTRA)}",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        default=Path("bundles/classic"),
        help="whose network is measured; its shape counts, not its weights",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--run", type=Path, help="measure with the weights of this run folder")
    weights.add_argument(
        "--image-shape",
        type=_image_shape,
        metavar="HxWxC",
        help="the bundle's network for images of another shape, such as 64x64x3",
    )
    parser.add_argument(
        "--served",
        type=Path,
        default=Path("bundles/mnist"),
        help=f"whose answers are judged, by {', '.join(WORTH)}; they need --dataset",
    )
    parser.add_argument("--dataset", help="images for these, as in training")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="small numbers, in seconds")
    return parser


def _section(name: str) -> str:
    if name not in KNOWN:
        raise argparse.ArgumentTypeError(f"{name!r} is not a section; there are {', '.join(KNOWN)}")
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
