"""The examples as a person runs them, each against the real thing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.arrays import Array
from examples import index
from service.bulk.provenance import Provenance
from service.bundle import Bundle
from service.engine import Engine
from tests.support.paths import BUNDLE, ROOT
from tests.support.processes import environment
from training.data.digits import load_digits_28

COUNT = 300


def noisy(images: Array, seed: int) -> Array:
    """uint8 in, uint8 out: N(0.5, 0.5) added and clipped."""
    noisy = images / 255 + np.random.default_rng(seed).normal(0.5, 0.5, images.shape)
    return np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)


def example(name: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"examples.{name}", *map(str, arguments)],
        cwd=ROOT,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=300,
    )


def write_latents(path: Path, latents: Array, fingerprint: str, names: list[str]) -> Path:
    """The Parquet file that `python -m service encode` makes of float32 (N, D)."""
    facts = Provenance(
        kind="latents",
        fingerprint=fingerprint,
        model="mnist",
        precision="float32",
        preprocessing={},
        version="0",
    )
    column = pa.FixedSizeListArray.from_arrays(pa.array(latents.ravel()), latents.shape[1])
    table = pa.table({"id": names, "latent": column})
    pq.write_table(table.replace_schema_metadata(facts.as_metadata()), path)
    return path


@pytest.fixture(scope="session")
def shipped() -> Engine:
    if not BUNDLE.is_dir():
        pytest.skip("no bundles/mnist in this checkout")
    return Engine.load(BUNDLE, threads=2)


@pytest.fixture(scope="session")
def digits() -> Array:
    """uint8 (300, 28, 28, 1)"""
    return load_digits_28()[0][:COUNT]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Array) -> Path:
    """Those digits as PNGs, 000.png and on."""
    folder = tmp_path_factory.mktemp("clean")
    for k, image in enumerate(digits[..., 0]):
        Image.fromarray(image).save(folder / f"{k:03}.png")
    return folder


@pytest.fixture(scope="session")
def latents_file(tmp_path_factory: pytest.TempPathFactory, shipped: Engine, digits: Array) -> Path:
    """Latents of noisy copies of those digits, by the shipped model."""
    path = tmp_path_factory.mktemp("latents") / "latents.parquet"
    names = [f"{k:03}.png" for k in range(COUNT)]
    return write_latents(path, shipped.encode(noisy(digits, 0)), shipped.fingerprint, names)


# --- clean images as noisy queries look for them


def test_the_index_holds_the_mean_over_noisy_copies() -> None:
    engine = Engine.load(BUNDLE, threads=1)
    digits = load_digits_28()[0][:20]
    found = index.index_latents(engine, digits, seed=3)
    clean = digits.astype(np.float32) / 255
    rng = np.random.default_rng(7)
    copies = [
        engine.encode(np.clip(clean + rng.normal(0.5, 0.5, clean.shape), 0, 1).astype(np.float32))
        for _ in range(200)
    ]
    mean, spread = np.mean(copies, axis=0), np.std(copies, axis=0)
    assert np.abs(found - mean).mean() < spread.mean() / np.sqrt(index.COPIES)
    np.testing.assert_array_equal(found, index.index_latents(engine, digits, seed=3))


@pytest.mark.parametrize("noise", [None, "pairs", "gaussian:0.5,0..0.7", "salt-pepper:0.1"])
def test_other_noise_than_a_fixed_gaussian_leaves_images_as_they_are(noise: str | None) -> None:
    engine = Engine.load(BUNDLE, threads=1)
    engine.manifest.training["settings"]["noise"] = noise
    digits = load_digits_28()[0][:3]
    np.testing.assert_array_equal(index.index_latents(engine, digits), engine.encode(digits))


# --- LanceDB


def test_lancedb_finds_the_clean_original(
    tmp_path: Path, folder: Path, digits: Array, shipped: Engine
) -> None:
    lancedb = pytest.importorskip("lancedb", reason="lancedb is not installed: extra `examples`")
    from examples import lancedb_search

    Image.fromarray(noisy(digits, 7)[42, ..., 0]).save(tmp_path / "noisy.png")
    database, picture = tmp_path / "db", tmp_path / "made" / "neighbours.png"
    arguments = (folder, tmp_path / "noisy.png", "--database", database, "--picture", picture)
    done = example("lancedb_search", *arguments, "--count", 5)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert len(lines) == 5
    assert any(line.endswith("042.png") for line in lines)
    assert last == f"written: {picture}"
    with Image.open(picture) as opened:
        assert opened.size == (5 * (28 * 3 + 4) + 4, 2 * (28 * 3 + 4 + 16) + 4)

    # the same folder again leaves the same rows, and most noisy images find their originals
    table = lancedb_search.index(lancedb.connect(database), shipped, sorted(folder.glob("*.png")))
    assert table.count_rows() == COUNT
    hits = 0
    for k, latent in enumerate(shipped.encode(noisy(digits[:30], 8))):
        found = lancedb_search.search(table, latent, 5)
        distances = [distance for _, distance in found]
        assert distances == sorted(distances)
        hits += f"{k:03}.png" in {Path(path).name for path, _ in found}
    assert hits >= 27


def test_lancedb_refuses_what_is_no_image_in_one_line(tmp_path: Path, folder: Path) -> None:
    pytest.importorskip("lancedb", reason="lancedb is not installed: extra `examples`")
    done = example("lancedb_search", folder, ROOT / "README.md", "--database", tmp_path / "db")
    assert done.returncode == 1
    assert done.stderr.startswith("lancedb_search: bytes that are not a whole image")
    assert len(done.stderr.splitlines()) == 1


# --- DuckDB


def test_duckdb_neighbours_and_clusters_are_numpy_s(latents_file: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed: extra `examples`")
    database = duckdb.connect()
    database.execute(f"SET VARIABLE latents = '{latents_file}'")
    script = (ROOT / "examples" / "duckdb_latents.sql").read_text(encoding="utf-8")
    answers = [
        database.execute(statement).fetchall() for statement in duckdb.extract_statements(script)
    ]
    facts, neighbours, sizes = dict(answers[0]), answers[2], answers[4]
    table = pq.read_table(latents_file)
    names = table["id"].to_pylist()
    latents = table["latent"].combine_chunks().flatten().to_numpy().reshape(len(names), -1)

    assert facts["denoiser.fingerprint"] == Bundle.open(BUNDLE).manifest.fingerprint
    distances = np.linalg.norm(latents - latents[0], axis=1)
    nearest = np.argsort(distances)[1:6]
    assert [name for name, _ in neighbours] == [names[k] for k in nearest]
    np.testing.assert_allclose([d for _, d in neighbours], distances[nearest], rtol=1e-5)

    # Lloyd's algorithm by hand, from the same start
    start = database.execute("SELECT latent FROM latents ORDER BY hash(id) LIMIT 10").fetchall()
    centres = np.array([row[0] for row in start])
    for _ in range(20):
        labels = np.linalg.norm(latents[:, None] - centres, axis=2).argmin(axis=1)
        centres = np.array([latents[labels == k].mean(axis=0) for k in range(10)])
    labels = np.linalg.norm(latents[:, None] - centres, axis=2).argmin(axis=1)
    assert sorted(size for _, size, _, _ in sizes) == sorted(np.bincount(labels))
    assert {example for *_, example in sizes} <= set(names)


# --- scikit-learn


def test_sklearn_draws_clusters_and_outliers(tmp_path: Path, latents_file: Path) -> None:
    picture = tmp_path / "clusters.png"
    done = example("sklearn_clusters", latents_file, "--picture", picture, "--count", 6)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    sizes = [int(line.split()[2]) for line in lines if line.startswith("cluster")]
    factors = [float(line.split()[2]) for line in lines if line.startswith("outlier")]
    assert (len(sizes), sum(sizes)) == (6, COUNT)
    assert sizes == sorted(sizes, reverse=True)
    assert factors == sorted(factors, reverse=True)
    with Image.open(picture) as opened:
        assert opened.height == 7 * (28 * 3 + 4 + 16) + 4


def test_sklearn_puts_the_odd_one_out_first() -> None:
    from examples.sklearn_clusters import outliers

    latents = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    latents[123] += 9
    factors = outliers(latents)
    assert factors.argmax() == 123
    assert factors[123] > 1.5


def test_sklearn_refuses_latents_of_another_model(tmp_path: Path) -> None:
    if not BUNDLE.is_dir():
        pytest.skip("no bundles/mnist in this checkout")
    latents = np.zeros((20, 16), np.float32)
    path = write_latents(tmp_path / "other.parquet", latents, "f" * 64, list(map(str, range(20))))
    done = example("sklearn_clusters", path, "--picture", tmp_path / "clusters.png")
    assert done.returncode == 1
    assert "f" * 64 in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "clusters.png").exists()


# --- what the bulk command writes


def test_latents_of_the_bulk_command_are_read_by_all(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "latents.parquet"
    commands = [
        ["-m", "service", "encode", folder, "--out", path, "--bundle", BUNDLE],
        ["-m", "service", "drift", path, path, "--picture", tmp_path / "drift.png"],
        ["-m", "examples.sklearn_clusters", path, "--picture", tmp_path / "clusters.png"],
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    assert {one.name for one in tmp_path.iterdir()} >= {"drift.png", "clusters.png"}
    assert pq.read_table(path)["id"].to_pylist()[0].endswith("000.png")


# --- Spark


def test_spark_latents_are_the_engine_s(tmp_path: Path, folder: Path, shipped: Engine) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed: extra `spark`")
    if shutil.which("java") is None:
        pytest.skip("no Java, which Spark needs")
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(folder.glob("*.png"))[:12]:
        shutil.copy2(path, few)
    done = example(
        "spark_encode", few, tmp_path / "out", "--master", "local[1]", SPARK_LOCAL_IP="127.0.0.1"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 latents in ")
    rows = pq.read_table(tmp_path / "out").sort_by("id").to_pylist()
    assert [Path(row["id"]).name for row in rows] == [f"{k:03}.png" for k in range(12)]
    assert {row["fingerprint"] for row in rows} == {shipped.fingerprint}
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(few.glob("*.png"))])
    found = np.array([row["latent"] for row in rows], np.float32)
    np.testing.assert_allclose(found, shipped.encode(images[..., None]), atol=1e-4)
