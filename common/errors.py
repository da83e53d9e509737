"""All errors raised on purpose, in one small tree that knows no framework.

    DenoiserError
    ├── InputError                    the caller sent something that cannot be answered
    │   ├── MalformedError       400  the bytes do not parse as what they claim to be
    │   ├── UnsupportedTypeError 415  a content type that this route does not read
    │   ├── NotAcceptableError   406  no representation that `Accept` allows
    │   ├── TooLargeError        413  more bytes or rows than the limits allow
    │   ├── ShapeError           422  an array of the wrong shape
    │   ├── DtypeError           422  an array of the wrong dtype
    │   ├── RangeError           422  values outside their range, NaN, infinity
    │   └── OptionError          422  a query parameter that cannot be met
    ├── UnauthorizedError        401  no API key, or a wrong one
    ├── NotFoundError            404  no such route, model or version
    ├── MethodError              405  a method that the route does not answer
    ├── SlowError                408  a body that did not arrive in time
    ├── BusyError                429  too many requests in work
    ├── FingerprintError         409  latents of one model where those of another belong
    ├── BundleError              500  a bundle that is missing or damaged
    │   ├── BundleMissingError        no bundle there, or a part of it is gone
    │   ├── BundleDamagedError        a hash, a file or a golden answer does not match
    │   └── BundleSchemaError         written by a newer version of this project
    └── SettingsError            500  a setting that makes no sense

Stages add their own: `training/errors.py`, `export/errors.py`, `service/bulk/errors.py`. Each error
carries what was received, what was expected and, where it helps, a hint. Each edge translates the
tree once: `service/http/problem.py` for HTTP, the `__main__.py` of each stage for the command line.
"""

from __future__ import annotations

from functools import partial
from typing import Any


class DenoiserError(Exception):
    """Base of all errors that this project raises on purpose.

    Args:
        received: what arrived, e.g. "images of shape (2, 32, 32)".
        expected: what would be valid.
        hint: the next step, a sentence; empty where `expected` says it all.
    """

    status: int = 500
    title: str = "Internal error"

    def __init__(self, received: str, *, expected: str, hint: str = "") -> None:
        super().__init__(received, expected, hint)
        self.received = received
        self.expected = expected
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling, which knows no keyword-only arguments."""
        again = partial(type(self), expected=self.expected, hint=self.hint)
        return again, (self.received,)

    def __str__(self) -> str:
        text = f"{self.received}; expected {self.expected}"
        return f"{text}. {self.hint}" if self.hint else text

    @property
    def slug(self) -> str:
        """The error's stable name for programs: `ShapeError` is "shape"."""
        name = type(self).__name__.removesuffix("Error")
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


class InputError(DenoiserError):
    """The caller's input cannot be answered as it is."""

    status = 400
    title = "Bad input"


class MalformedError(InputError):
    status = 400
    title = "The body does not parse"


class UnsupportedTypeError(InputError):
    status = 415
    title = "Unsupported content type"


class NotAcceptableError(InputError):
    status = 406
    title = "No acceptable representation"


class TooLargeError(InputError):
    status = 413
    title = "Too large"


class ShapeError(InputError):
    status = 422
    title = "Wrong shape"


class DtypeError(InputError):
    status = 422
    title = "Wrong dtype"


class RangeError(InputError):
    status = 422
    title = "Values out of range"


class OptionError(InputError):
    status = 422
    title = "Unusable option"


class UnauthorizedError(DenoiserError):
    status = 401
    title = "Not authorized"


class NotFoundError(DenoiserError):
    status = 404
    title = "Not found"


class MethodError(DenoiserError):
    status = 405
    title = "Method not allowed"


class SlowError(DenoiserError):
    status = 408
    title = "The body is too slow"


class BusyError(DenoiserError):
    status = 429
    title = "Too busy"


class FingerprintError(DenoiserError):
    status = 409
    title = "Latents of another model"


class BundleError(DenoiserError):
    title = "The bundle cannot be served"


class BundleMissingError(BundleError):
    title = "No bundle"


class BundleDamagedError(BundleError):
    title = "Damaged bundle"


class BundleSchemaError(BundleError):
    title = "Bundle of a newer schema"


class SettingsError(DenoiserError):
    title = "Unusable setting"
