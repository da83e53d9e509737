"""`python -m training fit|evaluate`: parse, make settings, one call, translate errors."""

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from training.backend import load_tensorflow
from training.errors import TrainingError
from training.noise import DEFAULT_NOISE
from training.settings import PRESET_NAMES, SCHEDULES, TASKS, FitSettings

NOISE_HELP = f"gaussian:MEAN,STD, added and clipped to [0, 1] (default: {DEFAULT_NOISE})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 2 refused, 130 interrupted."""
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file grows with every epoch
    try:
        return _fit(options) if command == "fit" else _evaluate(options)
    except TrainingError as exc:
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


def _evaluate(options: dict[str, Any]) -> int:
    load_tensorflow()
    from training.evaluate import evaluate, table

    result = evaluate(options["run"], noise=options["noise"], dataset=options["dataset"])
    if options["json"]:
        print(json.dumps(result, indent=2))
    else:
        print(f"{result['run']} on {result['n']} images: {result['source']}")
        print(f"noise: {result['noise'] or 'none'}\n{table(result)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Train and measure denoising autoencoders."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="fit|evaluate")
    _add_fit(commands.add_parser("fit", help="train a network and write a run folder"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a finished run on test images"))
    return parser


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train a network and write a run folder."
    add = parser.add_argument
    add(
        "--dataset",
        help="digits, mnist, fashion-mnist, a .npz or .npy file, or a folder of pictures "
        "(default: digits, which needs no network)",
    )
    add("--out", required=True, metavar="DIR", help="the run folder to write, such as runs/article")
    add("--task", choices=TASKS, help="what to learn (default: denoise)")
    add("--preset", choices=PRESET_NAMES, help="the network (default: article)")
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
    add("--noise", metavar="SPEC", help=NOISE_HELP)
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
    parser.description = "Measure a finished run on test images, with the same noise every time."
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder, such as runs/article")
    add("--noise", metavar="SPEC", help="gaussian:MEAN,STD (default: the run's own)")
    add("--dataset", help="whose test split to use (default: the run's own, or its samples.npz)")
    add("--json", action="store_true", help="print JSON")


def _filters(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not N,N such as 32,64") from exc


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH such as 28x28")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
