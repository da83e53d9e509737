"""Query strings in tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import OptionError
from service.http import query as options
from service.http.query import PLAIN, Options


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", PLAIN),
        (b"&&", PLAIN),
        (b"other=1&Dtype=uint8", PLAIN),
        (b"dtype=uint8", Options(dtype="uint8")),
        (b"dtype=%75int8", Options(dtype="uint8")),
        (b"dtype=uint8&dtype=float32", Options(dtype="float32")),
        (b"encoding=base64", Options(encoding="base64")),
        (b"encoding=float", PLAIN),
        (b"fit=contain", Options(fit="contain")),
        (b"fit=stretch&invert=true", Options(fit="stretch", invert=True)),
        (b"invert=false", PLAIN),
        (b"url=http%3A%2F%2Fexample.org", PLAIN),
        (b"\xff=1", PLAIN),
    ],
)
def test_queries_that_are_read(query: bytes, expected: Options) -> None:
    assert options.read(query) == expected


@pytest.mark.parametrize(
    "query",
    [b"dtype=", b"dtype", b"dtype=float64", b"dtype=UINT8", b"dtype=uint8%20", b"encoding=hex",
     b"fit=cover", b"fit=true", b"invert=1", b"invert=True", b"invert=true&invert=no",
     b"fit=%00", b"fit=\xff", b"dtype=" + b"x" * 10_000],
)  # fmt: skip
def test_queries_that_are_refused_with_the_choices(query: bytes) -> None:
    with pytest.raises(OptionError) as caught:
        options.read(query)
    assert " or " in caught.value.expected
    assert len(str(caught.value)) < 200


@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_query_is_read_or_refused(query: bytes, fields: int) -> None:
    for some in (query, b"fit=" + query, b"a=1&" * fields + query):
        try:
            found = options.read(some)
        except OptionError:
            continue
        assert found.fit in (None, "contain", "stretch")
