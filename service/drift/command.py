"""`python -m service drift REFERENCE NEW`: test whether new latents come from the same source.

Exit status: 0 no drift, 4 drift, 1 an input that cannot be compared, 2 wrong usage. The result is
reproducible: everything random is drawn with SEED.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from service.drift import figure, sample, statistics
from service.drift.sample import Sample
from service.drift.statistics import MAX_ALPHA, MIN_ALPHA, Drift

NO_DRIFT, DRIFT = 0, 4
SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to `parser`."""
    parser.epilog = "Exit status: 0 no drift, 4 drift, 1 cannot be compared, 2 wrong usage."
    parser.add_argument("reference", type=Path, help="Parquet file of reference latents")
    parser.add_argument("new", type=Path, help="Parquet file of new latents")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw both sets to this file")
    parser.add_argument(
        "--alpha",
        type=_alpha,
        default=0.01,
        help=f"false-alarm rate, {MIN_ALPHA} to {MAX_ALPHA} (default: 0.01)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Compare, draw, print; the exit status.

    Raises:
        FingerprintError: the files' latents come from different models.
        InputMissingError, InputError: no file, not latents, or too few of them.
        ExtraMissingError: scipy, pyarrow or, for the picture, matplotlib is not installed.
    """
    rng = np.random.default_rng(SEED)
    reference = sample.read(options.reference, rng=rng)
    new = sample.read(options.new, rng=rng)
    new.provenance.check_same(
        reference.provenance, mine=f"the latents in {new.path}", others=str(reference.path)
    )
    try:
        drift = statistics.compare(
            reference=reference.latents, new=new.latents, alpha=options.alpha, rng=rng
        )
        if options.picture:
            figure.draw(drift, reference=reference, new=new, path=options.picture)
    except ImportError as exc:
        raise sample.missing(exc.name or "package", exc) from exc
    if options.json:
        print(json.dumps(_facts(drift, reference, new), allow_nan=False))
    else:
        print(_text(drift, reference, new))
    return DRIFT if drift.detected else NO_DRIFT


def _facts(drift: Drift, reference: Sample, new: Sample) -> dict[str, Any]:
    """The whole result, as JSON types."""
    joint = {k: v for k, v in vars(drift.joint).items() if k != "under_null"}
    return {
        "drift": drift.detected,
        "alpha": drift.alpha,
        "fingerprint": reference.provenance.fingerprint,
        "reference": _sample_facts(reference),
        "new": _sample_facts(new),
        "joint": {**joint, "permutations": len(drift.joint.under_null)},
        "dimensions": [asdict(dimension) for dimension in drift.dimensions],
    }


def _sample_facts(sample: Sample) -> dict[str, Any]:
    return {
        "path": str(sample.path),
        "rows": sample.rows,
        "compared": len(sample.latents),
        "preprocessing": sample.provenance.preprocessing,
    }


def _text(drift: Drift, reference: Sample, new: Sample) -> str:
    """The result as text, one dimension per line."""
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
        f"{d.index:>9}{'*' if d.drifted else ' '}  {d.statistic:>11.3f}   "
        f"{d.p_value:>11.2g}   {d.wasserstein:>11.3f}  {d.shift:>+5.2f}   {d.spread:>9.2f}"
        for d in drift.dimensions
    ]
    lines += [
        "(the last three in standard deviations of the reference)",
        "",
        verdict(drift),
    ]
    before, after = (json.dumps(s.provenance.preprocessing) for s in (reference, new))
    if before != after:
        lines.append(f"The images were preprocessed differently: {before} and {after}.")
    return "\n".join(lines)


def verdict(drift: Drift) -> str:
    """The outcome in one line."""
    count = sum(dimension.drifted for dimension in drift.dimensions)
    if not drift.detected:
        return f"no drift (alpha {drift.alpha:g})"
    joint = "all dimensions together" if drift.joint.drifted else ""
    single = f"{count} of {len(drift.dimensions)} by themselves" if count else ""
    return f"DRIFT (alpha {drift.alpha:g}): {' and '.join(filter(None, [joint, single]))}"


def _size(sample: Sample) -> str:
    compared = len(sample.latents)
    part = f", {compared:,} of them compared" if compared < sample.rows else ""
    return f"{sample.path}: {sample.rows:,} latents{part}"


def _alpha(text: str) -> float:
    value = float(text)
    if not MIN_ALPHA <= value <= MAX_ALPHA:
        raise argparse.ArgumentTypeError(f"{text} is not from {MIN_ALPHA} to {MAX_ALPHA}")
    return value
