"""A bulk job from its options to its output."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import FingerprintError, OptionError
from common.publishing import TargetExistsError
from service import __version__
from service.bulk import arrow, pipeline
from service.bulk.batch import Existing, Source
from service.bulk.errors import OutputNameError
from service.bulk.journal import ERRORS, Journal
from service.bulk.models import Model, open_model
from service.bulk.options import BulkOptions
from service.bulk.outputs import PART_NAME, Assembly, Columns, Form, assemble, form_of
from service.bulk.parts import Parts
from service.bulk.progress import Progress
from service.bulk.provenance import FOLDER_FILE, ModelFacts, Provenance
from service.bulk.sources.buckets import is_url
from service.bulk.sources.opening import open_source
from service.bulk.work import Work, unreadable
from service.engine import ImageDtype

SCHEMA = 1  # of job.json and the parts

# Makes the parts of some units and says when each is done: `pipeline.run`, or another of its kind.
Runner = Callable[[Work, Iterable[int], pipeline.Done], None]


@dataclass(frozen=True)
class Outcome:
    """What a job left.

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
    options: BulkOptions,
    *,
    lines: Iterable[str] = (),
    say: Callable[[str], None] = print,
    runner: Runner = pipeline.run,
) -> Outcome:
    """Do a job, or what is left of it.

    Args:
        lines: names of image files, where the input is "-".
        say: takes remarks for a person, one line each.
        runner: who makes the parts.

    Raises:
        DenoiserError: what is wrong with input, output, model or options; parts are kept.
    """
    begin = time.perf_counter()
    arrow.load()
    form = form_of(options.out, options.writes)
    _check_options(options, form)
    journal = Journal(Path(options.out).absolute())
    with journal.locked():
        if (facts := journal.finished()) is not None:
            journal.remove()
            return Outcome(**facts, resumed=facts["rows"])
        _check_target(options, journal.target)
        with closing(open_model(options)) as model:
            base = _base(options, form, journal.target, model.facts)
            with closing(
                open_source(
                    options, model.facts, scratch=journal.path, lines=lines, existing=Existing(base)
                )
            ) as source:
                job = _Job(options, form, model, source, journal, base)
                return job.run(begin, say, runner)


