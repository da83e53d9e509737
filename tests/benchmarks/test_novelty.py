"""The section on novelty scores: outliers that match their names, and figures in their ranges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import novelty, outliers
from benchmarks.settings import Settings

SHAPE = (28, 28, 1)
ODD = (20, 24, 3)


@pytest.mark.parametrize("shape", [SHAPE, ODD])
@pytest.mark.parametrize("kind", [*outliers.DRAWN, *outliers.PURE_NOISE])
def test_each_kind_is_drawn_for_any_shape(kind: str, shape: tuple[int, int, int]) -> None:
    draw = {**outliers.DRAWN, **outliers.PURE_NOISE}[kind]
    one, two = (draw(6, shape, np.random.default_rng(seed)) for seed in (0, 0))
    assert one.dtype == np.uint8
    assert one.shape == (6, *shape)
    np.testing.assert_array_equal(one, two)
    if "images" not in kind:
        assert one.std() > 10
        assert len({image.tobytes() for image in one}) == 6


def test_letters_are_placed_as_digits_are() -> None:
    letters = outliers.letters(40, SHAPE, np.random.default_rng(1))[..., 0]
    y, x = np.mgrid[:28, :28] + 0.5
    for image in letters.astype(float):
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)
        assert abs((image * y).sum() / image.sum() - 14) < 1
        assert abs((image * x).sum() / image.sum() - 14) < 1
        assert image[0].max() == image[:, 0].max() == 0  # black background
    assert not set(outliers.LETTERS) & set(outliers.LOOK_ALIKES)
    assert len(outliers.LETTERS) + len(set(outliers.LOOK_ALIKES)) == 52


def test_digits_are_rotated_anticlockwise() -> None:
    digit = np.zeros((1, *ODD[:1], 20, 3), np.uint8)
    digit[0, 2:5, 8:12] = 200  # at the top
    before = digit.copy()
    quarter = outliers.rotated(90)(digit)
    assert quarter[0, 8:12, 2:5].min() == 200  # at the left
    np.testing.assert_array_equal(outliers.rotated(180)(digit), digit[:, ::-1, ::-1])
    eighth = outliers.rotated(45)(digit)
    y, x = np.argwhere(eighth[0, ..., 0] > 100).mean(axis=0)
    assert y < 9 and x < 9
    np.testing.assert_array_equal(outliers.inverted(digit), 255 - digit)
    np.testing.assert_array_equal(digit, before)


def test_what_cannot_be_measured_is_skipped(
    bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(bundle=bundle_path, served=bundle_path, out=tmp_path)
    assert novelty.run(settings) == {}
    assert "--dataset" in capsys.readouterr().out
    assert novelty.run(replace(settings, dataset="digits")) == {}
    assert "no scores" in capsys.readouterr().out
    assert [*tmp_path.iterdir()] == []


def test_the_section_measures_and_writes(
    scored_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On 8×8 images, with an arbitrary score: every figure is there, in its range."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (800, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    settings = Settings(
        bundle=scored_bundle_path,
        served=scored_bundle_path,
        dataset=str(tmp_path / "images.npz"),
        out=tmp_path / "results",
        quick=True,
    )
    result = novelty.run(settings)
    assert json.loads((tmp_path / "results" / "novelty.json").read_text()) == result
    figures = result["precisions"]["float32"]
    kinds = {"digits", *outliers.DRAWN, *outliers.CHANGED, *outliers.PURE_NOISE}
    assert set(figures["noise"]) == kinds
    assert figures["noise"]["digits"]["auroc"] is None
    for group in (figures["noise"], figures["no noise"]):
        for kind, row in group.items():
            assert 0 <= row["share_above"] <= 1, kind
            assert row["auroc"] is None or 0 <= row["auroc"] <= 1
    assert "letters that look like digits" in capsys.readouterr().out
