"""Parity: do the files that ship compute what Keras computes?

The engine that will serve them runs every case; Keras runs the same arrays in double precision
(`export.exact`), so that what is measured is the error of the files alone. Differences are
measured as the largest over all values, images in absolute terms (they lie in [0, 1]), latents
relative to the largest latent of the case (they are unbounded).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from common.arrays import Array
from export.errors import ParityError
from export.exact import Exact
from service.engine import Engine

# float32 rounds at 6e-8; these networks sum up to some 3,000 products, in another order in each
# runtime. Observed differences are near 1e-6, a wrong weight shows from 1e-4 on.
LIMIT = 1e-5
BATCHES = (1, 7, 64, 1000)


@dataclass(frozen=True)
class Row:
    """One comparison. `difference` is in the unit that `limit` is in; both are dimensionless."""

    model: str
    case: str
    batch: int
    difference: float
    limit: float
    problem: str = ""

    @property
    def holds(self) -> bool:
        return not self.problem and self.difference <= self.limit


def compare(
    engine: Engine, models: Exact, *, clean: Array, noisy: Array, seed: int = 0
) -> list[Row]:
    """Every case at every batch size, for all three models and their composition.

    Args:
        engine: on the exported files.
        models: what the files were made from, as Keras computes it in double precision.
        clean: held-out images, float32 (N, H, W, C) in [0, 1].
        noisy: the same images with the run's noise.
        seed: of the uniform random images.
    """
    rows = []
    for case, images in _cases(clean, noisy, seed):
        for batch in [size for size in BATCHES if size < len(images)] + [min(1000, len(images))]:
            some = images[:batch]
            unit = some.astype(np.float32) / 255 if some.dtype == np.uint8 else some
            latents = models.encoder(unit)
            decoded = models.decoder(latents)
            denoised = models.autoencoder(unit)
            composed = engine.decode(engine.encode(some))
            whole = engine.denoise(some)
            rows += [
                _row("encoder", case, batch, engine.encode(some), latents, relative=True),
                _row("decoder", case, batch, engine.decode(latents), decoded),
                _row("autoencoder", case, batch, whole, denoised),
                _row("decoder(encoder)", case, batch, composed, whole),
            ]
    return rows


def enforce(rows: list[Row]) -> None:
    """Raise for the worst row that breaks its limit.

    Raises:
        ParityError: names model, case and batch.
    """
    broken = [row for row in rows if not row.holds]
    if not broken:
        return
    worst = max(broken, key=lambda row: (bool(row.problem), row.difference))
    raise ParityError(
        f"{worst.model} on {worst.case}, batch {worst.batch}: "
        + (worst.problem or f"differs from Keras by {worst.difference:.2e}")
        + f" ({len(broken)} of {len(rows)} comparisons fail)",
        expected=f"at most {worst.limit:.0e}",
        hint="No bundle was written. Compare the two graphs layer by layer from the input on.",
    )


def report(rows: list[Row]) -> dict[str, Any]:
    """`parity.json`: the largest difference by model, and every row."""
    return {"limit": LIMIT, **summary(rows), "rows": [asdict(row) for row in rows]}


def summary(rows: list[Row]) -> dict[str, Any]:
    """The largest difference by model."""
    worst: dict[str, float] = {}
    for row in rows:
        worst[row.model] = max(worst.get(row.model, 0.0), row.difference)
    return {"comparisons": len(rows), "largest_difference": worst}


def table(rows: list[Row]) -> str:
    """The comparisons as a table: a line for each model and case, the worst batch of each."""
    worst: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.model, row.case)
        if key not in worst or (row.holds, -row.difference) < (
            worst[key].holds,
            -worst[key].difference,
        ):
            worst[key] = row
    lines = [f"{'model':<18}{'images':<16}{'worst batch':>12}{'difference':>13}{'limit':>9}"]
    for row in worst.values():
        verdict = "ok" if row.holds else row.problem or "TOO LARGE"
        lines.append(
            f"{row.model:<18}{row.case:<16}{row.batch:>12,}{row.difference:>13.2e}"
            f"{row.limit:>9.0e}  {verdict}"
        )
    return "\n".join(lines)


def _cases(clean: Array, noisy: Array, seed: int) -> Iterator[tuple[str, Array]]:
    shape = (max(BATCHES), *clean.shape[1:])
    yield "held-out noisy", noisy
    yield "held-out uint8", np.rint(clean * 255).astype(np.uint8)
    yield "all zero", np.zeros(shape, np.float32)
    yield "all one", np.ones(shape, np.float32)
    yield "uniform random", np.random.default_rng(seed).random(shape, dtype=np.float32)


def _row(
    model: str, case: str, batch: int, found: Array, wanted: Array, *, relative: bool = False
) -> Row:
    """Compare dtype, shape, then values; NaN on either side never holds."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        problem = f"{found.dtype} {found.shape} where Keras gives {wanted.dtype} {wanted.shape}"
        return Row(model, case, batch, float("inf"), LIMIT, problem)
    scale = float(np.abs(wanted).max()) if relative else 1.0
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        difference = float(np.abs(found - wanted).max()) / (scale or 1.0)
    if not np.isfinite(difference):
        return Row(model, case, batch, float("inf"), LIMIT, "NaN or infinity")
    return Row(model, case, batch, difference, LIMIT)
