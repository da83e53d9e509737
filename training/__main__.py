"""`python -m training fit|evaluate|compare`: parse, make settings, one call, translate errors."""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from common.errors import DenoiserError
from training.backend import load_tensorflow
from training.noise.spec import DEFAULT_NOISE, HELP
from training.settings import PRESET_NAMES, SCHEDULES, TASKS, FitSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 2 refused, 130 interrupted."""
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file grows with every epoch
    try:
        return _fit(options) if command == "fit" else _measure(command, options)
    except DenoiserError as exc:
        print(f"error: {exc}", file=sys.stderr)
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
    print(f"\n{run.metrics['seconds']:.0f} s of training; the run is in {run.path}")
    return 0


def _measure(command: str, options: dict[str, Any]) -> int:
    load_tensorflow()
    from training.evaluation import compare, evaluate
    from training.evaluation.assess import assess
    from training.evaluation.summary import summarise
    from training.report.page import require_place, write_report

    runs, html, as_json = (options.pop(name) for name in ("runs", "html", "json"))
    if command == "compare":
        compare.require_several(runs)
    if html:
        require_place(html)
    assessment = assess(runs, **options)
    summary = summarise(assessment)
    if html:
        write_report(assessment, summary, html)
    if command == "compare":
        result, text = summary, compare.describe(summary)
    else:
        result = evaluate.evaluation(summary)
        text = evaluate.describe(result)
    print(json.dumps(result, indent=2, allow_nan=False) if as_json else text)
    if html and not as_json:
        print(f"report: {html}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Train and measure denoising autoencoders."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="fit|evaluate|compare")
    _add_fit(commands.add_parser("fit", help="train a network and write a run folder"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a finished run on test images"))
    _add_compare(commands.add_parser("compare", help="measure runs on the same noisy images"))
    return parser


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train a network and write a run folder."
    add = parser.add_argument
    add(
        "--dataset",
        help="digits, mnist, fashion-mnist, a .npz or .npy file, or a folder of pictures "
        "or of pairs in clean/ and noisy/ (default: digits, which needs no network)",
    )
    add("--out", required=True, metavar="DIR", help="the run folder to write, such as runs/classic")
    add("--task", choices=TASKS, help="what to learn (default: denoise)")
    add("--preset", choices=PRESET_NAMES, help="the network and its recipe (default: classic)")
    add("--filters", type=_filters, metavar="N,N", help="of each stride-2 layer (default: 32,64)")
    add("--latent-size", type=int, metavar="N", help="numbers an image (default: 16)")
    add("--kernel-size", type=int, metavar="N", help="of every convolution (default: 3)")
    add("--batch-size", type=int, metavar="N", help="images a step (default: 32)")
    add(
        "--epochs",
        type=int,
        metavar="N",
        help="(default: 10 to denoise, 1 to reconstruct; for digits 60 and 30)",
    )
    add(
        "--learning-rate",
        type=float,
        metavar="X",
        help="Adam's (default: 0.001, for digits 0.002)",
    )
    add("--schedule", choices=SCHEDULES, help="(default: constant, for digits cosine)")
    add(
        "--averaging",
        type=float,
        metavar="X",
        help="validate and keep a moving average of the weights with this momentum a step "
        "(default: 0.98 for standard; none for classic and for digits)",
    )
    add(
        "--freeze-after",
        type=int,
        metavar="N",
        help="fix batch normalisation at its averages after N epochs "
        "(default: 0.6 of them for standard; never for digits)",
    )
    add(
        "--patience",
        type=int,
        metavar="N",
        help="stop after N epochs without a lower validation loss, and keep the best epoch's "
        "weights (default: 10 for standard; for classic the last weights)",
    )
    add("--noise", metavar="SPEC", help=f"{HELP} (default: {DEFAULT_NOISE})")
    add("--start", metavar="RUN", help="go on from a finished run's weights (default: random)")
    add("--resize", type=_size, metavar="HxW", help="resize every image (default: as they are)")
    add("--seed", type=int, metavar="N", help="of weights, order and noise (default: 0)")
    add(
        "--resume",
        action="store_true",
        help="go on from the last finished epoch of a run that was stopped; "
        "starts anew where there is none",
    )
    add("--overwrite", action="store_true", help="replace a finished run, at the end")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure a finished run on test images, with the same noise every time: MSE, PSNR and "
        "SSIM with 95 % intervals, by strength of the noise, and what its latents know."
    )
    parser.add_argument("runs", nargs=1, metavar="RUN", help="a run folder, such as runs/classic")
    _add_measuring(parser)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure several finished runs on the same noisy images; differences to the first run "
        "are paired, image by image."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; the first is what others are held to"
    )
    _add_measuring(parser)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--noise", metavar="SPEC", help=f"{HELP} (default: the data's or the first run's own)")
    add("--dataset", help="whose test split to use (default: the runs' own, or samples.npz)")
    add(
        "--levels",
        type=_levels,
        metavar="X,X",
        help="factors of the noise's strength to measure at (default: 0.25,0.5,0.75,1,1.5,2)",
    )
    add(
        "--classical",
        nargs="?",
        type=lambda text: text.split(","),
        const=[],
        metavar="NAMES",
        help="measure classical denoisers beside, on some of the images: median,tv,wavelets,nlm,"
        "bm3d or some of them (default with the option alone: all); takes minutes",
    )
    add("--html", metavar="FILE", help="write a report as one HTML file")
    add("--json", action="store_true", help="print JSON, with every figure of the report")


def _filters(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not N,N such as 32,64") from exc


def _levels(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,X such as 0.5,1,2") from exc


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH such as 28x28")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
