"""One actor of the pool: it reads units, computes them and writes their parts.

A node receives the job as one `JobPayload`; the packages that `service` imports must be installed
there. Input, output and the job's folder, which holds the bundle, too, are on shared storage.
"""

from __future__ import annotations

import atexit
import os
import pickle
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import DenoiserError, FingerprintError
from service.bulk.batch import Source
from service.bulk.errors import ClusterError
from service.bulk.journal import JOB
from service.bulk.models import open_model
from service.bulk.options import BulkOptions
from service.bulk.parts import Columns, Parts
from service.bulk.sources.buckets import is_url
from service.bulk.sources.files import ImageFiles
from service.bulk.sources.listing import Entry, Listing
from service.bulk.sources.opening import STDIN, open_source
from service.bulk.work import Work
from service.bundle import Manifest


@dataclass(frozen=True, kw_only=True)
class JobPayload:
    """A job as it is sent to the nodes: absolute paths, no key, and a copy of the bundle.

    Copy and `listing` are in the job's folder. `stamps` are of job.json and of the input's first
    and last file, none of a URL's; names on a list are relative to `working_folder`.
    """

    options: BulkOptions
    model: Manifest
    listing: Listing | None
    columns: Columns
    parts: Parts
    stamps: tuple[Entry, ...]
    working_folder: Path

    @classmethod
    def of(cls, work: Work) -> JobPayload:
        """Copy the bundle to the job's folder, and describe the job."""
        options, source, bundle = work.options, work.source, work.parts.folder / "bundle"
        shutil.copytree(options.bundle, bundle, dirs_exist_ok=True)
        if options.input != STDIN and not is_url(options.input):
            options = replace(options, input=str(Path(options.input).absolute()))
        files = [str(work.parts.folder / JOB), *_input_files(options, source)]
        return cls(
            options=replace(options, bundle=bundle, threads=1, api_key=""),
            model=work.model.manifest,
            listing=source.listing if isinstance(source, ImageFiles) else None,
            columns=work.columns,
            parts=work.parts,
            stamps=tuple(Entry.of(path) for path in files),
            working_folder=Path.cwd(),
        )

    def check_shared(self) -> None:
        """Raise a `ClusterError` if this node does not see the job's own input and output."""
        for stamp in self.stamps:
            if Entry.of(stamp.name) != stamp:
                raise ClusterError(
                    f"{stamp.name}, which node {socket.gethostname()} does not see as the job does",
                    expected="input and output on storage that every node sees: a shared folder, "
                    "or s3:// or gs:// for the input",
                    hint="Copy them there and start the job again.",
                )

    def open(self) -> Work:
        """The job on this node.

        Raises:
            ClusterError: no shared storage. BundleError: its golden answers differ on this node.
            FingerprintError: the bundle changed.
        """
        self.check_shared()
        model = open_model(self.options)
        if model.manifest != self.model:
            raise FingerprintError(
                f"a bundle with fingerprint {model.manifest.fingerprint}",
                expected=f"{self.model.fingerprint}, with which the job began",
            )
        if self.options.input == STDIN:
            os.chdir(self.working_folder)
        source = open_source(
            self.options, self.model, scratch=self.parts.folder, listing=self.listing
        )
        return Work(self.options, model, source, self.columns, self.parts)


class Worker:
    """An actor: units in, parts on disk. It opens the job at its first unit."""

    def __init__(self, payload: JobPayload) -> None:
        self._payload = payload

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """One unit to its rows, its failures and its error: a pickle, or empty."""
        unit, rows, failures, error = int(batch["unit"][0]), 0, 0, b""
        try:
            part = self._work.compute(self._work.source.read(unit))
            self._payload.check_shared()  # again: another job may have replaced a killed one
            self._work.parts.write(unit, part)
            rows, failures = part.counts
        except (DenoiserError, OSError) as exc:  # Ray would wrap it, and try again
            error = pickle.dumps(exc)
        return {"unit": [unit], "rows": [rows], "failures": [failures], "error": [error]}

    @cached_property
    def _work(self) -> Work:
        # After Python has ended, gRPC's clean-up in Ray's library sometimes waits forever (seen
        # with Ray 2.60), and the process would outlive its cluster.
        atexit.register(os._exit, 0)
        return self._payload.open()


def _input_files(options: BulkOptions, source: Source) -> list[str]:
    """The input's file on this machine; of several, the first and the last."""
    if is_url(options.input):
        return []
    if isinstance(source, ImageFiles) and not Path(options.input).is_file():
        groups = [source.listing.group(at) for at in (0, source.units - 1)]
        return [str(source.store.fetch(groups[at][at])) for at in (0, -1)]
    files = [file["name"] for file in source.identity.get("files", [])]
    return [files[0], files[-1]] if files else [options.input]
