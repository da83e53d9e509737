"""One actor of the pool: it reads units, computes them and writes their parts.

A node receives the job as one `JobPayload`, with the bundle's files; the packages that `service`
imports must be installed there. Input and output are on storage that every node sees.
"""

from __future__ import annotations

import atexit
import os
import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from common.errors import DenoiserError, FingerprintError
from service.bulk.batch import FileStamp, Source
from service.bulk.errors import ClusterError
from service.bulk.journal import JOB
from service.bulk.models import Model, open_model
from service.bulk.options import BulkOptions
from service.bulk.outputs import Columns
from service.bulk.parts import Parts
from service.bulk.provenance import ModelFacts
from service.bulk.sources.buckets import is_url
from service.bulk.sources.files import ImageFiles
from service.bulk.sources.listing import Listing
from service.bulk.sources.opening import STDIN, open_source
from service.bulk.work import Work
from service.bundle import MANIFEST, Bundle


@dataclass(frozen=True, kw_only=True)
class JobPayload:
    """A job as it is sent to the nodes.

    Attributes:
        options: of the job, without its key; a path of the input is absolute.
        model: of the bundle; the bundle on the node must be the same.
        bundle: the files of the bundle, by name.
        listing: of the input's image files, if it has any; its file is in the job's folder.
        columns: of the output.
        job: the stamp of job.json, in the folder of the parts.
        inputs: stamps of the input's first and last file; none of a URL's.
        folder: to which names on a list are relative.
    """

    options: BulkOptions
    model: ModelFacts
    bundle: Mapping[str, bytes]
    listing: Listing | None
    columns: Columns
    job: FileStamp
    inputs: tuple[FileStamp, ...]
    folder: Path

    @classmethod
    def of(cls, work: Work) -> JobPayload:
        """What a node needs to know of a job."""
        options, source = work.options, work.source
        if options.input != STDIN and not is_url(options.input):
            options = replace(options, input=str(Path(options.input).absolute()))
        names = [MANIFEST, *Bundle.open(options.bundle).manifest.files]
        return cls(
            options=replace(options, api_key=""),
            model=work.model.facts,
            bundle={name: (options.bundle / name).read_bytes() for name in names},
            listing=source.listing if isinstance(source, ImageFiles) else None,
            columns=work.columns,
            job=FileStamp.of(work.parts.folder / JOB),
            inputs=tuple(FileStamp.of(path) for path in _input_files(options, source)),
            folder=Path.cwd(),
        )

    def check_shared(self) -> None:
        """Check that this node sees the same input and output as the job.

        Raises:
            ClusterError: it does not.
        """
        for stamp in (self.job, *self.inputs):
            if FileStamp.of(stamp.path) != stamp:
                raise ClusterError(
                    f"{stamp.path}, which node {socket.gethostname()} does not see as the job does",
                    expected="input and output on storage that every node sees: a shared folder, "
                    "or s3:// or gs:// for the input",
                    hint="Copy them there; the same command continues after the finished parts.",
                )

    def open_source(self, scratch: Path) -> Source:
        """The input, opened on this node."""
        if self.options.input == STDIN:
            os.chdir(self.folder)
        return open_source(self.options, self.model, scratch=scratch, listing=self.listing)

    def open_model(self, scratch: Path) -> Model:
        """The bundle, opened on this node with one thread.

        Raises:
            BundleError: its golden answers differ on this node.
            FingerprintError: it is another model.
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
                hint="Do not change the bundle while a job runs; start the job again.",
            )
        return model


class Worker:
    """An actor: units in, parts on disk. It opens input and model at its first unit."""

    def __init__(self, payload: Any) -> None:
        """`payload`: Ray's reference to a `JobPayload`."""
        self._reference = payload

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns unit → unit, rows, failures, error: a pickle, or empty."""
        columns: dict[str, list[Any]] = {"unit": [], "rows": [], "failures": [], "error": []}
        for unit in batch["unit"].tolist():
            rows, failures, error = 0, 0, b""
            try:
                rows, failures = self._make(unit)
            except (DenoiserError, OSError) as exc:  # Ray would wrap it, and try again
                error = pickle.dumps(exc)
            for name, value in zip(columns, (unit, rows, failures, error), strict=True):
                columns[name].append(value)
        return {name: np.array(values) for name, values in columns.items()}

    @staticmethod
    def error_of(result: Mapping[str, Any]) -> Exception | None:
        """The error in one row of the results."""
        error: Exception | None = pickle.loads(result["error"]) if result["error"] else None
        return error

    def _make(self, unit: int) -> tuple[int, int]:
        """Write the part of a unit; its rows and failures."""
        part = self._work.compute(self._work.read(unit))
        # Again, before each part: the job may have been killed and replaced by another.
        self._payload.check_shared()
        self._work.write(unit, part)
        return part.counts

    @cached_property
    def _payload(self) -> JobPayload:
        import ray

        payload: JobPayload = ray.get(self._reference)
        payload.check_shared()
        return payload

    @cached_property
    def _work(self) -> Work:
        payload, scratch = self._payload, _scratch()
        return Work(
            payload.options,
            model=payload.open_model(scratch),
            source=payload.open_source(scratch),
            columns=payload.columns,
            parts=Parts(Path(payload.job.path).parent),
        )


def _scratch() -> Path:
    """A folder that is removed with this process, which then ends at once.

    After Python has ended, gRPC's own clean-up in Ray's library sometimes waits forever (seen with
    Ray 2.60), and the process would outlive its cluster.
    """
    folder = TemporaryDirectory(prefix="denoiser-")

    def leave() -> None:
        folder.cleanup()
        os._exit(0)

    atexit.register(leave)
    return Path(folder.name)


def _input_files(options: BulkOptions, source: Source) -> list[str]:
    """The input's files on this machine; of a list or folder of images, the first and the last."""
    if is_url(options.input):
        return []
    if isinstance(source, ImageFiles) and not Path(options.input).is_file():
        groups = [source.listing.group(at) for at in sorted({0, source.units - 1})]
        return [str(source.store.fetch(groups[at][at])) for at in (0, -1)]
    if "files" in source.identity:
        return [file["path"] for file in source.identity["files"]]
    return [options.input]
