"""The hidden folder beside an output while its job is unfinished.

.latents.parquet.parts/
    job.json             identity of the job, written first; without it nothing counts
    listing              of the input's files
    part-….arrow         one for each unit that is done (parts.py)
    result, result.…     the output and the files beside it, while they are written
    retired              the folder that the output replaces, for a moment
    finished.json        which file became the output, written before it gets its name
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.publishing import locked, make_stage
from service.bulk.errors import JobChangedError
from service.bulk.parts import Parts

JOB = "job.json"
FINISHED = "finished.json"
ERRORS = ".errors.csv"  # after the output's name: rows that could not be read


class Journal:
    """The folder of one output's job."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.parts")
        self.result = self.path / "result"
        self.parts = Parts(self.path)
        self._retired = self.path / "retired"
        self._done = self.path.with_name(f"{self.path.name}.done")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create and lock the folder; at the end remove it if it holds no part.

        Raises:
            TargetBusyError: another process has locked it.
        """
        make_stage(self.path)
        with locked(self.path):
            shutil.rmtree(self._done, ignore_errors=True)  # left by a kill in `remove`
            if self._retired.exists() and not self.target.exists():
                self._retired.rename(self.target)  # killed between the two renames of `publish`
            try:
                yield
            finally:
                kept = (self.path / FINISHED, self._retired)
                if not self.parts.done() and not any(path.exists() for path in kept):
                    shutil.rmtree(self.path, ignore_errors=True)

    def begin(self, job: Mapping[str, Any], *, overwrite: bool) -> bool:
        """Record the identity of the job; True if the existing parts are of the same job.

        Raises:
            JobChangedError: the parts are another job's, and `overwrite` is False.
        """
        job = json.loads(json.dumps(job))  # as it will be read
        before = _read(self.path / JOB)
        if before == job:
            return True
        if before is not None and not overwrite:
            raise JobChangedError(
                f"{self.path} holds parts of another job: {_difference(before, job)}",
                expected="the same input, options and model",
                hint="Run that job again to finish it, or add --overwrite to start anew.",
            )
        for path in [self.path / JOB, *self.path.glob("part-*"), self.path / FINISHED]:
            path.unlink(missing_ok=True)
        self.clear_result()
        _write(self.path / JOB, job)
        return False

    def finished(self) -> dict[str, Any] | None:
        """The `facts` of `publish`, if the existing output is the one that it published."""
        record = _read(self.path / FINISHED)
        if record is None or not self.target.exists():
            return None
        facts: dict[str, Any] = record["facts"]
        return facts if record["inode"] == self.target.stat().st_ino else None

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Rename `result` to the target; `finished` returns `facts` if a kill prevents `remove`."""
        _write(self.path / FINISHED, {"inode": self.result.stat().st_ino, "facts": facts})
        beside = {path.name.removeprefix("result"): path for path in self.path.glob("result.*")}
        if self.target.exists() and self.result.is_dir():
            self.target.rename(self._retired)
        elif self.target.is_symlink() or beside.keys() - {ERRORS}:
            self.target.unlink(missing_ok=True)  # no output rather than an old one, new metadata
        for suffix, path in beside.items():
            path.replace(f"{self.target}{suffix}")
        if ERRORS not in beside:
            self.target.with_name(self.target.name + ERRORS).unlink(missing_ok=True)
        self.result.replace(self.target)

    def remove(self) -> None:
        """Remove the folder, after one rename to a name under which it counts for nothing."""
        shutil.rmtree(self._done, ignore_errors=True)
        self.path.rename(self._done)
        shutil.rmtree(self._done, ignore_errors=True)

    def clear_result(self) -> None:
        """Remove an output that was not written to its end."""
        shutil.rmtree(self.result, ignore_errors=True)  # if it is a folder
        for path in self.path.glob("result*"):
            path.unlink()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first difference between two jobs: `input.bytes was 10, is now 20`."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return f"{name}.{_difference(old, new)}"
        return f"{name} was {json.dumps(old)[:80]}, is now {json.dumps(new)[:80]}"
    return "nothing"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
