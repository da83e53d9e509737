"""A process that decodes image files.

Requests and results are pickles over the pipes of a child process. The child ends when its input
does, also if the job is killed; it imports Pillow and numpy, and no engine.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import common
import service
from common.arrays import Array
from common.images import Fit
from service.bulk.decoding.imagefile import Item, decode_some
from service.codecs.rows import RowSpec

# Where the packages are; on a node of a Ray cluster, each has a folder of its own.
_ROOTS = [str(Path(package.__path__[0]).parent) for package in (service, common)]
_START = (
    "import sys; sys.path[:0] = sys.argv[1:]; from service.bulk.decoding.worker import main; main()"
)


class DecoderEndedError(Exception):
    """A decoder process ended without a result."""


class Worker:
    """One such process, for one thread at a time."""

    def __init__(self, spec: RowSpec, *, fit: Fit | None, invert: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *_ROOTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the job only, which then ends it
        )
        self._settings = (spec, fit, invert)

    def decode(self, items: Sequence[Item]) -> tuple[Array, list[tuple[int, str]]]:
        """As `imagefile.decode_some`.

        Raises:
            DecoderEndedError: the process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump((items, *self._settings), self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            result: tuple[Array, list[tuple[int, str]]] = pickle.load(self._process.stdout)
            return result
        except (EOFError, OSError, pickle.UnpicklingError) as exc:
            status = self._process.wait()
            raise DecoderEndedError(f"the decoder ended with it (status {status})") from exc

    def close(self) -> None:
        """Let the process end, and wait for that."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # it ended first, with a request unread
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def main() -> None:
    """The process: decode what arrives on standard input."""
    requests, results = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # prints of libraries must not mix with results
    while True:
        try:
            items, spec, fit, invert = pickle.load(requests)
        except EOFError:
            return
        result = decode_some(items, spec, fit=fit, invert=invert)
        pickle.dump(result, results, pickle.HIGHEST_PROTOCOL)
        results.flush()
