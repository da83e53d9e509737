"""What a run keeps of its data for its export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.test_runs import fake_run
from training import reference
from training.data.arrays import Part, Rows
from training.data.datasets import Dataset
from training.errors import RunError
from training.reference import Reference, draw_reference, read_reference, write_reference
from training.runs import REFERENCE, Run

SHAPE = (4, 4, 1)


def numbered(count: int, start: int = 0) -> np.ndarray:
    """uint8 (count, 4, 4, 1): each image holds its own number."""
    images = np.zeros((count, *SHAPE), np.uint8)
    images[:, 0, 0, 0] = np.arange(start, start + count)
    return images


def dataset(*, pairs: bool = False) -> Dataset:
    train, validation, test = (
        Part(Rows(images), noisy=Rows(255 - images) if pairs else None)
        for images in (numbered(100), numbered(50, 100), numbered(60, 150))
    )
    return Dataset("some", "file", train, validation, test)


def test_small_data_is_kept_whole() -> None:
    data = dataset()
    found = draw_reference(data)
    np.testing.assert_array_equal(found.train, data.train.images)
    np.testing.assert_array_equal(found.validation, data.validation.images)
    assert found.train_noisy is None and found.validation_noisy is None


def test_of_more_some_are_kept_from_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MAX_TRAIN", 30)
    monkeypatch.setattr(reference, "MAX_VALIDATION", 20)
    found, again = draw_reference(dataset()), draw_reference(dataset())
    np.testing.assert_array_equal(found.train, again.train)
    for images, first, last, count in (
        (found.train, 0, 99, 30),
        (found.validation, 100, 149, 20),
    ):
        marks = images[:, 0, 0, 0].astype(int)
        assert len(set(marks)) == count
        assert list(marks) == sorted(marks)
        assert first <= marks[0] < first + 15 and last - 15 < marks[-1] <= last


def test_noisy_images_stay_beside_their_clean_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MAX_TRAIN", 30)
    found = draw_reference(dataset(pairs=True))
    assert found.train_noisy is not None and found.validation_noisy is not None
    np.testing.assert_array_equal(found.train_noisy, 255 - found.train)
    np.testing.assert_array_equal(found.validation_noisy, 255 - found.validation)


@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_written_is_read(tmp_path: Path, pairs: bool) -> None:
    kept = draw_reference(dataset(pairs=pairs))
    write_reference(tmp_path / "a.npz", kept)
    write_reference(tmp_path / "b.npz", kept)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = read_reference(tmp_path / "a.npz", SHAPE)
    for name, images in vars(kept).items():
        np.testing.assert_array_equal(getattr(found, name), images)


def test_a_run_reads_it_or_says_what_is_wrong(tmp_path: Path) -> None:
    run = Run.load(fake_run(tmp_path / "run"))
    assert run.reference() is None  # a run from before there was one
    path = run.path / REFERENCE
    write_reference(path, Reference(numbered(5), numbered(3)))
    found = run.reference()
    assert found is not None and len(found.train) == 5
    whole = path.read_bytes()
    train = numbered(5)
    for damage in (
        lambda: path.write_bytes(whole[:-40]),
        lambda: path.write_bytes(b""),
        lambda: np.savez(path, train=train),
        lambda: np.savez(path, train=train, validation=train, other=train),
        lambda: np.savez(path, train=train.astype(np.float32), validation=train),
        lambda: np.savez(path, train=train[:, :3], validation=train),
        lambda: np.savez(path, train=train, validation=train, train_noisy=train[:4]),
    ):
        damage()
        with pytest.raises(RunError, match=r"unreadable reference\.npz"):
            run.reference()
    assert json.loads((run.path / "config.json").read_text())["data"]["image_shape"] == [*SHAPE]
