"""A bulk job, from its options to its output."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import FingerprintError, OptionError
from common.publishing import TargetExistsError
from service import __version__
from service.bulk import arrow, pipeline
from service.bulk.batch import Source
from service.bulk.errors import OutputNameError
from service.bulk.journal import ERRORS, Journal
from service.bulk.models import Model, open_model
from service.bulk.options import BulkOptions
from service.bulk.outputs import PART_NAME, Assembly, Columns, Format, assemble, format_of
from service.bulk.parts import Parts
from service.bulk.progress import Progress
from service.bulk.provenance import FOLDER_FILE, ModelFacts, Provenance
from service.bulk.sources.buckets import is_url
from service.bulk.sources.opening import open_source
from service.bulk.work import Work, unreadable
from service.engine import ImageDtype

SCHEMA = 1  # of job.json and the parts

# Makes the parts of some units and reports each: `pipeline.run` or `ray.engine.run`.
Runner = Callable[[Work, Iterable[int], pipeline.Done], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        rows: written by this job; an output that was appended to has more.
        failures: rows that could not be read or computed.
        resumed: rows of these that an earlier, interrupted run had done.
        seconds: of this run.
    """

    rows: int
    failures: int
    resumed: int = 0
    seconds: float = 0.0


def run(
    options: BulkOptions, *, lines: Iterable[str] = (), runner: Runner = pipeline.run
) -> Outcome:
    """Do a job, or what remains of it. Remarks for the user are logged.

    Args:
        options: of the job.
        lines: names of image files, where the input is "-".
        runner: makes the parts.

    Raises:
        DenoiserError: a bad input, output, model or option; finished parts are kept.
    """
    begin = time.perf_counter()
    arrow.load()
    output_format = format_of(options.out, options.writes)
    _check_options(options, output_format)
    journal = Journal(Path(options.out).absolute())
    with journal.locked():
        if (facts := journal.finished()) is not None:
            journal.remove()
            return Outcome(**facts, resumed=facts["rows"])
        _check_target(options, journal.target)
        with closing(open_model(options)) as model:
            existing = _existing(options, journal.target, model.facts)
            options = replace(options, first_id=_next_id(existing))
            with closing(
                open_source(options, model.facts, scratch=journal.path, lines=lines)
            ) as source:
                job = _Job(options, output_format, model, source, journal, existing)
                return replace(job.run(runner), seconds=time.perf_counter() - begin)


class _Job:
    """A job whose input, model and output are open and checked."""

    def __init__(
        self,
        options: BulkOptions,
        output_format: Format,
        model: Model,
        source: Source,
        journal: Journal,
        existing: tuple[Path, ...],
    ) -> None:
        self._options = options
        self._format = output_format
        self._model = model
        self._source = source
        self._journal = journal
        self._existing = existing
        self._parts = Parts(journal.path)
        dtype = _dtype(options, output_format, source)
        has_files = source.encoded or options.operation == "decode"
        self._columns = Columns(
            kind=options.writes,
            numbered=source.numbered,
            as_png=output_format == "png-folder"
            or (output_format.startswith("parquet") and dtype == "uint8" and has_files),
            dtype=dtype,
            scored=options.score,
        )
        self._schema = self._columns.schema(model.facts)
        if existing:
            _check_columns(existing[0], self._schema)

    def run(self, runner: Runner) -> Outcome:
        source, options = self._source, self._options
        for note in source.notes:
            logger.info(note)
        if source.kind == "latents" and source.provenance is None:
            logger.info(
                "%s names no model; its latents are assumed to be of this one", options.input
            )
        done: set[int] = set()
        if self._journal.begin(self._identity(), overwrite=options.overwrite):
            done = self._parts.done()
            if done:
                logger.info(
                    "continuing after %s of %s parts", f"{len(done):,}", f"{source.units:,}"
                )
        resumed, failed = self._counts(done)
        work = Work(
            options, model=self._model, source=source, columns=self._columns, parts=self._parts
        )
        title = Path(options.out).name
        with closing(work), Progress(title, total=source.total - resumed - failed) as progress:
            runner(work, [u for u in range(source.units) if u not in done], progress.advance)
        return replace(self._publish(), resumed=resumed)

    def _identity(self) -> dict[str, Any]:
        """What two runs must have in common to share their parts."""
        options = self._options
        return {
            "schema": SCHEMA,
            "version": __version__,
            "operation": options.operation,
            "input": dict(self._source.identity),
            "options": {"fit": options.fit, "invert": options.invert, "batch": options.batch},
            "output": {"format": self._format, **asdict(self._columns)},
            "model": self._model.facts.fingerprint,
            "append_to": [[path.name, path.stat().st_size] for path in self._existing],
        }

    def _publish(self) -> Outcome:
        """Write the output from the parts and give it its name."""
        units = range(self._source.units)
        rows, failed = self._counts(units)
        self._journal.clear_result()
        if failed:
            self._write_errors(units)
        facts = self._model.facts
        assembly = Assembly(
            result=self._journal.result,
            tables=self._parts.tables(units),
            rows=rows,
            schema=self._schema,
            row_shape=facts.image_shape if self._columns.kind == "images" else (facts.latent_size,),
            provenance=Provenance.of(facts, self._options),
            existing=self._existing,
        )
        assemble(self._format, assembly)
        self._journal.publish({"rows": rows, "failures": failed})
        self._journal.remove()
        return Outcome(rows, failed)

    def _counts(self, units: Iterable[int]) -> tuple[int, int]:
        """Rows and failures in the parts of `units`."""
        rows = failed = 0
        for unit in units:
            part_rows, failures = self._parts.counts(unit)
            if failures and self._options.strict:
                raise unreadable(failures[0])
            rows += part_rows
            failed += len(failures)
        return rows, failed

    def _write_errors(self, units: Iterable[int]) -> None:
        path = self._journal.result.with_name(f"result{ERRORS}")
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "error"])
            for unit in units:
                writer.writerows((one.id, one.reason) for one in self._parts.counts(unit)[1])


