"""A bulk job, from its options to its output."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
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
from service.bulk.models import open_model
from service.bulk.options import BulkOptions
from service.bulk.outputs import PART_NAME, Format, assemble, format_of
from service.bulk.parts import Columns
from service.bulk.progress import progress
from service.bulk.provenance import FOLDER_FILE, Provenance
from service.bulk.sources.buckets import is_url
from service.bulk.sources.opening import open_source
from service.bulk.work import Work, check_strictly
from service.engine import ImageDtype

SCHEMA = 1  # of job.json and the parts

# Makes the parts of some units and reports each: `pipeline.run` or `ray.engine.run`.
Runner = Callable[[Work, Iterable[int], pipeline.Done], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a job did.

    Attributes:
        rows, failures: that it wrote; that failed.
        skipped: further frames or pages of files whose first one was read.
        resumed: rows that an earlier run had computed.
    """

    rows: int
    failures: int
    skipped: int = 0
    resumed: int = 0
    seconds: float = 0.0


def run(
    options: BulkOptions, *, names: Iterable[str] = (), runner: Runner = pipeline.run
) -> Outcome:
    """Do a job, or what remains of it; `runner` makes the parts. Remarks for the user are logged.

    `names` are names of image files, where the input is "-".

    Raises:
        DenoiserError: a bad input, output, model or option; finished parts are kept.
    """
    begin = time.perf_counter()
    arrow.load()
    output_format = format_of(options.out, options.writes)
    _check_options(options, output_format)
    journal = Journal(Path(options.out).absolute())
    with journal.locked(), ExitStack() as stack:
        if (facts := journal.finished()) is not None:
            journal.remove()
            return Outcome(**facts, resumed=facts["rows"])
        _check_target(options, journal.target)
        model = stack.enter_context(closing(open_model(options)))
        existing = sorted(journal.target.glob("part-*.parquet")) if options.append else []
        options = replace(options, first_id=_next_id(existing))
        source = stack.enter_context(
            closing(open_source(options, model.manifest, scratch=journal.path, names=names))
        )
        columns = _columns(options, output_format, source)
        work = Work(options, model, source, columns, journal.parts)
        for path in existing:
            _check_existing(path, work)
        for note in source.notes:
            logger.info(note)
        resumed = _compute(work, journal, _identity(work, output_format, existing), runner)
        rows, failed, skipped = _counts(work, range(source.units))
        journal.clear_result()
        if failed or skipped:
            _write_errors(work, journal.result.with_name(f"result{ERRORS}"))
        assemble(output_format, journal.result, work, rows=rows, existing=existing)
        journal.publish({"rows": rows, "failures": failed, "skipped": skipped})
        journal.remove()
        return Outcome(rows, failed, skipped, resumed, time.perf_counter() - begin)


def _identity(work: Work, output_format: Format, existing: list[Path]) -> dict[str, Any]:
    """What two runs must have in common to share their parts."""
    options = work.options
    return {
        "schema": SCHEMA,
        "version": __version__,
        "operation": options.operation,
        "input": dict(work.source.identity),
        "options": {"fit": options.fit, "invert": options.invert, "batch": options.batch},
        "output": {"format": output_format, **asdict(work.columns)},
        "model": work.model.manifest.fingerprint,
        "append_to": [[path.name, path.stat().st_size] for path in existing],
    }


def _compute(work: Work, journal: Journal, identity: dict[str, Any], runner: Runner) -> int:
    """Make the parts that are missing; how many rows were there before."""
    source, done = work.source, set[int]()
    if journal.begin(identity, overwrite=work.options.overwrite):
        done = work.parts.done()
        if done:
            logger.info("continuing after %s of %s parts", f"{len(done):,}", f"{source.units:,}")
    resumed, failed, _ = _counts(work, done)
    with progress(Path(work.options.out).name, total=source.total - resumed - failed) as advance:
        runner(work, [unit for unit in range(source.units) if unit not in done], advance)
    return resumed


def _counts(work: Work, units: Iterable[int]) -> tuple[int, int, int]:
    """Rows, failed rows, and skipped frames or pages in the parts of `units`."""
    rows = failed = skipped = 0
    for unit in units:
        part_rows, failures = work.parts.counts(unit)
        if work.options.strict:
            check_strictly(failures)
        rows += part_rows
        failed += sum(isinstance(why, str) for _, why in failures)
        skipped += sum(why for _, why in failures if isinstance(why, int))
    return rows, failed, skipped


