"""Specs: every noise reads back as itself, parts apply in turn, and bad ones are refused."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import SettingsError
from training.noise.kinds import KINDS, Kind
from training.noise.ranges import Range
from training.noise.spec import (
    DEFAULT_NOISE,
    HELP,
    PAIRS,
    Noise,
    described,
    drawn_noise,
    parse_noise,
)


def ranges(low: float, high: float) -> st.SearchStrategy[Range]:
    ends = st.tuples(st.floats(low, high), st.floats(low, high))
    return ends.map(lambda pair: Range(min(pair), max(pair)))


def with_any_numbers(kind: type[Kind]) -> st.SearchStrategy[Kind]:
    limits = [part.metadata["limits"] for part in fields(kind)]
    return st.builds(kind, *(ranges(each.minimum, each.maximum) for each in limits))


anything = st.one_of([with_any_numbers(kind) for kind in KINDS.values()])


@given(st.lists(anything, min_size=1, max_size=4))
def test_a_spec_reads_back_as_the_same_noise(parts: list[Kind]) -> None:
    noise = Noise(tuple(parts))
    assert parse_noise(str(noise)) == noise
    assert str(parse_noise(str(noise))) == str(noise)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_alone_has_default_numbers(kind: str) -> None:
    assert str(parse_noise(kind)).startswith(f"{kind}:")
    assert parse_noise(kind) == Noise((KINDS[kind](),))


def test_the_classic_is_the_default() -> None:
    assert str(parse_noise("gaussian")) == DEFAULT_NOISE == "gaussian:0.5,0.5"


def test_spelling_does_not_matter() -> None:
    spec = " gaussian: 5e-1,.5 + mask:0.10 + blur:1e+00 "
    assert str(parse_noise(spec)) == "gaussian:0.5,0.5+mask:0.1+blur:1.0"


def test_parts_apply_from_left_to_right_with_one_generator() -> None:
    images = np.full((4, 8, 8, 1), 0.5, np.float32)
    rng = np.random.default_rng(0)
    expected = parse_noise("mask:0.5").apply(images, rng)
    expected = parse_noise("gaussian:0.2,0.1").apply(expected, rng)
    both = parse_noise("mask:0.5+gaussian:0.2,0.1")
    np.testing.assert_array_equal(both.apply(images, np.random.default_rng(0)), expected)
    other = parse_noise("gaussian:0.2,0.1+mask:0.5").apply(images, np.random.default_rng(0))
    assert (expected == 0).mean() < 0.1 < (other == 0).mean()
    assert (images == 0.5).all()


def test_levels_and_descriptions_are_those_of_the_parts() -> None:
    noise = parse_noise("gaussian:0.5,0.5+mask:0.2..0.4")
    assert str(noise.at(0.5)) == "gaussian:0.5,0.25+mask:0.2"
    assert [part["kind"] for part in noise.describe()] == ["gaussian", "mask"]


FORMS = "one of gaussian:MEAN,STD, salt-pepper:P, speckle:STD, poisson:PEAK, mask:P, blur:SIGMA"


@pytest.mark.parametrize(
    ("spec", "received", "expected"),
    [
        ("", "noise ''", FORMS),
        ("rain", "noise 'rain'", FORMS),
        ("pairs", "noise 'pairs'", FORMS),
        ("gauss:1,1", "noise 'gauss:1,1'", FORMS),
        ("gaussian:", "'gaussian:' with 1 number", "gaussian:MEAN,STD, 2 numbers"),
        ("gaussian:1", "'gaussian:1' with 1 number", "2 numbers"),
        ("gaussian:1,2,3", "with 3 numbers", "2 numbers"),
        ("mask:0.1,0.2", "'mask:0.1,0.2' with 2 numbers", "mask:P, 1 number"),
        ("gaussian:a,b", "the number 'a'", "a finite number, or LOW..HIGH"),
        ("gaussian:nan,1", "the number 'nan'", "a finite number"),
        ("gaussian:0,inf", "the number 'inf'", "a finite number"),
        ("gaussian:0,1..0.5", "the number '1..0.5'", "LOW not above HIGH"),
        ("blur+", "'blur+' with an empty part", FORMS),
        ("+blur", "'+blur' with an empty part", FORMS),
        ("blur++mask", "'blur++mask' with an empty part", FORMS),
        ("blur+fog:1", "noise 'fog:1'", FORMS),
    ],
)
def test_a_bad_spec_is_refused_by_name(spec: str, received: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=r"noise .*; expected .*\. Pass for example") as caught:
        parse_noise(spec)
    assert received in caught.value.received
    assert expected in caught.value.expected


def test_the_examples_of_the_messages_are_good() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_noise("rain")
    parse_noise(caught.value.hint.rpartition(" ")[2].rstrip("."))


def test_the_help_names_every_kind_with_its_numbers() -> None:
    for kind in KINDS.values():
        assert kind.form() in HELP


def test_what_a_run_says_of_its_noise() -> None:
    assert drawn_noise(None) is drawn_noise(PAIRS) is None
    assert drawn_noise("mask:0.5") == parse_noise("mask:0.5")
    assert described(None) == []
    assert described(PAIRS) == [{"kind": "pairs", "parameters": {}}]
    assert described("mask:0.5") == [{"kind": "mask", "parameters": {"p": [0.5, 0.5]}}]
