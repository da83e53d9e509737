"""Parity: the files that ship compute what Keras computes.

The engine that will serve them runs every case. Keras runs the same arrays in double precision
(`export.exact`), so that only the files' own error is measured. A difference is the largest over
all values: absolute for images, which lie in [0, 1]; for latents, which are unbounded, relative to
the largest latent of the case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from common.arrays import Array, to_floats
from export.errors import ParityError
from export.exact import Exact
from service.engine import Engine

# float32 rounds at 6e-8, and these networks sum up to 3,000 products, in another order in each
# runtime. Observed differences are near 1e-6; a wrong weight gives at least 1e-4.
LIMIT = 1e-5
BATCHES = (1, 7, 64, 1000)


@dataclass(frozen=True)
class Row:
    """One comparison; `difference` and `limit` are dimensionless."""

    model: str
    case: str
    batch: int
    difference: float
    limit: float
    problem: str = ""

    @property
    def holds(self) -> bool:
        """Whether shapes and dtypes are equal and the difference is within the limit."""
        return not self.problem and self.difference <= self.limit


def compare(
    engine: Engine, models: Exact, *, clean: Array, noisy: Array, seed: int = 0
) -> list[Row]:
    """Compare the three models and their composition, every case at every batch size.

    Args:
        engine: runs the exported files.
        models: the Keras models in double precision.
        clean: held-out images, float32 (N, H, W, C) in [0, 1].
        noisy: the same images with the run's noise.
        seed: of the uniform random images.
    """
    rows = []
    for case, images in _cases(clean, noisy, seed):
        for batch in [size for size in BATCHES if size < len(images)] + [min(1000, len(images))]:
            inputs = images[:batch]
            floats = to_floats(inputs) if inputs.dtype == np.uint8 else inputs
            latents = models.encoder(floats)
            encoded, denoised = engine.encode(inputs), engine.denoise(inputs)
            for model, result, expected in (
                ("encoder", encoded, latents),
                ("decoder", engine.decode(latents), models.decoder(latents)),
                ("autoencoder", denoised, models.autoencoder(floats)),
                ("decoder(encoder)", engine.decode(encoded), denoised),
            ):
                relative = model == "encoder"
                rows.append(_row(model, case, batch, result, expected, relative=relative))
    return rows


def enforce(rows: list[Row]) -> None:
    """Raise for the worst row beyond its limit.

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
        hint="No bundle was written. Compare the two graphs layer by layer, from the input on.",
    )


def report(rows: list[Row]) -> dict[str, Any]:
    """The content of `parity.json`: the largest difference by model, and every row."""
    return {"limit": LIMIT, **summary(rows), "rows": [asdict(row) for row in rows]}


def summary(rows: list[Row]) -> dict[str, Any]:
    """The largest difference by model."""
    worst: dict[str, float] = {}
    for row in rows:
        worst[row.model] = max(worst.get(row.model, 0.0), row.difference)
    return {"comparisons": len(rows), "largest_difference": worst}


def table(rows: list[Row]) -> str:
    """The comparisons as a table: the worst batch of each model and case."""
    worst: dict[tuple[str, str], Row] = {}
    for row in rows:
        before = worst.get((row.model, row.case), row)
        worst[row.model, row.case] = max(
            before, row, key=lambda row: (not row.holds, row.difference)
        )
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
    model: str, case: str, batch: int, result: Array, expected: Array, *, relative: bool = False
) -> Row:
    """Compare dtype, shape, then values; NaN on either side never holds."""
    if result.dtype != expected.dtype or result.shape != expected.shape:
        problem = f"{result.dtype} {result.shape}; Keras gives {expected.dtype} {expected.shape}"
        return Row(model, case, batch, float("inf"), LIMIT, problem)
    scale = float(np.abs(expected).max()) if relative else 1.0
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        difference = float(np.abs(result - expected).max()) / (scale or 1.0)
    if not np.isfinite(difference):
        return Row(model, case, batch, float("inf"), LIMIT, "NaN or infinity")
    return Row(model, case, batch, difference, LIMIT)
