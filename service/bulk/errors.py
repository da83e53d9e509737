"""The errors of bulk jobs, beside the tree in common/errors.py."""

from __future__ import annotations

from common.errors import DenoiserError


class BulkError(DenoiserError):
    """Base of the errors of bulk jobs."""

    title = "The bulk job cannot continue"


class ExtraMissingError(BulkError):
    """pyarrow, rich or ray is not installed."""

    title = "Not installed"


class InputMissingError(BulkError):
    """No such file or folder, or nothing in it."""

    title = "No input"


class OutputNameError(BulkError):
    """A name without a known format, or a format that cannot hold the rows."""

    title = "Unusable output name"


class JobChangedError(BulkError):
    """The existing parts were made with another input, model or options."""

    title = "Parts of another job"


class UnreadableError(BulkError):
    """A row cannot be read, and --strict does not allow that."""

    title = "Unreadable input"


class ServiceError(BulkError):
    """The service at --url refused, failed or changed its model."""

    title = "The service at --url"


class ClusterError(BulkError):
    """The Ray cluster does not answer, failed, or lacks shared storage."""

    title = "The cluster cannot continue"


def reason(error: BaseException) -> str:
    """An error as one line of errors.csv."""
    if isinstance(error, DenoiserError):
        return f"{error.received}; expected {error.expected}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(f"{type(error).__name__}: {error}".split())
