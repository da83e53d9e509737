"""A process that decodes image files: it is sent some, and sends rows back, until nobody asks.

Requests and answers are pickles, over the pipes of a child of our own. The child ends when its
input does, also if the job is killed; it imports Pillow and numpy, and no engine.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common.arrays import Array
from common.images import Fit
from service.bulk.decoding.imagefile import Item, decode_some
from service.codecs.rows import RowSpec

_ROOT = Path(__file__).resolve().parents[3]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from service.bulk.decoding.worker import main; main()"
)


class DecoderEndedError(Exception):
    """A decoder process ended before it answered."""


class Worker:
    """One such process; one thread at a time may ask it."""

    def __init__(self, spec: RowSpec, *, fit: Fit | None, invert: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(_ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for the job, which then lets go of it
        )
        self._settings = (spec, fit, invert)

    def ask(self, items: Sequence[Item]) -> tuple[Array, list[tuple[int, str]]]:
        """`imagefile.decode_some` of `items`.

        Raises:
            DecoderEndedError: the process is no more.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump((items, *self._settings), self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            answer: tuple[Array, list[tuple[int, str]]] = pickle.load(self._process.stdout)
            return answer
        except (EOFError, OSError, pickle.UnpicklingError) as exc:
            status = self._process.wait()
            raise DecoderEndedError(f"the decoder ended with it (status {status})") from exc

    def close(self) -> None:
        """Let it end, and wait for that."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # it ended first, with a request unread
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def main() -> None:
    """The process itself: answer what comes on standard input."""
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    while True:
        try:
            items, spec, fit, invert = pickle.load(source)
        except EOFError:
            return
        pickle.dump(
            decode_some(items, spec, fit=fit, invert=invert), answers, pickle.HIGHEST_PROTOCOL
        )
        answers.flush()
