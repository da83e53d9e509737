"""Drift: no alarm on the same digits, one on others, clear errors for invalid input."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.arrays import Array
from common.errors import DenoiserError, FingerprintError, MalformedError, RangeError
from service.bulk.errors import InputMissingError
from service.bulk.provenance import Provenance
from service.drift import command as drift
from service.drift import sample as drift_sample
from service.drift import statistics as drift_statistics
from service.engine import Engine
from tests.support.paths import BUNDLE, ROOT
from training.data.digits import load_digits_28

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SIZE = 16
A, B = "a" * 64, "b" * 64

Encode = Callable[..., Array]


def metadata(fingerprint: str, *, invert: bool = False) -> dict[bytes, bytes]:
    return Provenance(
        kind="latents",
        fingerprint=fingerprint,
        model="tiny",
        precision="float32",
        preprocessing={"invert": invert},
        version="0",
    ).as_metadata()


def write(path: Path, latents: Array, *, fingerprint: str | None = A, invert: bool = False) -> Path:
    """The Parquet file that `python -m service encode` makes of float32 (N, D)."""
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(latents).ravel()), latents.shape[1]
    )
    table = pa.table({"id": pa.array(range(len(latents)), pa.int64()), "latent": column})
    facts = None if fingerprint is None else metadata(fingerprint, invert=invert)
    pq.write_table(table.replace_schema_metadata(facts), path, row_group_size=4_000)
    return path


def normal(rows: int, seed: int = 0, shift: float = 0.0) -> Array:
    """float32 (rows, 16) from N(0, 1), the first number shifted."""
    latents = np.random.default_rng(seed).standard_normal((rows, SIZE), dtype=np.float32)
    latents[:, 0] += np.float32(shift)
    return latents


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    drift.add_arguments(parser)
    return drift.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def digits() -> tuple[Array, Array]:
    """scikit-learn's digits, float32 (1797, 28, 28, 1) in [0, 1], in random order, and labels."""
    images, labels = load_digits_28()
    order = np.random.default_rng(0).permutation(len(images))
    return images[order].reshape(-1, 28, 28, 1).astype(np.float32) / 255, labels[order]


@pytest.fixture(scope="module")
def encode() -> Encode:
    """Latents of noisy copies by the shipped model."""
    if not BUNDLE.is_dir():
        pytest.skip("no bundles/mnist in this checkout")
    engine = Engine.load(BUNDLE, threads=2)

    def latents(images: Array, *, std: float = 0.5, invert: bool = False, seed: int = 0) -> Array:
        noise = np.random.default_rng(seed).standard_normal(images.shape, dtype=np.float32)
        noisy = np.clip(images + noise * np.float32(std) + np.float32(0.5), 0, 1)
        return engine.encode(1 - noisy if invert else noisy)

    return latents


def compare(reference: Array, new: Array, *, alpha: float = 0.01) -> drift_statistics.Drift:
    rng = np.random.default_rng(0)
    return drift_statistics.compare(reference=reference, new=new, alpha=alpha, rng=rng)


# --- the statistics, on real latents


@pytest.mark.slow
def test_two_halves_of_the_same_digits_raise_no_more_alarms_than_alpha(
    digits: tuple[Array, Array], encode: Encode
) -> None:
    latents, alpha, splits = encode(digits[0]), 0.1, 60
    drifts = []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(latents))
        drifts.append(compare(latents[order[:300]], latents[order[300:600]], alpha=alpha))
    alarms = sum(drift.detected for drift in drifts)
    # At a rate of 0.1, more than 13 of 60 have a probability of 0.3 %, and none of 0.2 %.
    assert 1 <= alarms <= 13
    p_values = [drift.joint.p_value for drift in drifts]
    assert 0.35 < np.mean(p_values) < 0.65  # uniform: 0.5, deviation 0.04


@pytest.mark.parametrize("change", ["inverted", "more noise", "a class is missing"])
def test_what_has_changed_raises_the_alarm(
    digits: tuple[Array, Array], encode: Encode, change: str
) -> None:
    images, labels = digits
    reference, rest = encode(images[:900], seed=1), slice(900, None)
    if change == "inverted":
        new = encode(images[rest], seed=2, invert=True)
    elif change == "more noise":
        new = encode(images[rest], seed=2, std=0.75)
    else:
        new = encode(images[rest][labels[rest] != 0], seed=2)
    assert not compare(reference, encode(images[rest], seed=2)).detected
    assert compare(reference, new).detected


