"""The section on scores: outliers that are what they are called, and figures that follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import novelty as novelty
from benchmarks import outliers
from benchmarks.settings import Settings

SHAPE = (28, 28, 1)
ODD = (20, 24, 3)


@pytest.mark.parametrize("shape", [SHAPE, ODD])
@pytest.mark.parametrize("kind", [*outliers.DRAWN, *outliers.PURE_NOISE])
def test_each_kind_is_drawn_for_any_shape(kind: str, shape: tuple[int, int, int]) -> None:
    draw = {**outliers.DRAWN, **outliers.PURE_NOISE}[kind]
    one, two = (draw(6, shape, np.random.default_rng(seed)) for seed in (0, 0))
    assert (one.dtype, one.shape) == (np.uint8, (6, *shape))
    np.testing.assert_array_equal(one, two)
    if "pages" not in kind:
        assert one.std() > 10
        assert len({image.tobytes() for image in one}) == 6


def test_letters_lie_as_digits_do() -> None:
    found = outliers.letters(40, SHAPE, np.random.default_rng(1))[..., 0]
    y, x = np.mgrid[:28, :28] + 0.5
    for image in found.astype(float):
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)
        assert abs((image * y).sum() / image.sum() - 14) < 1
        assert abs((image * x).sum() / image.sum() - 14) < 1
        assert image[0].max() == image[:, 0].max() == 0  # black ground, light ink
    assert not set(outliers.LETTERS) & set(outliers.LOOK_ALIKES)
    assert len(outliers.LETTERS) + len(set(outliers.LOOK_ALIKES)) == 52


def test_digits_are_turned_against_the_clock() -> None:
    digit = np.zeros((1, *ODD[:1], 20, 3), np.uint8)
    digit[0, 2:5, 8:12] = 200  # at the top
    before = digit.copy()
    quarter = outliers.turned(90)(digit)
    assert quarter[0, 8:12, 2:5].min() == 200  # at the left
    np.testing.assert_array_equal(outliers.turned(180)(digit), digit[:, ::-1, ::-1])
    eighth = outliers.turned(45)(digit)
    y, x = np.argwhere(eighth[0, ..., 0] > 100).mean(axis=0)
    assert y < 9 and x < 9
    np.testing.assert_array_equal(outliers.inverted(digit), 255 - digit)
    np.testing.assert_array_equal(digit, before)


def test_what_cannot_be_measured_is_skipped(bundle_path: Path, tmp_path: Path) -> None:
    said: list[str] = []
    settings = Settings(bundle=bundle_path, served=bundle_path, out=tmp_path)
    assert novelty.run(settings, said.append) == {}
    settings = replace(settings, dataset="digits")
    assert novelty.run(settings, said.append) == {}
    assert "--dataset" in said[0]
    assert "no scores" in said[1]
    assert [*tmp_path.iterdir()] == []


def test_the_section_measures_and_writes(scored_bundle_path: Path, tmp_path: Path) -> None:
    """On 8×8 images, with a score that means nothing: figures are there, and are figures."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (800, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", images=images)
    said: list[str] = []
    settings = Settings(
        bundle=scored_bundle_path,
        served=scored_bundle_path,
        dataset=str(tmp_path / "some.npz"),
        out=tmp_path / "results",
        quick=True,
    )
    found = novelty.run(settings, said.append)
    assert json.loads((tmp_path / "results" / "novelty.json").read_text()) == found
    figures = found["precisions"]["float32"]
    assert set(figures["noise"]) == {
        "digits", *outliers.DRAWN, *outliers.TURNED, *outliers.PURE_NOISE,
    }  # fmt: skip
    assert figures["noise"]["digits"]["auroc"] is None
    for group in (figures["noise"], figures["no noise"]):
        for kind, row in group.items():
            assert 0 <= row["share_above"] <= 1, kind
            assert row["auroc"] is None or 0 <= row["auroc"] <= 1
    assert any("letters that look like digits" in text for text in said)
