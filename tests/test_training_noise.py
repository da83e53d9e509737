"""The noise: its statistics, its seeds, its purity, and its specs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import SettingsError
from training.noise import KINDS, GaussianNoise, parse_noise


def grey(value: float, count: int = 40) -> np.ndarray:
    return np.full((count, 28, 28, 1), value, np.float32)


def test_adds_the_mean_and_deviation_where_nothing_is_clipped() -> None:
    noisy = GaussianNoise(0.1, 0.05).apply(grey(0.4), np.random.default_rng(0))
    assert noisy.mean() == pytest.approx(0.5, abs=0.001)
    assert noisy.std() == pytest.approx(0.05, abs=0.001)


def test_clips_the_classic_noise_to_the_range() -> None:
    noisy = GaussianNoise().apply(grey(0.0), np.random.default_rng(0))
    assert noisy.min() == 0.0
    assert noisy.max() == 1.0
    # N(0.5, 0.5) leaves [0, 1] one standard deviation away, on either side.
    assert (noisy == 0).mean() == pytest.approx(0.1587, abs=0.01)
    assert (noisy == 1).mean() == pytest.approx(0.1587, abs=0.01)


def test_is_repeatable_and_leaves_its_input_alone() -> None:
    images = np.random.default_rng(1).random((3, 8, 8, 3), dtype=np.float32)
    before = images.copy()
    once, again, other = (
        GaussianNoise().apply(images, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert once.dtype == np.float32
    assert once.shape == images.shape
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_every_value_has_noise_of_its_own() -> None:
    noisy = GaussianNoise(0.0, 0.05).apply(grey(0.5, 2), np.random.default_rng(0))
    assert len(np.unique(noisy)) > 0.95 * noisy.size


def test_without_deviation_it_only_shifts() -> None:
    noisy = GaussianNoise(0.25, 0.0).apply(grey(0.5), np.random.default_rng(0))
    np.testing.assert_array_equal(noisy, grey(0.75))


numbers = st.floats(-10, 10, allow_nan=False)


@given(mean=numbers, std=st.floats(0, 10))
def test_a_spec_reads_back_as_the_same_noise(mean: float, std: float) -> None:
    noise = GaussianNoise(mean, std)
    assert parse_noise(str(noise)) == noise


@given(mean=numbers, std=st.floats(0, 10), seed=st.integers(0, 100))
def test_any_noise_stays_in_range(mean: float, std: float, seed: int) -> None:
    noisy = GaussianNoise(mean, std).apply(grey(0.3, 1), np.random.default_rng(seed))
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_a_bare_kind_is_the_classic() -> None:
    assert parse_noise("gaussian") == GaussianNoise(0.5, 0.5)


def test_scaled_changes_the_deviation_alone() -> None:
    assert GaussianNoise(0.5, 0.5).scaled(0.5) == GaussianNoise(0.5, 0.25)


@pytest.mark.parametrize(
    "spec", ["", "gauss:1,1", "gaussian:a,b", "gaussian:1,2,3", "gaussian:0,-1", "gaussian:nan,1"]
)
def test_a_bad_spec_is_refused_by_name(spec: str) -> None:
    with pytest.raises(SettingsError, match=r"noise .*; expected .*; pass for example --noise"):
        parse_noise(spec)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_parsed_and_written_again(kind: str) -> None:
    assert str(parse_noise(kind)).startswith(f"{kind}:")
