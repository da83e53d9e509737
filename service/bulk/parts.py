"""One part: the answers of one unit and what failed in it, in one Arrow file, there whole or not.

    part-0000012.arrow      columns id; latent or image; score
                            metadata: rows that failed, as JSON [[id, reason], …]

Arrow's own file format costs no more than writing the bytes, and is mapped back without a copy;
outputs are compressed once, at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.bulk import arrow
from service.bulk.batch import Failure

_FAILURES = b"failures"


@dataclass(frozen=True)
class Part:
    """columns: name → pyarrow array (n), `id` first. failures: of the unit's other rows."""

    columns: dict[str, Any]
    failures: tuple[Failure, ...]


class Parts:
    """The parts in a folder, by the index of their unit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, index: int) -> Path:
        return self._folder / f"part-{index:07d}.arrow"

    def done(self) -> set[int]:
        """Units that have their part."""
        return {int(path.stem.removeprefix("part-")) for path in self._folder.glob("part-*.arrow")}

    def write(self, index: int, part: Part) -> None:
        """Write one part: its name appears when all of it is on disk."""
        pa = arrow.load()
        told = json.dumps([[failure.id, failure.reason] for failure in part.failures])
        table = pa.table(part.columns).replace_schema_metadata({_FAILURES: told.encode()})
        path = self.path(index)
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)

    def facts(self, index: int) -> tuple[int, tuple[Failure, ...]]:
        """How many rows a part has, and what failed."""
        pa = arrow.load()
        with pa.memory_map(str(self.path(index))) as file:
            reader = pa.ipc.open_file(file)
            rows = sum(reader.get_batch(at).num_rows for at in range(reader.num_record_batches))
            told = json.loads(reader.schema.metadata[_FAILURES])
        return rows, tuple(Failure(*one) for one in told)

    def tables(self, indices: Iterable[int]) -> Iterator[Any]:
        """The rows of parts, one table each, mapped while the next one is not asked for."""
        pa = arrow.load()
        for index in indices:
            with pa.memory_map(str(self.path(index))) as file:
                yield pa.ipc.open_file(file).read_all().replace_schema_metadata(None)
