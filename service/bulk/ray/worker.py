"""What a bulk job does on the nodes of a Ray cluster: `Worker` computes, `Reader` reads for it.

All that a node needs from the job comes in one `Luggage`; the packages that `service` imports are
installed there. A worker reads its rows where the input lies, if its node sees the very same files.
Where it does not, `Reader` reads them on the node of the one who asked for the job.
"""

from __future__ import annotations

import atexit
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from common.errors import DenoiserError, FingerprintError
from service.bulk import arrow
from service.bulk.batch import Batch, Existing, Source
from service.bulk.models import Model, open_model
from service.bulk.options import BulkOptions, Kind
from service.bulk.parts import Part, Parts
from service.bulk.provenance import ModelFacts, Provenance
from service.bulk.sources.buckets import is_url
from service.bulk.sources.files import ImageFiles
from service.bulk.sources.listing import Listing
from service.bulk.sources.opening import STDIN, open_source
from service.bulk.work import Work
from service.bundle import MANIFEST, Bundle
from service.engine import ImageDtype

# A file as it must look to a node that is to read the input: path, bytes, modified (ns).
Witness = tuple[str, int, int]


@dataclass
class Facts:
    """What a source says of itself (see `service.bulk.batch.Source`), without the source."""

    kind: Kind
    total: int
    units: int
    numbered: bool
    dtype: np.dtype[Any]
    encoded: bool
    identity: Mapping[str, Any]
    provenance: Provenance | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, source: Source) -> Facts:
        return cls(**{name: getattr(source, name) for name in cls.__dataclass_fields__})


class CarriedListing(Listing):
    """A listing whose file goes along with it."""

    def __init__(self, listing: Listing) -> None:
        self.__dict__.update(vars(listing))
        self._body = self._path.read_bytes()

    def unpack(self, path: Path) -> Listing:
        """Write the file to `path`, and read it there from now on."""
        path.write_bytes(self._body)
        self._path, self._body = path, b""
        return self


@dataclass(frozen=True, kw_only=True)
class Luggage:
    """A job as it travels.

    Attributes:
        options: of the job, without its key; input and output are absolute paths or URLs.
        model: of the bundle, to which what arrives must open.
        bundle: the files of the bundle, by name.
        source: what the input said of itself.
        listing: of its image files, if it has any.
        witnesses: files by which a node knows that it sees the input; none of a URL's.
        folder: to which names on a list are relative.
        existing, dtype, as_png: as of `Work`.
    """

    options: BulkOptions
    model: ModelFacts
    bundle: Mapping[str, bytes]
    source: Facts
    listing: CarriedListing | None
    witnesses: tuple[Witness, ...]
    folder: Path
    existing: Existing
    dtype: ImageDtype
    as_png: bool

    @classmethod
    def of(cls, work: Work) -> Luggage:
        options, source = work.options, work.source
        listing = CarriedListing(source.listing) if isinstance(source, ImageFiles) else None
        return cls(
            options=replace(
                options,
                input=options.input if _is_placeless(options) else _absolute(options.input),
                out=_absolute(options.out),
                api_key="",
            ),
            model=work.model.facts,
            bundle=_files_of(options.bundle),
            source=Facts.of(source),
            listing=listing,
            witnesses=tuple(_stated(path) for path in _witnesses(options, source)),
            folder=Path.cwd(),
            existing=work.existing,
            dtype=work.dtype,
            as_png=work.as_png,
        )

    @property
    def shared(self) -> bool:
        """Whether this node sees the input as the one did who packed; a URL is seen by all."""
        if self.options.append:
            return False  # what there is already lies beside the output
        return all(_stated(witness[0]) == witness for witness in self.witnesses)

    def open_source(self, scratch: Path) -> Source:
        """The input, opened on this node."""
        if self.options.input == STDIN:
            os.chdir(self.folder)
        return open_source(
            self.options,
            self.model,
            scratch=scratch,
            existing=self.existing,
            listing=self.listing and self.listing.unpack(scratch / "listing"),
        )

    def open_model(self, scratch: Path) -> Model:
        """The bundle, opened on this node with one thread.

        Raises:
            BundleError: it does not compute here what it did at export. FingerprintError.
        """
        folder = scratch / "bundle"
        folder.mkdir()
        for name, body in self.bundle.items():
            (folder / name).write_bytes(body)
        model = open_model(replace(self.options, bundle=folder, threads=1))
        if model.facts != self.model:
            raise FingerprintError(
                f"a bundle with fingerprint {model.facts.fingerprint}",
                expected=f"{self.model.fingerprint}, with which the job began",
                hint="Leave the bundle alone while a job runs; then start it again.",
            )
        return model


