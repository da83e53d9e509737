"""Fixtures for tests against real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.processes import BUNDLE, SERVING, Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped bundle, served from the environment that has no TensorFlow."""
    require_serving()
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


def require_serving() -> None:
    if not (SERVING / "bentoml").exists():
        pytest.skip("no .venv-serve: make env-serve")
    if not BUNDLE.is_dir():
        pytest.skip("no bundles/mnist in this checkout")
