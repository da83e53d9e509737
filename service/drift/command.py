"""`python -m service drift REFERENCE NEW`: do new latents still come from the same source?

Exit status: 0 no drift, 4 drift, 1 an input that cannot be compared, 2 wrong usage. The answer is
the same at each call: what is random comes from SEED.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from service.drift import figure as drift_picture
from service.drift import sample as drift_sample
from service.drift import statistics as drift_statistics
from service.drift.sample import Sample
from service.drift.statistics import MAX_ALPHA, MIN_ALPHA, Drift

NO_DRIFT, DRIFT = 0, 4
SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = "Exit status: 0 no drift, 4 drift, 1 cannot be compared, 2 wrong usage."
    parser.add_argument("reference", type=Path, help="Parquet file of latents as they should be")
    parser.add_argument("new", type=Path, help="Parquet file of latents to be judged")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw both sets into this file")
    parser.add_argument(
        "--alpha",
        type=_alpha,
        default=0.01,
        help=f"probability of a false alarm, {MIN_ALPHA} to {MAX_ALPHA} (default: 0.01)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Compare, tell, draw; the exit status.

    Raises:
        FingerprintError: the files' latents come from different models.
        InputMissingError, InputError: no file, one that is not of latents, or with too few of them.
        ExtraMissingError: scipy, pyarrow or, for the picture, matplotlib is not installed.
    """
    rng = np.random.default_rng(SEED)
    reference = drift_sample.read(options.reference, rng=rng)
    new = drift_sample.read(options.new, rng=rng)
    new.provenance.check_same(
        reference.provenance, mine=f"the latents in {new.path}", others=str(reference.path)
    )
    try:
        drift = drift_statistics.compare(
            reference=reference.latents, new=new.latents, alpha=options.alpha, rng=rng
        )
        if options.picture:
            drift_picture.draw(drift, reference=reference, new=new, path=options.picture)
    except ImportError as exc:
        raise drift_sample.missing(exc.name or "package", exc) from exc
    told = _facts(drift, reference, new)
    print(json.dumps(told, allow_nan=False) if options.json else _text(drift, reference, new))
    return DRIFT if drift.found else NO_DRIFT


def _facts(drift: Drift, reference: Sample, new: Sample) -> dict[str, Any]:
    """Everything that was found, as JSON types."""
    joint = {k: v for k, v in vars(drift.joint).items() if k != "under_null"}
    return {
        "drift": drift.found,
        "alpha": drift.alpha,
        "fingerprint": reference.provenance.fingerprint,
        "reference": _side(reference),
        "new": _side(new),
        "joint": {**joint, "permutations": len(drift.joint.under_null)},
        "dimensions": [asdict(one) for one in drift.dimensions],
    }


def _side(sample: Sample) -> dict[str, Any]:
    return {
        "path": str(sample.path),
        "rows": sample.rows,
        "compared": len(sample.latents),
        "preprocessing": sample.provenance.preprocessing,
    }


def _text(drift: Drift, reference: Sample, new: Sample) -> str:
    """The same for a person, one dimension a line."""
    joint = drift.joint
    lines = [
        f"reference  {_size(reference)}",
        f"new        {_size(new)}",
        f"model      {reference.provenance.fingerprint}",
        f"together   energy distance {joint.distance:.4f}, p = {joint.p_value:.3g} "
        f"({joint.rows[0]:,} and {joint.rows[1]:,} rows, {len(joint.under_null):,} permutations)",
        "",
        "dimension   largest gap   corrected p   Wasserstein   mean   deviation",
    ]
    lines += [
        f"{one.index:>9}{'*' if one.drifted else ' '}  {one.statistic:>11.3f}   "
        f"{one.p_value:>11.2g}   {one.wasserstein:>11.3f}  {one.shift:>+5.2f}   {one.spread:>9.2f}"
        for one in drift.dimensions
    ]
    lines += [
        "(the last three in standard deviations of the reference)",
        "",
        verdict(drift),
    ]
    ways = [json.dumps(one.provenance.preprocessing) for one in (reference, new)]
    if ways[0] != ways[1]:
        lines.append(f"The images were not read the same way: {ways[0]} and {ways[1]}.")
    return "\n".join(lines)


def verdict(drift: Drift) -> str:
    """The outcome in one line."""
    count = sum(one.drifted for one in drift.dimensions)
    if not drift.found:
        return f"no drift (alpha {drift.alpha:g})"
    together = "all dimensions together" if drift.joint.drifted else ""
    alone = f"{count} of {len(drift.dimensions)} by themselves" if count else ""
    return f"DRIFT (alpha {drift.alpha:g}): {' and '.join(filter(None, [together, alone]))}"


def _size(sample: Sample) -> str:
    compared = len(sample.latents)
    part = f", {compared:,} of them compared" if compared < sample.rows else ""
    return f"{sample.path}: {sample.rows:,} latents{part}"


def _alpha(text: str) -> float:
    value = float(text)
    if not MIN_ALPHA <= value <= MAX_ALPHA:
        raise argparse.ArgumentTypeError(f"{text} is not from {MIN_ALPHA} to {MAX_ALPHA}")
    return value