class _Job:
    """A job whose parts are settled: what is read, what computes, what comes out."""

    def __init__(
        self,
        options: BulkOptions,
        form: Form,
        model: Model,
        source: Source,
        journal: Journal,
        base: tuple[Path, ...],
    ) -> None:
        self._options = options
        self._form = form
        self._model = model
        self._source = source
        self._journal = journal
        self._base = base
        self._parts = Parts(journal.path)
        self._provenance = Provenance.of(model.facts, options)
        dtype = _dtype(options, form, source)
        files_came = source.encoded or options.operation == "decode"
        self._columns = Columns(
            kind=options.writes,
            numbered=source.numbered,
            as_png=form == "png-folder"
            or (form.startswith("parquet") and dtype == "uint8" and files_came),
            dtype=dtype,
            scored=options.score,
        )
        self._schema = self._columns.schema(model.facts)
        if base:
            _check_columns(base[0], self._schema)

    def run(self, begin: float, say: Callable[[str], None], runner: Runner) -> Outcome:
        for note in self._source.notes:
            say(note)
        if self._source.kind == "latents" and self._source.provenance is None:
            say(f"{self._options.input} does not name its model: taken to be this one's latents")
        resumed = 0
        if self._journal.begin(self._identity(), overwrite=self._options.overwrite):
            done = self._parts.done()
            resumed = self._counts(done)[0]
            if done:
                say(f"going on after {len(done):,} of {self._source.units:,} parts")
        else:
            done = set()
        self._compute(done, runner)
        rows, failures = self._finish()
        return Outcome(rows, failures, resumed, time.perf_counter() - begin)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for parts of one run to serve another."""
        options = self._options
        return {
            "schema": SCHEMA,
            "version": __version__,
            "operation": options.operation,
            "input": dict(self._source.identity),
            "options": {"fit": options.fit, "invert": options.invert, "batch": options.batch},
            "output": {"form": self._form, **asdict(self._columns)},
            "model": self._model.facts.fingerprint,
            "append_to": [[path.name, path.stat().st_size] for path in self._base],
        }

    def _compute(self, done: set[int], runner: Runner) -> None:
        """Make the parts that are not there yet."""
        units = [unit for unit in range(self._source.units) if unit not in done]
        work = Work(
            self._options,
            model=self._model,
            source=self._source,
            parts=self._parts,
            dtype=self._columns.dtype,
            as_png=self._columns.as_png,
            existing=Existing(self._base),
        )
        title, before = Path(self._options.out).name, sum(self._counts(done))
        with closing(work), Progress(title, total=self._source.total - before) as progress:
            runner(work, units, progress.advance)

    def _finish(self) -> tuple[int, int]:
        """Put the parts together, give the output its name; rows and failures."""
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
            row=(facts.latent_size,) if self._options.writes == "latents" else facts.image_shape,
            provenance=self._provenance,
            base=self._base,
        )
        assemble(self._form, assembly)
        self._journal.publish({"rows": rows, "failures": failed})
        self._journal.remove()
        return rows, failed

    def _counts(self, units: Iterable[int]) -> tuple[int, int]:
        """Rows and failures in some parts."""
        rows = failed = 0
        for unit in units:
            here, failures = self._parts.facts(unit)
            if failures and self._options.strict:
                raise unreadable(failures[0])
            rows += here
            failed += len(failures)
        return rows, failed

    def _write_errors(self, units: Iterable[int]) -> None:
        path = self._journal.result.with_name(f"result{ERRORS}")
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "error"])
            for unit in units:
                writer.writerows((one.id, one.reason) for one in self._parts.facts(unit)[1])


def _check_options(options: BulkOptions, form: Form) -> None:
    """Refuse options that do not go together, and outputs elsewhere."""
    if is_url(options.out):
        raise OutputNameError(
            f"--out {options.out}",
            expected="a path: outputs are written on this machine",
            hint="Write a file here and copy it there.",
        )
    wrong = ""
    if options.append and options.overwrite:
        wrong = "--append with --overwrite"
    elif options.append and not form.startswith("parquet"):
        wrong = f"--append to {options.out}, which is not Parquet"
    elif options.score and form == "png-folder":
        wrong = "--score for PNG files"
    elif form == "png-folder" and options.dtype == "float32":
        wrong = "--dtype float32 for PNG files"
    if wrong:
        raise OptionError(wrong, expected="options that go together", hint="Leave one of them out.")


def _check_target(options: BulkOptions, target: Path) -> None:
    """Refuse to touch an output that was not to be touched, or a folder that is none."""
    if target.is_dir():
        inside = [path.name for path in target.iterdir()]
        if not inside:
            return
        if FOLDER_FILE not in inside and not all(PART_NAME.fullmatch(name) for name in inside):
            raise TargetExistsError(
                f"{options.out} is a folder with other things in it",
                expected="a new name, or a folder that a bulk job wrote",
                hint="Choose another --out.",
            )
    if target.exists() and not (options.overwrite or options.append):
        raise TargetExistsError(
            f"{options.out} exists",
            expected="a new name",
            hint="Choose another --out, or add --overwrite; --append adds rows to Parquet.",
        )


def _base(options: BulkOptions, form: Form, target: Path, model: ModelFacts) -> tuple[Path, ...]:
    """The Parquet files that rows are appended to, all of them this model's.

    Raises:
        FingerprintError: they are another's, or do not say whose.
    """
    if not options.append or not target.exists():
        return ()
    pa = arrow.load()
    files = tuple(sorted(target.glob("part-*.parquet"))) if form == "parquet-folder" else (target,)
    for path in files:
        schema = pa.parquet.read_schema(path)
        provenance = Provenance.from_metadata(schema.metadata)
        if provenance is None:
            raise FingerprintError(
                f"{path}, which does not say whose latents it holds",
                expected="an output of this project, with its metadata",
                hint="Write to another file.",
            )
        provenance.check_same(model, mine=str(path), others=f"the model {model.name}")
    return files


def _check_columns(path: Path, schema: Any) -> None:
    """Refuse to append rows of other columns."""
    found = arrow.load().parquet.read_schema(path).remove_metadata()
    if found != schema:
        raise OptionError(
            f"{path} with the columns {_named(found)}",
            expected=f"{_named(schema)}, as this job makes them",
            hint="Append the same kind of rows and ids, with or without --score as before.",
        )


def _named(schema: Any) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _dtype(options: BulkOptions, form: Form, source: Source) -> ImageDtype:
    """Of the images that are written."""
    if form == "png-folder" or (options.dtype is None and options.operation == "decode"):
        return "uint8"
    return options.dtype or ("uint8" if source.dtype == "uint8" else "float32")
