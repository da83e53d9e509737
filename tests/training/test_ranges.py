"""Numbers of a noise: fixed or drawn for each image, and how they follow a strength."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import SettingsError
from training.noise.ranges import Limits, Range, require_level

numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers)
def test_a_range_reads_back_as_the_same(one: float, other: float) -> None:
    numbers = Range(min(one, other), max(one, other))
    assert Range.parse(str(numbers)) == numbers


@pytest.mark.parametrize(
    ("text", "low", "high", "spelt"),
    [
        ("0.5", 0.5, 0.5, "0.5"),
        ("0..1", 0, 1, "0.0..1.0"),
        (" 0.25 .. .5", 0.25, 0.5, "0.25..0.5"),
        ("0.5..0.5", 0.5, 0.5, "0.5"),
        ("-1..1e-3", -1, 0.001, "-1.0..0.001"),
        ("-0", 0, 0, "0.0"),
    ],
)
def test_what_is_written_is_spelt_in_one_way(
    text: str, low: float, high: float, spelt: str
) -> None:
    numbers = Range.parse(text)
    assert (numbers.low, numbers.high, str(numbers)) == (low, high, spelt)


@pytest.mark.parametrize(
    "text", ["", "a", "..", "1..", "..1", "0..1..2", "2..1", "nan", "0..nan", "inf", "-inf..0"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Range.parse(text)
    assert caught.value.received == f"noise with the number {text!r}"


def test_each_image_draws_its_own_number_uniformly() -> None:
    drawn = Range(0.2, 0.6).draw(np.random.default_rng(0), 20_000)
    assert drawn.shape == (20_000, 1, 1, 1)
    assert drawn.dtype == np.float32
    shares, _ = np.histogram(drawn, bins=4, range=(0.2, 0.6))
    np.testing.assert_allclose(shares / 20_000, 0.25, atol=0.015)
    assert shares.sum() == 20_000


def test_a_fixed_number_takes_nothing_from_the_generator() -> None:
    rng = np.random.default_rng(0)
    assert Range(0.5, 0.5).draw(rng, 3).shape == ()
    assert rng.random() == np.random.default_rng(0).random()


def test_a_level_moves_a_number_by_its_power_within_the_limits() -> None:
    deviation, peak = (Limits(0.25, 100, power) for power in (1, -2))
    fixed = [Range(value, value) for value in (2, 8)]
    assert [deviation.at(fixed[0], level) for level in (0, 0.5, 3, 99)] == [0.25, 1, 6, 100]
    assert [peak.at(fixed[1], level) for level in (0, 0.5, 2, 99)] == [100, 32, 2, 0.25]


def test_a_level_counts_from_the_strong_end() -> None:
    deviation, peak, mean = (Limits(0, 100, power) for power in (1, -2, 0))
    levels = (0.5, 1, 2)
    assert [deviation.at(Range(1, 4), level) for level in levels] == [2, 4, 8]
    assert [peak.at(Range(1, 4), level) for level in levels] == [4, 1, 0.25]
    assert [mean.at(Range(1, 4), level) for level in (0, *levels)] == [1, 2.5, 4, 4]


@pytest.mark.parametrize("level", [-0.1, math.nan, math.inf])
def test_invalid_levels_are_refused(level: float) -> None:
    with pytest.raises(SettingsError, match="noise level"):
        require_level(level)
