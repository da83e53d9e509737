"""Arrays that stay on disk while they are trained on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.paths import ROOT
from training.data.arrays import Rows, Stored, read_arrays
from training.data.datasets import load_dataset
from training.errors import DatasetError

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 6, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, ">f8", np.bool_])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_way_of_storing_gives_the_same_images(tmp_path: Path, dtype: str, order: str) -> None:
    kind = np.dtype(dtype)
    values = IMAGES / 255 if kind.kind == "f" else IMAGES > 99 if kind.kind == "b" else IMAGES
    array = np.asarray(values.astype(kind), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", images=array)
    np.savez_compressed(tmp_path / "c.npz", images=array)
    found = [load_dataset(str(tmp_path / name)) for name in ("a.npy", "b.npz", "c.npz")]
    hashes = [dataset.facts()["sha256"] for dataset in found]
    assert hashes[0] == hashes[1] == hashes[2]
    expected = np.where(IMAGES > 99, 255, 0) if kind.kind == "b" else IMAGES
    everything = np.concatenate([found[0].train.images, found[0].validation.images,
                                 found[0].test.images])  # fmt: skip
    assert sorted(map(bytes, everything)) == sorted(map(bytes, expected.astype(np.uint8)))


def test_only_compressed_arrays_are_read_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES)
    np.savez_compressed(tmp_path / "b.npz", images=IMAGES)
    assert isinstance(read_arrays(tmp_path / "a.npz")["images"], Stored)
    assert isinstance(read_arrays(tmp_path / "b.npz")["images"], np.ndarray)


def test_a_file_that_changes_or_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, IMAGES)
    array = read_arrays(path)["images"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"'a\.npy' changed meanwhile"):
        array[3:5]
    with pytest.raises(DatasetError, match=r"'a\.npy' is damaged"):
        read_arrays(path)


def test_a_flipped_bit_in_an_archive_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(DatasetError, match=r"'a\.npz' is damaged"):
        read_arrays(path)


def test_rows_of_rows() -> None:
    rows = Rows(Rows(IMAGES, np.arange(10, 30)), np.array([3, 1, 7]))
    np.testing.assert_array_equal(rows, IMAGES[[13, 11, 17]])
    np.testing.assert_array_equal(rows[1], IMAGES[11])
    np.testing.assert_array_equal(list(rows), IMAGES[[13, 11, 17]])
    assert (len(rows), rows.shape) == (3, (3, 6, 4, 3))


READER = """
import resource, sys
from training.data.datasets import load_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
dataset = load_dataset(sys.argv[1])
dataset.facts()
for start in range(0, len(dataset.train.images), 64):
    dataset.train.images[start : start + 64]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_reading_takes_far_less_memory_than_the_array(tmp_path: Path, name: str) -> None:
    shape, path = (300, 512, 512, 3), tmp_path / name  # 236 MB
    images = np.broadcast_to(np.arange(300, dtype=np.uint8)[:, None, None, None], shape)
    np.save(path, images) if path.suffix == ".npy" else np.savez(path, images=images)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path)],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 120 * 2**20