class Reader:
    """Reads units on the node that has the input; what is wrong with it is given back."""

    def __init__(self, luggage: Luggage) -> None:
        self._luggage = luggage

    def read(self, unit: int) -> Batch | DenoiserError | OSError:
        try:
            return self._source.read(unit)
        except (DenoiserError, OSError) as exc:
            return exc

    @cached_property
    def _source(self) -> Source:
        return self._luggage.open_source(_scratch())


class Asked(Facts):
    """A source that another node reads."""

    reader: Any  # Ray's handle of a Reader

    def read(self, unit: int) -> Batch:
        import ray

        found: Batch | Exception = ray.get(self.reader.read.remote(unit))
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        pass


class Worker:
    """One actor of the pool: units in, parts out. Opens everything at its first unit."""

    def __init__(self, luggage: Any, reader: Any) -> None:
        """`luggage`: Ray's reference to it. `reader`: handle of a Reader, or None."""
        self._reference = luggage
        self._reader = reader

    def __call__(self, batch: Any) -> Any:
        """The Arrow table (unit) to (unit, part): each part pickled, or the error in its place."""
        pa = arrow.load()
        units = batch.column("unit").to_pylist()
        parts = [pickle.dumps(self._made(unit), protocol=5) for unit in units]
        return pa.table({"unit": batch.column("unit"), "part": pa.array(parts, pa.large_binary())})

    def _made(self, unit: int) -> Part | DenoiserError | OSError:
        try:
            return self._work.compute(self._work.read(unit))
        except (DenoiserError, OSError) as exc:
            return exc  # Ray would wrap it, and try again

    @cached_property
    def _work(self) -> Work:
        import ray

        luggage: Luggage = ray.get(self._reference)
        scratch = _scratch()
        source: Source
        if self._reader is None or luggage.shared:
            source = luggage.open_source(scratch)
        else:
            source = asked = Asked(**vars(luggage.source))
            asked.reader = self._reader
        return Work(
            luggage.options,
            model=luggage.open_model(scratch),
            source=source,
            parts=Parts(scratch),  # none is written here
            dtype=luggage.dtype,
            as_png=luggage.as_png,
        )


def _scratch() -> Path:
    """A folder that goes with this process, which then ends at once.

    After Python has ended, gRPC's own clean-up in Ray's library now and then waits for ever
    (seen with Ray 2.60): such a process would outlive its cluster.
    """
    folder = TemporaryDirectory(prefix="denoiser-")

    def leave() -> None:
        folder.cleanup()
        os._exit(0)

    atexit.register(leave)
    return Path(folder.name)


def _is_placeless(options: BulkOptions) -> bool:
    return options.input == STDIN or is_url(options.input)


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _files_of(bundle: Path) -> dict[str, bytes]:
    names = [MANIFEST, *Bundle.open(bundle).manifest.files]
    return {name: (bundle / name).read_bytes() for name in names}


def _witnesses(options: BulkOptions, source: Source) -> list[Path]:
    """Files that tell whether a node sees the same input: it, or of many, first and last."""
    if is_url(options.input):
        return []
    path = Path.cwd() if options.input == STDIN else Path(options.input).absolute()
    if path.is_file():
        return [path]
    if isinstance(source, ImageFiles):
        groups = [source.listing.group(at) for at in sorted({0, source.units - 1})]
        return [path / group[at].name for group in groups for at in (0, -1)]
    return [Path(one["path"]) for one in source.identity["files"]]


def _stated(path: str | Path) -> Witness:
    """As it looks here; a file that cannot be seen has −1 bytes."""
    try:
        state = Path(path).stat()
    except OSError:
        return (str(path), -1, 0)
    return (str(path), state.st_size, state.st_mtime_ns)
