"""Intervals of means: right on average, paired, and silent where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.bootstrap import RESAMPLES, estimate, estimates


def test_the_interval_is_the_normal_one_for_normal_values() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = estimate(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    found = [estimate(rng.exponential(1, 60)) for _ in range(100)]
    covering = np.mean([low <= 1 <= high for _, low, high in found if low and high])
    assert 0.87 < covering < 1  # 95 % up to what skewed values of 60 images cost


def test_rows_are_estimated_as_if_alone_and_always_alike() -> None:
    rows = np.random.default_rng(3).normal(size=(4, 50))
    together = estimates(rows)
    assert together == estimates(rows)
    for one, row in zip(together, rows, strict=True):
        assert one == pytest.approx(estimate(row))
    assert RESAMPLES >= 2000


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=500)
    whole = estimate(values)
    monkeypatch.setattr("training.evaluation.bootstrap.MAX_BATCH", 4000)
    parts = estimate(values)
    assert parts.low == pytest.approx(whole.low, abs=0.01)
    assert parts.high == pytest.approx(whole.high, abs=0.01)


def test_what_has_no_interval_has_none() -> None:
    assert estimate(np.array([0.5])) == (0.5, None, None)
    assert estimate(np.array([1.0, np.inf])) == (None, None, None)
    assert estimate(np.ones(9, bool)) == (1.0, 1.0, 1.0)
    mixed = estimates([np.array([1.0, np.nan, 2.0]), np.array([1.0, 1.0, 1.0])])
    assert mixed == [(None, None, None), (1.0, 1.0, 1.0)]


def test_figures_are_left_as_they_are() -> None:
    values = np.arange(9, dtype=np.float32)
    values.setflags(write=False)
    assert estimate(values).mean == 4.0
