"""One unit of a job: read it, compute it, write its part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.arrays import Array
from common.errors import RangeError
from service.bulk import arrow
from service.bulk.batch import Batch, Failure, Source
from service.bulk.decoding.pictures import encode_all
from service.bulk.errors import UnreadableError
from service.bulk.models import Model, Result
from service.bulk.options import BulkOptions
from service.bulk.parts import Columns, Part, Parts


@dataclass(frozen=True)
class Work:
    """The steps of a job for one unit; `source.read` and `parts.write` may run beside `compute`."""

    options: BulkOptions
    model: Model
    source: Source
    columns: Columns
    parts: Parts

    def compute(self, batch: Batch) -> Part:
        """The results for a unit's rows, as the columns of a part.

        Raises:
            UnreadableError: one of them cannot be read or computed, under `strict`.
        """
        batch, (rows, scores) = self._results(batch)
        if self.options.strict:
            check_strictly(batch.failures)
        columns: dict[str, Any] = {"id": batch.ids}
        if self.columns.kind == "latents":
            columns["latent"] = arrow.lists(rows)
        elif self.columns.as_png:
            columns["image"] = arrow.array(encode_all(rows), "binary")
        else:
            columns["image"] = arrow.lists(rows)
        if scores is not None:
            columns["score"] = arrow.numbers(scores)
        return Part(columns, batch.failures)

    @property
    def schema(self) -> Any:
        """Of the parts and the output, without metadata."""
        return self.columns.schema(self.model.manifest)

    def _results(self, batch: Batch) -> tuple[Batch, Result]:
        """Compute; rows with values out of range become failures, the others are computed."""
        try:
            return batch, self._run(batch.rows)
        except RangeError as exc:
            bad = np.flatnonzero(~_in_range(batch.rows, images=self.source.kind == "images"))
            why = f"values out of range; expected {exc.expected}"
            batch = batch.without({int(at): why for at in bad})
            return batch, self._run(batch.rows)

    def _run(self, rows: Array) -> Result:
        return self.model.run(
            self.options.operation, rows, dtype=self.columns.dtype, score=self.columns.scored
        )


def check_strictly(failures: tuple[Failure, ...]) -> None:
    """Stop a job under `strict` at the first row that failed."""
    for name, why in failures:
        if isinstance(why, str):
            raise UnreadableError(
                f"{name}: {why}",
                expected="every row to be readable, with --strict",
                hint="Repair or remove it, or leave --strict out; finished parts are kept.",
            )


def _in_range(rows: Array, *, images: bool) -> Array:
    """Bool (n): rows whose numbers the engine accepts; False for NaN."""
    flat = rows.reshape(len(rows), -1)
    if images:
        return np.asarray((flat.min(axis=1) >= 0) & (flat.max(axis=1) <= 1))
    return np.asarray(np.isfinite(flat).all(axis=1))
