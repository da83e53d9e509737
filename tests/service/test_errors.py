"""The error tree: statuses, slugs, messages, and problem documents."""

from __future__ import annotations

import json
import pickle

import pytest

from common import errors
from common.errors import DenoiserError
from service.http import problem

TREE = [
    (errors.MalformedError, errors.InputError, 400, "malformed"),
    (errors.UnsupportedTypeError, errors.InputError, 415, "unsupported-type"),
    (errors.NotAcceptableError, errors.InputError, 406, "not-acceptable"),
    (errors.TooLargeError, errors.InputError, 413, "too-large"),
    (errors.ShapeError, errors.InputError, 422, "shape"),
    (errors.DtypeError, errors.InputError, 422, "dtype"),
    (errors.RangeError, errors.InputError, 422, "range"),
    (errors.OptionError, errors.InputError, 422, "option"),
    (errors.UnauthorizedError, DenoiserError, 401, "unauthorized"),
    (errors.SlowError, DenoiserError, 408, "slow"),
    (errors.BusyError, DenoiserError, 429, "busy"),
    (errors.NotFoundError, DenoiserError, 404, "not-found"),
    (errors.MethodError, DenoiserError, 405, "method"),
    (errors.BundleMissingError, errors.BundleError, 500, "bundle-missing"),
    (errors.BundleDamagedError, errors.BundleError, 500, "bundle-damaged"),
    (errors.BundleSchemaError, errors.BundleError, 500, "bundle-schema"),
    (errors.SettingsError, DenoiserError, 500, "settings"),
]


@pytest.mark.parametrize(("kind", "base", "status", "slug"), TREE)
def test_each_error_has_its_place_status_and_slug(
    kind: type[DenoiserError], base: type[DenoiserError], status: int, slug: str
) -> None:
    error = kind("a cat", expected="a dog", hint="Bark.")
    assert isinstance(error, base)
    assert isinstance(error, DenoiserError)
    assert (error.status, error.slug) == (status, slug)
    assert str(error) == "a cat; expected a dog. Bark."


def test_the_drawing_in_the_docstring_shows_every_error_with_its_status() -> None:
    assert errors.__doc__ is not None
    for kind, base, status, _ in TREE:
        line = next(
            line for line in errors.__doc__.splitlines() if kind.__name__ in line.split()
        ).split()
        if base is not errors.BundleError:
            assert str(status) in line, kind
    public = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, DenoiserError)
    }
    missing = {name for name in public if name not in errors.__doc__}
    assert not missing


def test_titles_differ_so_that_a_list_of_problems_can_be_read() -> None:
    titles = [kind.title for kind, *_ in TREE]
    assert len(set(titles)) == len(titles)


def test_an_error_survives_a_process_boundary() -> None:
    """multiprocessing and Ray pickle exceptions; keyword-only arguments need __reduce__."""
    error = errors.ShapeError("a", expected="b", hint="c")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (errors.ShapeError, str(error))


def test_the_problem_document_of_an_error() -> None:
    error = errors.ShapeError("a “cat”", expected="b", hint="c")
    assert json.loads(problem.from_error(error)) == {
        "type": "urn:denoiser:problem:shape",
        "title": "Wrong shape",
        "status": 422,
        "detail": str(error),
        "received": "a “cat”",
        "expected": "b",
        "hint": "c",
    }


def test_an_empty_hint_is_left_out() -> None:
    error = errors.ShapeError("a", expected="b")
    assert str(error) == "a; expected b"
    assert "hint" not in json.loads(problem.from_error(error))


@pytest.mark.parametrize(("status", "title"), [(500, "Internal Server Error"), (404, "Not Found")])
def test_the_problem_document_of_a_status_alone_has_no_details(status: int, title: str) -> None:
    assert json.loads(problem.from_status(status)) == {
        "type": "about:blank",
        "title": title,
        "status": status,
    }
