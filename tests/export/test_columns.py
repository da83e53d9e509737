"""Channels as columns: the same first layer on images as they come, or left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from export.rewrite.columns import read_channels_last
from export.rewrite.graph import Graph
from tests.export.test_cleanup import graph_of, ops
from tests.export.test_fold import assert_same, in_runtime

Pair = tuple[int, int]
FIRST = {"perm": [0, 3, 1, 2]}


def layer(
    *,
    image: tuple[int, int, int] = (5, 4, 3),
    kernel: Pair = (3, 3),
    bias: bool = True,
    perm: dict[str, Any] | None = None,
    group: int = 1,
    **attributes: Any,
) -> Graph:
    """x (N, H, W, C) → Transpose → Conv of 2 filters → y."""
    rng = np.random.default_rng(0)
    channels = image[2]
    constants = {
        "w": rng.normal(0, 1, (2 * group, channels // group, *kernel)).astype(np.float32),
        "b": rng.normal(0, 1, 2 * group).astype(np.float32),
    }
    return graph_of([
        ("Transpose", ["x"], "t", perm or FIRST),
        ("Conv", ["t", "w", "b"][: 2 + bias], "y", {**attributes, "group": group}),
    ], constants, image, (2 * group, "H'", "W'"))  # fmt: skip


def rows_for(image: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (2, *image)).astype(np.float32)


@settings(max_examples=40)
@given(
    image=st.tuples(st.integers(3, 7), st.integers(3, 7), st.integers(2, 4)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    bias=st.booleans(),
)
@example((6, 6, 3), (3, 3), (2, 2), (0, 0, 1, 1), True)  # as Keras pads an even side
def test_any_geometry_gives_the_same(
    image: tuple[int, int, int],
    kernel: Pair,
    strides: Pair,
    pads: tuple[int, int, int, int],
    bias: bool,
) -> None:
    graph = layer(image=image, kernel=kernel, bias=bias, strides=strides, pads=pads)
    expected = in_runtime(graph, rows_for(image))
    read_channels_last(graph)
    assert ops(graph) == ["Reshape", "Conv"]
    assert_same(graph, rows_for(image), expected)


def assert_left_alone(graph: Graph, image: tuple[int, int, int]) -> None:
    before = graph.model().SerializeToString()
    in_runtime(graph, rows_for(image))  # which proves that the graph is valid
    read_channels_last(graph)
    assert graph.model().SerializeToString() == before


@pytest.mark.parametrize(
    ("image", "how"),
    [
        ((5, 4, 1), {}),  # nothing to gain
        ((5, 4, 5), {}),  # more channels than images have
        ((5, 4, 4), {"group": 2}),
        ((7, 7, 3), {"dilations": [2, 2]}),
        ((5, 4, 3), {"auto_pad": "SAME_UPPER"}),
        ((5, 4, 3), {"perm": {"perm": [0, 3, 2, 1]}}),
    ],
)
def test_other_first_layers_are_left_alone(image: tuple[int, int, int], how: Any) -> None:
    assert_left_alone(layer(image=image, **how), image)


def test_a_transpose_that_something_else_reads_stays() -> None:
    constants = {"w": np.ones((2, 3, 1, 1), np.float32)}
    graph = graph_of([
        ("Transpose", ["x"], "t", FIRST), ("Conv", ["t", "w"], "y"), ("Relu", ["t"], "z"),
    ], constants, (5, 4, 3), (2, 5, 4), ("y", "z"))  # fmt: skip
    assert_left_alone(graph, (5, 4, 3))


def test_computed_weights_are_left_alone() -> None:
    constants = {"w": np.ones((2, 3, 1, 1), np.float32)}
    graph = graph_of([
        ("Neg", ["w"], "k"), ("Transpose", ["x"], "t", FIRST), ("Conv", ["t", "k"], "y"),
    ], constants, (5, 4, 3), (2, 5, 4))  # fmt: skip
    assert_left_alone(graph, (5, 4, 3))


@pytest.mark.parametrize("axis", [1, 2])
def test_pictures_of_unknown_size_are_left_alone(axis: int) -> None:
    graph = layer()
    graph.inputs[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    assert_left_alone(graph, (5, 4, 3))
