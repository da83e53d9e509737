"""Marks by path, and fixtures: tiny bundles, their engines, a tiny run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from service.engine import Engine
from tests.support.tiny import BUNDLES, COLOUR, GREY, TinyNetwork, seal, write_bundle
from tests.support.trained import RUNS

hypothesis.settings.register_profile("tests", deadline=None, max_examples=40)
hypothesis.settings.load_profile("tests")

# Mark → the folders and files that have it. Single tests carry their marks themselves.
MARKS = {
    "system": "system/",
    "tensorflow": """
        benchmarks/test_benchmarks.py export/test_bundling.py export/test_convert.py
        export/test_exact.py export/test_quantise.py training/test_batches.py
        training/test_classical.py training/test_compare.py training/test_evaluate.py
        training/test_figures.py training/test_fit.py training/test_heldout.py training/test_home.py
        training/test_latents.py training/test_main.py training/test_metrics.py
        training/test_model.py training/test_pairs.py training/test_report.py
        training/test_watch.py
    """,
}
TESTS = Path(__file__).parent


def marks_of(path: Path) -> set[str]:
    """The marks of a test file."""
    name = path.relative_to(TESTS).as_posix()
    return {mark for mark, places in MARKS.items() if name.startswith(tuple(places.split()))}


def excluded(config: pytest.Config) -> set[str]:
    """The marks that `-m "not ..."` leaves out."""
    return {mark for mark in MARKS if f"not {mark}" in config.option.markexpr}


def pytest_configure(config: pytest.Config) -> None:
    """Without its mark, a test that loads TensorFlow fails."""
    if "tensorflow" in excluded(config):
        sys.modules["tensorflow"] = sys.modules["keras"] = None  # type: ignore[assignment]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files that are left out: TensorFlow alone takes seconds."""
    return True if marks_of(collection_path) & excluded(config) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in marks_of(item.path):
            item.add_marker(mark)
    items.sort(key=lambda item: not marks_of(item.path))  # the longest first, for xdist


@pytest.fixture(scope="session")
def network() -> TinyNetwork:
    return TinyNetwork.committed(GREY)


@pytest.fixture(scope="session")
def colour_network() -> TinyNetwork:
    return TinyNetwork.committed(COLOUR)


@pytest.fixture(scope="session")
def bundle_path() -> Path:
    """A grey 8×8 bundle; only to be read."""
    return BUNDLES / "grey"


@pytest.fixture(scope="session")
def colour_bundle_path() -> Path:
    """A colour 12×8×3 bundle; only to be read."""
    return BUNDLES / "colour"


@pytest.fixture(scope="session")
def scored_bundle_path() -> Path:
    """The grey bundle with a novelty score; only to be read."""
    return BUNDLES / "scored"


@pytest.fixture(scope="session")
def engine(bundle_path: Path) -> Engine:
    return Engine.load(bundle_path, threads=2)


@pytest.fixture(scope="session")
def colour_engine(colour_bundle_path: Path) -> Engine:
    return Engine.load(colour_bundle_path, threads=2)


@pytest.fixture(scope="session")
def scored_engine(scored_bundle_path: Path) -> Engine:
    return Engine.load(scored_bundle_path, threads=2)


@pytest.fixture
def bundle_copy(bundle_path: Path, tmp_path: Path) -> Path:
    """A grey bundle of one's own, to damage."""
    return Path(shutil.copytree(bundle_path, tmp_path / "grey"))


@pytest.fixture(scope="session")
def seal_bundle() -> Callable[..., None]:
    """`seal`: write the manifest again after a file has been changed."""
    return seal


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """`write_bundle`: a bundle of random weights at `folder`, from `image_shape` and `seed`."""

    def make(
        folder: Path,
        *,
        image_shape: tuple[int, int, int] = GREY,
        seed: int = 0,
        **changes: Any,
    ) -> Path:
        return write_bundle(folder, TinyNetwork.random(image_shape, seed), **changes)

    return make


@pytest.fixture(scope="session")
def tiny_run() -> Path:
    """A finished run of 8×8 images, as training wrote it; only to be read."""
    return RUNS / "tiny"
