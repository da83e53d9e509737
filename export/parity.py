"""Parity: the files that ship compute what Keras computes.

The engine that will serve them runs every case. Keras runs the same arrays in double precision
(`export.exact`), so that only the files' own error is measured. A difference is the largest over
all values: absolute for images, which lie in [0, 1]; for latents, which are unbounded, relative to
the largest latent of the case. Batches of large images are compared in chunks, each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from common.arrays import Array, to_bytes, to_floats
from export.chunks import chunks
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


def _severity(row: Row) -> tuple[bool, float]:
    """The order of rows: those that do not hold last, each by its difference."""
    return not row.holds, row.difference


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
    for case, draw in _cases(clean, noisy, seed):
        most = min(max(BATCHES), len(clean)) if case.startswith("held-out") else max(BATCHES)
        for batch in sorted({*(size for size in BATCHES if size < most), most}):
            worst: dict[str, Row] = {}
            for chunk in chunks(batch, clean.shape[1:]):
                for row in _compared(engine, models, case, draw(chunk)):
                    worst[row.model] = max(worst.get(row.model, row), row, key=_severity)
            rows += [replace(row, batch=batch) for row in worst.values()]
    return rows


def enforce(rows: list[Row]) -> None:
    """Raise for the worst row beyond its limit.

    Raises:
        ParityError: names model, case and batch.
    """
    broken = [row for row in rows if not row.holds]
    if not broken:
        return
    worst = max(broken, key=_severity)
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
        worst[row.model, row.case] = max(before, row, key=_severity)
    lines = [f"{'model':<18}{'images':<16}{'worst batch':>12}{'difference':>13}{'limit':>9}"]
    for row in worst.values():
        verdict = "ok" if row.holds else row.problem or "TOO LARGE"
        lines.append(
            f"{row.model:<18}{row.case:<16}{row.batch:>12,}{row.difference:>13.2e}"
            f"{row.limit:>9.0e}  {verdict}"
        )
    return "\n".join(lines)


def _cases(clean: Array, noisy: Array, seed: int) -> Iterator[tuple[str, Callable[[slice], Array]]]:
    """Name → a function that gives the images of a slice, float32 or uint8 (n, H, W, C)."""
    rng = np.random.default_rng(seed)

    def shape(chunk: slice) -> tuple[int, ...]:
        return chunk.stop - chunk.start, *clean.shape[1:]

    def random(chunk: slice) -> Array:
        nonlocal rng
        if chunk.start == 0:  # each batch begins with the same images
            rng = np.random.default_rng(seed)
        return rng.random(shape(chunk), dtype=np.float32)

    yield "held-out noisy", lambda chunk: noisy[chunk]
    yield "held-out uint8", lambda chunk: to_bytes(clean[chunk])
    yield "all zero", lambda chunk: np.zeros(shape(chunk), np.float32)
    yield "all one", lambda chunk: np.ones(shape(chunk), np.float32)
    yield "uniform random", random


def _compared(engine: Engine, models: Exact, case: str, images: Array) -> Iterator[Row]:
    """One row per model for one chunk of a batch."""
    floats = to_floats(images) if images.dtype == np.uint8 else images
    latents = models.encoder(floats)
    encoded, denoised = engine.encode(images), engine.denoise(images)
    for model, result, expected in (
        ("encoder", encoded, latents),
        ("decoder", engine.decode(latents), models.decoder(latents)),
        ("autoencoder", denoised, models.autoencoder(floats)),
        ("decoder(encoder)", engine.decode(encoded), denoised),
    ):
        relative = model == "encoder"
        yield _row(model, case, len(images), result, expected, relative=relative)


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
