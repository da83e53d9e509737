"""Each kind of noise: its statistics, its ranges, its strength, and what all of them promise."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from training.errors import SettingsError
from training.noise.kinds import KINDS
from training.noise.spec import Noise, parse_noise

RANGES = {
    "gaussian": "gaussian:0..0.5,0.1..0.7",
    "salt-pepper": "salt-pepper:0.05..0.8",
    "speckle": "speckle:0.1..0.9",
    "poisson": "poisson:2..40",
    "mask": "mask:0.1..0.9",
    "blur": "blur:0.3..2",
}
SPECS = [*KINDS, *RANGES.values(), "blur:1+gaussian:0.1,0.2+mask:0..0.3"]


def grey(value: float, count: int = 40, channels: int = 1) -> np.ndarray:
    return np.full((count, 28, 28, channels), value, np.float32)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def apply(spec: str, images: np.ndarray, seed: int = 0) -> np.ndarray:
    return parse_noise(spec).apply(images, np.random.default_rng(seed))


# --- what all kinds promise


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [(5, 12, 8, 1), (3, 7, 9, 3), (0, 8, 8, 1)])
def test_every_kind_gives_new_images_in_range(spec: str, shape: tuple[int, ...]) -> None:
    images = random(*shape)
    images[:, :4] = 0
    images[:, 4:6] = 1
    before = images.copy()
    once, again, other = (apply(spec, images, seed) for seed in (5, 5, 6))
    assert once.dtype == np.float32
    assert once.shape == images.shape
    assert once is not images
    assert ((once >= 0) & (once <= 1)).all()  # NaN fails, too
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(once, again)
    if images.size and not spec.startswith("blur:1") and spec != "blur":
        assert (once != other).any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_range_for_each_image(kind: str) -> None:
    images = np.repeat(random(1, 28, 28, 1), 200, axis=0)
    noisy = apply(RANGES[kind], images)
    errors = ((noisy - images) ** 2).mean(axis=(1, 2, 3))
    # Where all had the same numbers, their errors would be nearly the same.
    fixed = ((apply(str(parse_noise(kind)), images) - images) ** 2).mean(axis=(1, 2, 3))
    assert errors.std() / errors.mean() > 3 * fixed.std() / fixed.mean()
    assert len(np.unique(errors)) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_of_one_number_is_that_number(kind: str) -> None:
    fixed = str(parse_noise(kind))
    name, _, values = fixed.partition(":")
    twice = f"{name}:{','.join(f'{value}..{value}' for value in values.split(','))}"
    np.testing.assert_array_equal(
        apply(fixed, random(4, 8, 8, 1)), apply(twice, random(4, 8, 8, 1))
    )


@pytest.mark.parametrize("spec", SPECS)
def test_errors_grow_with_the_level(spec: str) -> None:
    noise = parse_noise(spec)
    images = random(20, 28, 28, 1)
    noisy = [noise.at(level).apply(images, np.random.default_rng(0)) for level in (0.25, 0.5, 1)]
    errors = [((one - images) ** 2).mean() for one in noisy]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("spec", SPECS)
def test_a_level_is_one_fixed_strength_within_the_limits(spec: str) -> None:
    noise = parse_noise(spec)
    for level in (0, 0.7, 1e9):
        fixed = noise.at(level)
        assert ".." not in str(fixed)
        assert parse_noise(str(fixed)) == fixed
    assert (noise.at(1) == noise) == (".." not in spec)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"gaussian"}))
def test_without_strength_nothing_changes(kind: str) -> None:
    images = random(4, 12, 12, 1)
    np.testing.assert_allclose(apply(str(parse_noise(kind).at(0)), images), images, atol=0.006)


@pytest.mark.parametrize("spec", SPECS)
def test_a_description_is_json_that_makes_the_noise_again(spec: str) -> None:
    def spelt(part: dict[str, Any]) -> str:
        ranges = (f"{low}..{high}" for low, high in part["parameters"].values())
        return f"{part['kind']}:{','.join(ranges)}"

    description = json.loads(json.dumps(parse_noise(spec).describe()))
    assert parse_noise("+".join(spelt(part) for part in description)) == parse_noise(spec)


def test_a_description_names_parameters_and_their_ends() -> None:
    assert parse_noise("gaussian:0..0.5,0.7").describe() == [
        {"kind": "gaussian", "parameters": {"mean": [0.0, 0.5], "std": [0.7, 0.7]}}
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gaussian:0,-1", r"whose std is -1\.0; expected a std from 0 to 1000000"),
        ("gaussian:-2e6,1", "whose mean is"),
        ("gaussian:0,-0.1..1", r"whose std is -0\.1\.\.1\.0"),
        ("salt-pepper:1.01", r"expected a p from 0 to 1\."),
        ("speckle:-0.5", "whose std is"),
        ("poisson:0", "expected a peak from 0.001"),
        ("poisson:-3", "whose peak is"),
        ("mask:-0.1", "whose p is"),
        ("mask:0..2", "whose p is"),
        ("blur:-1", "whose sigma is"),
        ("blur:1000", r"a sigma from 0 to 100\."),
    ],
)
def test_numbers_outside_their_limits_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_noise(spec)


# --- gaussian


def test_gaussian_adds_its_mean_and_deviation_where_nothing_is_clipped() -> None:
    noisy = apply("gaussian:0.1,0.05", grey(0.4))
    assert noisy.mean() == pytest.approx(0.5, abs=0.001)
    assert noisy.std() == pytest.approx(0.05, abs=0.001)
    assert len(np.unique(noisy[:2])) > 0.95 * noisy[:2].size


def test_the_classic_gaussian_is_clipped_to_the_range() -> None:
    noisy = apply("gaussian:0.5,0.5", grey(0.0))
    # N(0.5, 0.5) leaves [0, 1] one standard deviation away, on either side.
    assert (noisy == 0).mean() == pytest.approx(0.1587, abs=0.01)
    assert (noisy == 1).mean() == pytest.approx(0.1587, abs=0.01)


def test_a_fixed_gaussian_keeps_its_numbers() -> None:
    """Runs of earlier versions can be resumed and measured again: the draws must not move."""
    images = random(5, 8, 8, 3)
    drawn = np.random.default_rng(3).standard_normal(images.shape, dtype=np.float32)
    expected = np.clip(drawn * np.float32(0.3) + np.float32(0.2) + images, 0, 1)
    np.testing.assert_array_equal(apply("gaussian:0.2,0.3", images, seed=3), expected)


def test_a_gaussian_range_draws_mean_and_deviation_apart() -> None:
    noisy = apply("gaussian:0.2..0.4,0.01..0.1", grey(0.2, count=2000))
    means, deviations = noisy.mean(axis=(1, 2, 3)) - 0.2, noisy.std(axis=(1, 2, 3))
    assert means.min() == pytest.approx(0.2, abs=0.01)
    assert means.max() == pytest.approx(0.4, abs=0.01)
    assert deviations.min() == pytest.approx(0.01, abs=0.003)
    assert deviations.max() == pytest.approx(0.1, abs=0.01)
    assert abs(np.corrcoef(means, deviations)[0, 1]) < 0.1


def test_without_deviation_a_gaussian_only_shifts() -> None:
    np.testing.assert_array_equal(apply("gaussian:0.25,0", grey(0.5)), grey(0.75))


# --- the others


def test_salt_and_pepper_come_in_equal_shares() -> None:
    noisy = apply("salt-pepper:0.3", grey(0.5, channels=3))
    assert (noisy == 0).mean() == pytest.approx(0.15, abs=0.005)
    assert (noisy == 1).mean() == pytest.approx(0.15, abs=0.005)
    assert (noisy == 0.5).mean() == pytest.approx(0.7, abs=0.007)
    assert set(np.unique(apply("salt-pepper:1", grey(0.5)))) == {0, 1}


def test_speckle_goes_with_the_light() -> None:
    for value in (0.0, 0.1, 0.5):
        noisy = apply("speckle:0.2", grey(value))
        assert noisy.mean() == pytest.approx(value, abs=0.003)
        assert noisy.std() == pytest.approx(0.2 * value, abs=0.002)


def test_poisson_counts_photons() -> None:
    noisy = apply("poisson:50", grey(0.3))
    np.testing.assert_allclose(noisy * 50, np.rint(noisy * 50), atol=1e-4)
    assert noisy.mean() == pytest.approx(0.3, abs=0.002)
    assert noisy.var() == pytest.approx(0.3 / 50, rel=0.05)
    # Half as strong: half the deviation, at four times the photons.
    assert str(parse_noise("poisson:50").at(0.5)) == "poisson:200.0"


def test_a_mask_takes_whole_pixels() -> None:
    noisy = apply("mask:0.25", grey(0.5, channels=3))
    assert (noisy == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert set(np.unique(noisy)) == {0, 0.5}
    assert (noisy == noisy[..., :1]).all()
    assert not apply("mask:1", grey(0.5)).any()


def test_blur_is_a_gaussian_filter_of_each_channel() -> None:
    images = random(3, 16, 12, 3)
    noisy = apply("blur:1.5", images)
    for image, blurred in zip(images, noisy, strict=True):
        for channel in range(3):
            expected = gaussian_filter(image[..., channel], 1.5)
            np.testing.assert_allclose(blurred[..., channel], expected, atol=1e-6)
    np.testing.assert_array_equal(apply("blur:0", images), images)


def test_a_blur_range_has_a_width_for_each_image() -> None:
    images = random(6, 16, 12, 1)
    noisy = apply("blur:0.5..3", images, seed=4)
    widths = np.random.default_rng(4).uniform(0.5, 3, 6).astype(np.float32)
    for image, blurred, width in zip(images, noisy, widths, strict=True):
        np.testing.assert_allclose(blurred, gaussian_filter(image, (width, width, 0)), atol=1e-6)


def test_a_mean_follows_the_level_through_its_range() -> None:
    blind: Noise = parse_noise("gaussian:0..0.5,0..0.8")
    assert [str(blind.at(level)) for level in (0, 0.5, 1, 2)] == [
        "gaussian:0.0,0.0",
        "gaussian:0.25,0.4",
        "gaussian:0.5,0.8",
        "gaussian:0.5,1.6",
    ]
    assert str(parse_noise("gaussian:0.5,0.5").at(0.5)) == "gaussian:0.5,0.25"
