"""Fixtures for tests against real processes: one server of each kind for the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.engine import Engine
from tests.support.paths import BUNDLE
from tests.support.processes import Server, require_serving, serving
from tests.support.wire import GUARDED, SMALL


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped bundle, served from the environment that has no TensorFlow."""
    require_serving()
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with the small limits of `SMALL`."""
    require_serving()
    with serving(tmp_path_factory.mktemp("small"), settings=SMALL) as running:
        yield running


@pytest.fixture(scope="session")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with the API key, the CORS origin and the one concurrent request of `GUARDED`."""
    require_serving()
    with serving(tmp_path_factory.mktemp("guarded"), settings=GUARDED) as running:
        yield running


@pytest.fixture(scope="session")
def local_engine() -> Engine:
    """The engine of the shipped bundle in this process: what answers are compared with."""
    require_serving()
    return Engine.load(BUNDLE, threads=1)
