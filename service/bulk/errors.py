"""The errors of bulk jobs, beside the tree in common/errors.py."""

from __future__ import annotations

from typing import Self

from common.errors import DenoiserError


class BulkError(DenoiserError):
    """Base of the errors of bulk jobs."""

    title = "The bulk job cannot continue"


class ExtraMissingError(BulkError):
    """A package of an optional extra is not installed."""

    @classmethod
    def of(cls, requirement: str, extra: str, exc: ImportError) -> Self:
        """For a package that could not be imported."""
        return cls(
            f"no {requirement} ({exc})",
            expected=f"the extra `{extra}` of pyproject.toml",
            hint=f"Install it: pip install '{requirement}'.",
        )


class InputMissingError(BulkError):
    """No such file or folder, or nothing in it."""


class OutputNameError(BulkError):
    """A name without a known format, or a format that cannot hold the rows."""


class JobChangedError(BulkError):
    """The existing parts were made with another input, model or options."""


class UnreadableError(BulkError):
    """A row cannot be read, and --strict does not allow that."""


class ServiceError(BulkError):
    """The service at --url refused, failed or changed its model."""


class ClusterError(BulkError):
    """The Ray cluster does not answer, failed, or lacks shared storage."""


def reason(error: BaseException) -> str:
    """An error as one line of errors.csv."""
    if isinstance(error, DenoiserError):
        return f"{error.received}; expected {error.expected}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(f"{type(error).__name__}: {error}".split())
