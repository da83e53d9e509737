"""`python -m training fit|evaluate|compare`: parse, settings, one call, errors in one line."""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from common.errors import DenoiserError
from training.backend import load_tensorflow
from training.noise.ranges import LEVELS
from training.noise.spec import HELP
from training.settings import FitSettings

LOG = logging.getLogger("denoiser.training")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 2 refused, 130 interrupted."""
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file grows with every epoch
    LOG.handlers = [logging.StreamHandler(sys.stdout if command == "fit" else sys.stderr)]
    LOG.setLevel(logging.INFO)
    try:
        return _fit(options) if command == "fit" else _measure(command, options)
    except (DenoiserError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    except MemoryError as exc:
        what = str(exc).split(":")[-1].strip()[:120]
        print(f"error: not enough memory ({what}); expected images and a network that fit. "
              "Pass a smaller --batch-size, --resize or network, or save arrays uncompressed: "
              "then they stay on disk.", file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        return 130


def _fit(options: dict[str, Any]) -> int:
    out, resume, overwrite = (options.pop(name) for name in ("out", "resume", "overwrite"))
    settings = FitSettings.resolve(**options)
    load_tensorflow()
    from training.fit import fit

    verbose = 1 if sys.stdout.isatty() else 2
    run = fit(settings, out, resume=resume, overwrite=overwrite, verbose=verbose)
    LOG.info("\n%.0f s of training; the run is in %s", run.metrics["seconds"], run.path)
    return 0


def _measure(command: str, options: dict[str, Any]) -> int:
    load_tensorflow()
    from training.evaluation import text
    from training.evaluation.assess import assess, require_several
    from training.evaluation.summary import evaluation, summarise
    from training.report.page import require_place, write_report

    runs, html, as_json = (options.pop(name) for name in ("runs", "html", "json"))
    if command == "compare":
        require_several(runs)
    if html:
        require_place(html)
    assessment = assess(runs, **options)
    summary = summarise(assessment)
    if html:
        write_report(assessment, summary, html)
    result = summary if command == "compare" else evaluation(summary)
    describe = text.comparison if command == "compare" else text.evaluation
    print(json.dumps(result, indent=2, allow_nan=False) if as_json else describe(result))
    if html and not as_json:
        print(f"report: {html}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Train and measure denoising autoencoders."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="fit|evaluate|compare")
    _add_fit(commands.add_parser("fit", help="train a network and write a run folder"))
    evaluate = commands.add_parser("evaluate", help="measure a finished run on test images")
    evaluate.description = (
        "Measure a finished run on test images, with the same noise every time: MSE, PSNR and "
        "SSIM with 95 % intervals, by noise level, and how well classes can be read from latents."
    )
    evaluate.add_argument("runs", nargs=1, metavar="RUN", help="a run folder")
    _add_measuring(evaluate)
    compare = commands.add_parser("compare", help="measure runs on the same noisy images")
    compare.description = (
        "Measure several finished runs on the same noisy images; differences to the first run "
        "are paired, image by image."
    )
    runs = "run folders; the first is the baseline"
    compare.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    _add_measuring(compare)
    return parser


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train a network and write a run folder."
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="the run folder to write, such as runs/classic")
    for part in fields(FitSettings):
        add(f"--{part.name.replace('_', '-')}", **part.metadata)
    add(
        "--resume",
        action="store_true",
        help="continue a run that was stopped from its last finished epoch; start a new one where "
        "there is none",
    )
    add("--overwrite", action="store_true", help="replace a finished run, at the end")


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--noise", metavar="SPEC", help=f"{HELP} (default: the data's or the first run's own)")
    add("--dataset", help="the test split to use (default: the runs' own, or samples.npz)")
    add(
        "--levels",
        type=_levels,
        metavar="X,X",
        help="factors of the noise's strength to measure at "
        f"(default: {','.join(f'{level:g}' for level in LEVELS)})",
    )
    add(
        "--classical",
        nargs="?",
        type=lambda names: names.split(","),
        const=[],
        metavar="NAMES",
        help="also measure classical denoisers, on at most 500 of the images: "
        "median,tv,wavelets,nlm,bm3d or some of them (default with the option alone: all); "
        "takes minutes",
    )
    add("--html", metavar="FILE", help="write a report as one HTML file")
    add("--json", action="store_true", help="print JSON, with every number of the report")


def _levels(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,X such as 0.5,1,2") from exc


if __name__ == "__main__":
    sys.exit(main())
