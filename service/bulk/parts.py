"""Part files: the result of one unit, in one Arrow file that exists whole or not at all.

    part-0000012.arrow      columns id; latent or image; score
                            metadata: rows that failed, as JSON [[id, reason], …]

Arrow's own file format is written as fast as the bytes and is mapped without a copy. The output is
compressed once, at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from uuid import uuid4

from service.bulk import arrow
from service.bulk.batch import Failure
from service.bulk.options import IdType, Kind
from service.bundle import Manifest
from service.engine import ImageDtype

_FAILURES = b"failures"


@dataclass(frozen=True)
class Part:
    """columns: name → pyarrow array (n), `id` first. failures: as in `Batch`."""

    columns: dict[str, Any]
    failures: tuple[Failure, ...]

    @property
    def counts(self) -> tuple[int, int]:
        """Rows, failed rows."""
        return len(self.columns["id"]), sum(isinstance(why, str) for _, why in self.failures)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of the parts and the output."""

    kind: Kind  # of the rows
    id_type: IdType
    as_png: bool  # images are PNG files, else lists of numbers
    dtype: ImageDtype  # of images that are lists
    scored: bool  # there is a column `score`

    def schema(self, model: Manifest) -> Any:
        """As an Arrow schema, without metadata."""
        exact = self.kind == "latents" or self.dtype == "float32"
        number = arrow.float32() if exact else arrow.uint8()
        value = arrow.list_(number, prod(model.row_shape(self.kind)))
        if self.kind == "images" and self.as_png:
            value = arrow.binary()
        name = "latent" if self.kind == "latents" else "image"
        fields = [("id", arrow.type_for_alias(self.id_type)), (name, value)]
        return arrow.schema([*fields, ("score", arrow.float32())] if self.scored else fields)


class Parts:
    """The parts in a folder, by the index of their unit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, index: int) -> Path:
        """Where the part of a unit is."""
        return self.folder / f"part-{index:07d}.arrow"

    def done(self) -> set[int]:
        """Units that have their part."""
        return {int(path.stem.removeprefix("part-")) for path in self.folder.glob("part-*.arrow")}

    def write(self, index: int, part: Part) -> None:
        """Write one part; it gets its name when all of it is on disk.

        Two processes may write the same part: Ray repeats what it believes lost.
        """
        failures = json.dumps(part.failures)
        table = arrow.table(part.columns).replace_schema_metadata({_FAILURES: failures.encode()})
        path = self.path(index)
        temporary = path.with_suffix(f".{uuid4().hex}.new")
        with temporary.open("wb") as file:
            with arrow.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)

    def counts(self, index: int) -> tuple[int, tuple[Failure, ...]]:
        """How many rows a part has, and its failures."""
        with arrow.memory_map(str(self.path(index))) as file:
            reader = arrow.ipc.open_file(file)
            rows = sum(reader.get_batch(at).num_rows for at in range(reader.num_record_batches))
            failures = json.loads(reader.schema.metadata[_FAILURES])
        return rows, tuple(Failure(*failure) for failure in failures)

    def tables(self, indices: Iterable[int]) -> Iterator[Any]:
        """The rows of parts, one mapped table each, valid until the next is requested."""
        for index in indices:
            with arrow.memory_map(str(self.path(index))) as file:
                yield arrow.ipc.open_file(file).read_all().replace_schema_metadata(None)
