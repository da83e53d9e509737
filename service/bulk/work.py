"""One unit of a job: read it, compute it, write its part. Whoever runs a job repeats this."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from common.arrays import Array
from common.errors import RangeError
from service.bulk import arrow
from service.bulk.batch import Batch, Existing, Failure, Source
from service.bulk.decoding.pictures import encode_all
from service.bulk.errors import UnreadableError
from service.bulk.models import Answer, Model
from service.bulk.options import BulkOptions
from service.bulk.parts import Part, Parts
from service.engine import ImageDtype
from service.runtime.pool import usable_cores


class Work:
    """The steps of a job, each for one unit. `read` and `write` may run beside `compute`.

    Attributes:
        options, model, source, parts: of the job.
        dtype: of the images that are written.
        as_png: images are written as PNG files, else as lists of numbers.
        existing: what the output has already; whoever opens the input again needs it.
    """

    def __init__(
        self,
        options: BulkOptions,
        *,
        model: Model,
        source: Source,
        parts: Parts,
        dtype: ImageDtype,
        as_png: bool,
        existing: Existing | None = None,
    ) -> None:
        self.options = options
        self.model = model
        self.source = source
        self.parts = parts
        self.dtype = dtype
        self.as_png = as_png
        self.existing = existing or Existing()
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="png")

    def read(self, unit: int) -> Batch:
        """The rows of a unit.

        Raises:
            UnreadableError: under `strict`, if one of them cannot be read.
        """
        batch = self.source.read(unit)
        self._check(batch.failures)
        return batch

    def compute(self, batch: Batch) -> Part:
        """Its answers, as the columns of a part."""
        batch, answer = self._answered(batch)
        self._check(batch.failures)
        columns: dict[str, Any] = {"id": batch.ids}
        if self.options.operation == "encode":
            columns["latent"] = arrow.lists(answer.rows)
        elif self.as_png:
            columns["image"] = arrow.load().array(encode_all(answer.rows, self._pool), "binary")
        else:
            columns["image"] = arrow.lists(answer.rows)
        if answer.scores is not None:
            columns["score"] = arrow.numbers(answer.scores)
        return Part(columns, batch.failures)

    def write(self, unit: int, part: Part) -> None:
        """Its part, on disk."""
        self.parts.write(unit, part)

    def close(self) -> None:
        self._pool.shutdown()

    def _answered(self, batch: Batch) -> tuple[Batch, Answer]:
        """Compute; rows whose values are out of range are set apart, the others computed."""
        try:
            return batch, self._run(batch.rows)
        except RangeError as exc:
            keep = _in_range(batch.rows, images=self.source.kind == "images")
            why = f"values out of range; expected {exc.expected}"
            failures = tuple(
                Failure(str(batch.ids[int(at)].as_py()), why) for at in np.flatnonzero(~keep)
            )
            batch = batch.only(keep, failures)
            return batch, self._run(batch.rows)

    def _run(self, rows: Array) -> Answer:
        return self.model.run(
            self.options.operation, rows, dtype=self.dtype, score=self.options.score
        )

    def _check(self, failures: tuple[Failure, ...]) -> None:
        if failures and self.options.strict:
            raise unreadable(failures[0])


def unreadable(failure: Failure) -> UnreadableError:
    """The error that stops a job under `strict`."""
    return UnreadableError(
        f"{failure.id}: {failure.reason}",
        expected="every row to be readable, with --strict",
        hint="Mend or remove it, or leave --strict out; what is done is kept.",
    )


def _in_range(rows: Array, *, images: bool) -> Array:
    """Bool (n): rows of numbers that the engine takes; False for NaN."""
    flat = rows.reshape(len(rows), -1)
    if images:
        return np.asarray((flat.min(axis=1) >= 0) & (flat.max(axis=1) <= 1))
    return np.asarray(np.isfinite(flat).all(axis=1))