def _write_errors(work: Work, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "error"])
        for unit in range(work.source.units):
            for name, why in work.parts.counts(unit)[1]:
                more = f"read; skipped further frames or pages: {why}"
                writer.writerow([name, more if isinstance(why, int) else why])


def _check_options(options: BulkOptions, output_format: Format) -> None:
    """Refuse options that do not go together, and outputs behind a URL."""
    if is_url(options.out):
        raise OutputNameError(
            f"--out {options.out}",
            expected="a path: outputs are written to this machine's file system",
            hint="Write a file here and copy it there.",
        )
    if options.out.encode("utf-8", "replace").decode() != options.out:
        raise OutputNameError(f"--out {options.out}", expected="a name in UTF-8")
    if options.append and output_format != "parquet-folder":
        raise OptionError(
            f"--append to {options.out}, which is no folder of Parquet files",
            expected="--append to such a folder, to which it adds a part file",
            hint="Write to a folder (--out latents/), or write a second file.",
        )
    files = output_format == "png-folder"
    for conflict, found in {
        "--append with --overwrite": options.append and options.overwrite,
        "--score for PNG files": files and options.score,
        "--dtype float32 for PNG files": files and options.dtype == "float32",
    }.items():
        if found:
            raise OptionError(conflict, expected="only one of them")


def _check_target(options: BulkOptions, target: Path) -> None:
    """Refuse to replace an output without --overwrite, or a folder of anything else."""
    if target.is_dir():
        names = [path.name for path in target.iterdir()]
        if not names and not target.is_symlink():
            return
        if FOLDER_FILE not in names and not all(PART_NAME.fullmatch(name) for name in names):
            raise TargetExistsError(
                f"{options.out} is a folder with other files in it",
                expected="a new name, or a folder that a bulk job wrote",
            )
    elif target.exists() and not target.is_file():
        raise TargetExistsError(f"{options.out} is a pipe or a device", expected="a file")
    replaces = target.exists() or target.is_symlink()
    if replaces and not (options.overwrite or options.append):
        raise TargetExistsError(
            f"{options.out} exists",
            expected="a new name",
            hint="Choose another --out, or add --overwrite; --append adds to a Parquet folder.",
        )


def _next_id(paths: list[Path]) -> int:
    """The first row number that is free, by the statistics of the column `id`; 0 for names."""
    footers = [arrow.parquet.read_metadata(path) for path in paths]
    groups = [footer.row_group(at) for footer in footers for at in range(footer.num_row_groups)]
    known = [group.column(0).statistics for group in groups]
    return max((one.max + 1 for one in known if one and isinstance(one.max, int)), default=0)


def _check_existing(path: Path, work: Work) -> None:
    """Refuse to append to rows of another model, or with other columns."""
    schema, model = arrow.parquet.read_schema(path), work.model.manifest
    if (provenance := Provenance.from_metadata(schema.metadata)) is None:
        raise FingerprintError(f"{path}, which names no model", expected="an output's metadata")
    provenance.check_same(model, mine=str(path), others=f"the model {model.name}")
    if schema.remove_metadata() != work.schema:
        names = [
            ", ".join(f"{field.name} {field.type}" for field in one)
            for one in (schema, work.schema)
        ]
        raise OptionError(
            f"{path} with the columns {names[0]}", expected=f"{names[1]}, as this job writes them"
        )


def _columns(options: BulkOptions, output_format: Format, source: Source) -> Columns:
    """The columns of the output; images of the input's dtype, of PNG files and decode uint8."""
    dtype: ImageDtype = options.dtype or ("uint8" if source.dtype == "uint8" else "float32")
    if output_format == "png-folder" or (options.dtype is None and options.operation == "decode"):
        dtype = "uint8"
    has_files = source.encoded or options.operation == "decode"
    return Columns(
        kind=options.writes,
        id_type=source.id_type,
        as_png=output_format == "png-folder"
        or (output_format.startswith("parquet") and dtype == "uint8" and has_files),
        dtype=dtype,
        scored=options.score,
    )