def test_a_shift_is_detected_in_its_dimension() -> None:
    found = compare(normal(3_000), normal(3_000, seed=1, shift=0.3))
    assert [one.index for one in found.dimensions if one.drifted] == [0]
    assert found.dimensions[0].shift == pytest.approx(0.3, abs=0.1)
    assert found.dimensions[0].wasserstein == pytest.approx(0.3, abs=0.1)


def test_a_change_of_correlation_is_detected_by_the_joint_test() -> None:
    """Each number is distributed as before; only the joint test can see it."""
    new = normal(1_000, seed=1)
    new[:, 1::2] = 0.8 * new[:, ::2] + 0.6 * new[:, 1::2]
    found = compare(normal(1_000), new)
    assert found.joint.drifted
    assert not any(one.drifted for one in found.dimensions)


def test_the_energy_distance_is_its_definition() -> None:
    x, y = normal(5), normal(7, seed=1, shift=2)
    pooled = np.concatenate([x, y]).astype(np.float64)
    x, y = x / pooled.std(axis=0), y / pooled.std(axis=0)

    def mean(a: Array, b: Array) -> float:
        return float(np.mean([[np.linalg.norm(p - q) for q in b] for p in a]))

    wanted = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    rng = np.random.default_rng(0)
    found = drift_statistics.joint(
        reference=normal(5), new=normal(7, seed=1, shift=2), alpha=0.01, rng=rng
    )
    assert found.distance == pytest.approx(wanted, rel=1e-4)


def test_the_correction_is_holm_s() -> None:
    assert drift_statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert drift_statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_small_alpha_gets_the_permutations_that_it_needs() -> None:
    found = compare(normal(200), normal(200, seed=1, shift=2), alpha=0.001)
    assert found.joint.p_value <= 1e-4
    assert found.joint.drifted


def test_numbers_that_never_change_are_no_drift() -> None:
    constant = np.zeros((200, SIZE), np.float32)
    found = compare(constant, constant)
    assert not found.detected
    assert {one.statistic for one in found.dimensions} == {0.0}


# --- the command


def test_no_drift_is_exit_status_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = write(tmp_path / "a.parquet", normal(500))
    new = write(tmp_path / "b.parquet", normal(500, seed=1))
    assert run(reference, new) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "no drift (alpha 0.01)"
    assert A in text


def test_drift_is_exit_status_4_with_picture_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = write(tmp_path / "a.parquet", normal(500))
    new = write(tmp_path / "b.parquet", normal(400, seed=1, shift=1), invert=True)
    picture = tmp_path / "made" / "drift.png"
    assert run(reference, new, "--picture", picture, "--json", "--alpha", 0.05) == 4
    facts = json.loads(capsys.readouterr().out)
    assert facts["drift"] is True
    assert (facts["reference"]["rows"], facts["new"]["rows"]) == (500, 400)
    assert [facts[side]["preprocessing"]["invert"] for side in ("reference", "new")] == [
        False,
        True,
    ]
    assert [one["drifted"] for one in facts["dimensions"]] == [True] + [False] * (SIZE - 1)
    assert facts["joint"]["rows"] == [500, 400]
    with Image.open(picture) as opened:
        assert opened.format == "PNG"
        assert opened.width > 800
    assert [path.name for path in picture.parent.iterdir()] == ["drift.png"]


