"""What can be wrong with a bulk job, beside the tree in common/errors.py.

DenoiserError
└── BulkError
    ├── ExtraMissingError     pyarrow or rich is not installed
    ├── InputMissingError     no such file or folder, or nothing in it
    ├── OutputNameError       a name that says no format, or one that cannot hold the answers
    ├── JobChangedError       the parts that lie there are another job's
    └── UnreadableError       a row that cannot be read, under --strict
"""

from __future__ import annotations

from common.errors import DenoiserError


class BulkError(DenoiserError):
    title = "The bulk job cannot go on"


class ExtraMissingError(BulkError):
    title = "Not installed"


class InputMissingError(BulkError):
    title = "No input"


class OutputNameError(BulkError):
    title = "Unusable output name"


class JobChangedError(BulkError):
    title = "Parts of another job"


class UnreadableError(BulkError):
    title = "Unreadable input"


def reason(error: BaseException) -> str:
    """An error in the words of errors.csv, on one line."""
    if isinstance(error, DenoiserError):
        return f"{error.received}; expected {error.expected}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(f"{type(error).__name__}: {error}".split())