def _check_options(options: BulkOptions, output_format: Format) -> None:
    """Refuse options that do not go together, and outputs behind a URL."""
    if is_url(options.out):
        raise OutputNameError(
            f"--out {options.out}",
            expected="a path: outputs are written to this machine's file system",
            hint="Write a file here and copy it there.",
        )
    if options.append and output_format != "parquet-folder":
        raise OptionError(
            f"--append to {options.out}, which is no folder of Parquet files",
            expected="--append to such a folder, to which it adds a part file",
            hint="Write to a folder (--out latents/), or write a second file.",
        )
    conflict = ""
    if options.append and options.overwrite:
        conflict = "--append with --overwrite"
    elif options.score and output_format == "png-folder":
        conflict = "--score for PNG files"
    elif options.dtype == "float32" and output_format == "png-folder":
        conflict = "--dtype float32 for PNG files"
    if conflict:
        raise OptionError(conflict, expected="only one of them")


def _check_target(options: BulkOptions, target: Path) -> None:
    """Refuse to replace an output without --overwrite, or a folder of anything else."""
    if target.is_dir():
        names = [path.name for path in target.iterdir()]
        if not names:
            return
        if FOLDER_FILE not in names and not all(PART_NAME.fullmatch(name) for name in names):
            raise TargetExistsError(
                f"{options.out} is a folder with other files in it",
                expected="a new name, or a folder that a bulk job wrote",
            )
    if target.exists() and not (options.overwrite or options.append):
        raise TargetExistsError(
            f"{options.out} exists",
            expected="a new name",
            hint="Choose another --out, or add --overwrite; --append adds to a Parquet folder.",
        )


def _existing(options: BulkOptions, target: Path, model: ModelFacts) -> tuple[Path, ...]:
    """The part files to which --append adds, all of them this model's.

    Raises:
        FingerprintError: they are another's, or name no model.
    """
    if not options.append:
        return ()
    paths = tuple(sorted(target.glob("part-*.parquet")))
    for path in paths:
        provenance = Provenance.from_metadata(arrow.parquet.read_schema(path).metadata)
        if provenance is None:
            raise FingerprintError(
                f"{path}, which names no model",
                expected="an output of this project, with its metadata",
                hint="Write to another folder.",
            )
        provenance.check_same(model, mine=str(path), others=f"the model {model.name}")
    return paths


def _next_id(paths: tuple[Path, ...]) -> int:
    """The first row number that is free, by the statistics of the column `id`; 0 for names."""
    result = 0
    for path in paths:
        metadata = arrow.parquet.read_metadata(path)
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(0).statistics
            if statistics is not None and isinstance(statistics.max, int):
                result = max(result, statistics.max + 1)
    return result


def _check_columns(path: Path, schema: Any) -> None:
    """Refuse to append rows with other columns."""
    existing = arrow.parquet.read_schema(path).remove_metadata()
    if existing != schema:
        raise OptionError(
            f"{path} with the columns {_names(existing)}",
            expected=f"{_names(schema)}, as this job writes them",
            hint="Append the same kind of rows and ids, with or without --score as before.",
        )


def _names(schema: Any) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _dtype(options: BulkOptions, output_format: Format, source: Source) -> ImageDtype:
    """Of the images that are written."""
    if output_format == "png-folder" or (options.dtype is None and options.operation == "decode"):
        return "uint8"
    return options.dtype or ("uint8" if source.dtype == "uint8" else "float32")