def test_the_answer_is_the_same_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write(tmp_path / f"{k}.parquet", normal(3_000, seed=k)) for k in range(2)]
    for _ in range(2):
        run(*paths, "--json")
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_a_sample_is_fair_and_of_documented_size(tmp_path: Path) -> None:
    latents = normal(30_000)
    latents[:, 0] = np.arange(30_000)
    path = write(tmp_path / "many.parquet", latents)
    found = drift_sample.read(path, rng=np.random.default_rng(0))
    assert (found.rows, found.latents.shape) == (30_000, (drift_sample.SAMPLE_ROWS, SIZE))
    drawn = found.latents[:, 0].astype(int)
    assert len(set(drawn)) == len(drawn)
    np.testing.assert_array_equal(found.latents, latents[drawn])
    # each third of the file, from several batches and row groups, gives about a third
    shares = np.bincount(drawn // 10_000) / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)


def test_latents_of_two_models_are_refused_with_both_named(tmp_path: Path) -> None:
    reference = write(tmp_path / "a.parquet", normal(200))
    new = write(tmp_path / "b.parquet", normal(200), fingerprint=B)
    with pytest.raises(FingerprintError) as refusal:
        run(reference, new)
    assert all(word in str(refusal.value) for word in (A, B, str(reference), str(new)))


def test_different_preprocessing_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = write(tmp_path / "a.parquet", normal(200))
    run(reference, write(tmp_path / "b.parquet", normal(200), invert=True))
    assert "preprocessed differently" in capsys.readouterr().out


def test_sets_that_are_too_small_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "a.parquet", normal(100))
    small = write(tmp_path / "b.parquet", normal(99))
    with pytest.raises(drift_sample.TooFewError, match="99 latents"):
        run(good, small)
    assert run(good, good) == 0


def nan_latents() -> Array:
    latents = normal(200)
    latents[150, 3] = np.nan
    return latents


def write_bad(path: Path, kind: str) -> Path:
    if kind == "nan":
        return write(path, nan_latents())
    if kind == "no fingerprint":
        return write(path, normal(200), fingerprint=None)
    if kind == "text":
        path.write_text("id,latent\n")
    elif kind == "cut":
        path.write_bytes(write(path, normal(200)).read_bytes()[:-20])
    elif kind == "null":
        cells = pa.array([[0.0] * SIZE] * 199 + [None], pa.list_(pa.float32(), SIZE))
        pq.write_table(pa.table({"latent": cells}).replace_schema_metadata(metadata(A)), path)
    elif kind == "no latents":
        pq.write_table(pa.table({"id": [1], "score": [0.5]}), path)
    elif kind == "other lists":
        pq.write_table(pa.table({"latent": [[0.0] * SIZE] * 200}), path)
    return path


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("absent", InputMissingError, "no file"),
        ("text", MalformedError, "is not valid Parquet"),
        ("cut", MalformedError, "is not valid Parquet"),
        ("no latents", MalformedError, "columns id, score"),
        ("other lists", MalformedError, "latent as list"),
        ("no fingerprint", MalformedError, "without denoiser.fingerprint"),
        ("nan", RangeError, "NaN or infinity"),
        ("null", RangeError, "null"),
    ],
)
def test_what_is_no_file_of_latents_is_refused(
    tmp_path: Path, kind: str, error: type[DenoiserError], text: str
) -> None:
    good = write(tmp_path / "good.parquet", normal(200))
    with pytest.raises(error, match=text):
        run(good, write_bad(tmp_path / "bad.parquet", kind))


@pytest.mark.parametrize("alpha", ["0", "1", "nan", "five"])
def test_a_senseless_alpha_is_wrong_usage(alpha: str) -> None:
    with pytest.raises(SystemExit) as refusal:
        run("a.parquet", "b.parquet", "--alpha", alpha)
    assert refusal.value.code == 2


@pytest.mark.parametrize("package", ["pyarrow", "scipy", "matplotlib"])
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, package: str) -> None:
    paths = [write(tmp_path / f"{k}.parquet", normal(200, seed=k)) for k in range(2)]
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from service.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "drift", *paths, "--picture", tmp_path / "drift.png"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert package in done.stderr
    assert "extra `drift`" in done.stderr


@pytest.mark.slow
def test_the_command_line_has_the_exit_statuses(tmp_path: Path) -> None:
    reference = write(tmp_path / "a.parquet", normal(200))
    files = {
        0: write(tmp_path / "same.parquet", normal(200, seed=1)),
        4: write(tmp_path / "moved.parquet", normal(200, seed=1, shift=2)),
        1: write(tmp_path / "other.parquet", normal(200), fingerprint=B),
    }
    for status, new in files.items():
        done = subprocess.run(
            [sys.executable, "-m", "service", "drift", reference, new],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
