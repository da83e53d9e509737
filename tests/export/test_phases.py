"""Upsampling by phases: the same function in two runtimes for any geometry, or left alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from export.rewrite import phases
from export.rewrite.graph import Graph
from export.rewrite.phases import split_last_upsampling
from tests.export.test_cleanup import graph_of, ops
from tests.export.test_fold import assert_same, in_runtime

Pair = tuple[int, int]
ACTIVATIONS: dict[str, dict[str, float]] = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.3},
    "Elu": {"alpha": 0.7},
    "Tanh": {},
    "Sigmoid": {},
}


def stage(
    *,
    channels: tuple[int, int, int] = (2, 4, 1),
    image: Pair = (3, 4),
    stride: int = 2,
    kernel: Pair = (3, 3),
    begin: Pair | None = None,
    final: Pair = (3, 3),
    final_begin: Pair | None = None,
    act: str = "Relu",
    biases: tuple[bool, bool] = (True, True),
    seed: int = 0,
    first: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
) -> Graph:
    """x (N, C, H, W) → ConvTranspose(stride) → act → ConvTranspose(1) → y (N, C', sH, sW)."""
    rng = np.random.default_rng(seed)
    inputs, hidden, outputs = channels
    top, left = begin or ((kernel[0] - stride) // 2, (kernel[1] - stride) // 2)
    final_top, final_left = final_begin or ((final[0] - 1) // 2, (final[1] - 1) // 2)
    pads = [top, left, kernel[0] - stride - top, kernel[1] - stride - left]
    final_pads = [final_top, final_left, final[0] - 1 - final_top, final[1] - 1 - final_left]
    constants = {
        "w": rng.normal(0, 1, (inputs, hidden, *kernel)).astype(np.float32),
        "b": rng.normal(0, 1, hidden).astype(np.float32),
        "v": rng.normal(0, 1, (hidden, outputs, *final)).astype(np.float32),
        "c": rng.normal(0, 1, outputs).astype(np.float32),
    }
    return graph_of([
        ("ConvTranspose", ["x", "w", "b"][:3 if biases[0] else 2], "u",
         first or {"strides": [stride, stride], "pads": pads}),
        (act, ["u"], "a", ACTIVATIONS[act]),
        ("ConvTranspose", ["a", "v", "c"][:3 if biases[1] else 2], "y",
         last or {"pads": final_pads}),
    ], constants, (inputs, *image), (outputs, "H", "W"))  # fmt: skip


def rows_for(graph: Graph, batch: int = 2) -> np.ndarray:
    shape = [d.dim_value for d in graph.inputs[0].type.tensor_type.shape.dim[1:]]
    return np.random.default_rng(99).normal(0, 1, (batch, *shape)).astype(np.float32)


def rewritten(stride: int, through_products: bool, act: str = "Relu") -> Counter[str]:
    """How many of which operators a stage becomes."""
    number = stride**2
    if through_products:
        return Counter({"Conv": 2 * number, act: number, "Concat": 1, "ConvTranspose": 1})
    return Counter({"Conv": number, act: number, "ConvTranspose": number, "Sum": 1})


@settings(max_examples=40)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 3])),
    image=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.sampled_from([2, 3]),
    more=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    at=st.tuples(*[st.floats(0, 1)] * 4),
    final=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    act=st.sampled_from(sorted(ACTIVATIONS)),
    biases=st.tuples(st.booleans(), st.booleans()),
    through_products=st.booleans(),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@example((2, 3, 1), (5, 3), 2, (1, 1), (0.5,) * 4, (3, 3), "LeakyRelu", (True, True), True, 2, 0)
@example((2, 3, 1), (4, 5), 3, (4, 0), (0,) * 4, (2, 5), "Tanh", (True, False), True, 1, 1)
@example((2, 3, 3), (4, 5), 3, (4, 0), (0,) * 4, (2, 5), "Tanh", (True, False), False, 1, 1)
@example((3, 4, 3), (1, 2), 2, (0, 5), (1,) * 4, (4, 1), "Elu", (False, True), False, 3, 2)
def test_any_geometry_and_either_choice_give_the_same(
    channels: tuple[int, int, int],
    image: Pair,
    stride: int,
    more: Pair,
    at: tuple[float, float, float, float],
    final: Pair,
    act: str,
    biases: tuple[bool, bool],
    through_products: bool,
    batch: int,
    seed: int,
) -> None:
    """Kernels of stride to stride + 5, their padding split between both sides in any way."""
    kernel = (min(stride + more[0], 7), min(stride + more[1], 7))
    begin = (round(at[0] * (kernel[0] - stride)), round(at[1] * (kernel[1] - stride)))
    final_begin = (round(at[2] * (final[0] - 1)), round(at[3] * (final[1] - 1)))
    graph = stage(channels=channels, image=image, stride=stride, kernel=kernel, begin=begin,
                  final=final, final_begin=final_begin, act=act, biases=biases,
                  seed=seed)  # fmt: skip
    rows = rows_for(graph, batch)
    expected = in_runtime(graph, rows)
    assert expected.shape == (batch, channels[2], stride * image[0], stride * image[1])
    through_products = through_products and channels[2] == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "_products_pay_off", lambda _: through_products)
        split_last_upsampling(graph)
    assert Counter(ops(graph)) == rewritten(stride, through_products, act)
    assert_same(graph, rows, expected)


@pytest.mark.parametrize(("stride", "kernel"), [(2, 2), (2, 3), (2, 5), (3, 3), (3, 4), (3, 7)])
def test_no_tap_is_lost_and_none_counted_twice(stride: int, kernel: int) -> None:
    """All phases together cost what the transposed convolution did: no tap is a zero."""
    graph = stage(stride=stride, kernel=(kernel, kernel), channels=(2, 4, 1), image=(3, 5))
    weights = graph.constants["w"]
    split_last_upsampling(graph)
    taps = [graph.constants[n.input[1]] for n in graph.nodes if n.op_type == "Conv"]
    result = np.concatenate([tap.ravel() for tap in taps[: stride**2]])
    np.testing.assert_array_equal(np.sort(result), np.sort(weights.ravel()))


@pytest.mark.parametrize(
    ("channels", "outputs", "final", "through"),
    [
        (9, 1, (3, 3), False),  # as many products as channels
        (10, 1, (3, 3), True),
        (60, 3, (3, 3), False),  # fewer products, but of three outputs; no blocks of channels
        (7, 1, (2, 3), True),
        (6, 1, (2, 3), False),
    ],
)
def test_tap_products_for_one_output_and_more_channels_than_taps(
    channels: int, outputs: int, final: Pair, through: bool
) -> None:
    graph = stage(channels=(1, channels, outputs), final=final, image=(2, 3))
    expected = in_runtime(graph, rows_for(graph))
    split_last_upsampling(graph)
    assert Counter(ops(graph)) == rewritten(2, through)
    assert_same(graph, rows_for(graph), expected)


@pytest.mark.parametrize(("stride", "side"), [(2, 3), (2, 5), (3, 5)])
def test_where_padding_leaves_room_a_kernel_grows_no_zeros(stride: int, side: int) -> None:
    graph = stage(channels=(1, 2, 3), stride=stride, final=(side, side), image=(2, 3))
    weights = graph.constants["v"]
    split_last_upsampling(graph)
    last = [node for node in graph.nodes if node.op_type == "ConvTranspose"]
    assert len(last) == stride**2
    for node in last:
        np.testing.assert_array_equal(graph.constants[node.input[1]], weights)


def test_two_stages_each_with_their_own_names() -> None:
    """Strided, last, strided, last: both pairs are rewritten and no name is used twice."""
    one = stage(channels=(2, 3, 2), image=(2, 3))
    rng = np.random.default_rng(1)
    graph = graph_of([
        *[(n.op_type, list(n.input), n.output[0] if n.output[0] != "y" else "z",
           {} if n.op_type == "Relu" else {"strides": [2, 2], "pads": [0, 0, 1, 1]}
           if n.output[0] == "u" else {"pads": [1, 1, 1, 1]}) for n in one.nodes],
        ("Sigmoid", ["z"], "s"),
        ("ConvTranspose", ["s", "w2"], "u2", {"strides": [2, 2]}),
        ("Tanh", ["u2"], "a2"),
        ("ConvTranspose", ["a2", "v2"], "y", {"pads": [1, 1, 1, 1]}),
    ], {**one.constants, "w2": rng.normal(0, 1, (2, 3, 2, 2)).astype(np.float32),
        "v2": rng.normal(0, 1, (3, 1, 3, 3)).astype(np.float32)},
        (2, 2, 3), (1, 8, 12))  # fmt: skip
    expected = in_runtime(graph, rows_for(graph))
    split_last_upsampling(graph)
    assert Counter(ops(graph)) == Counter(
        {"Conv": 8, "Relu": 4, "Tanh": 4, "ConvTranspose": 8, "Sum": 2, "Sigmoid": 1}
    )
    assert_same(graph, rows_for(graph), expected)


@pytest.mark.parametrize("weights", ["e", "v"])
def test_a_layer_after_the_final_one_is_no_obstacle(weights: str) -> None:
    """Two layers of stride 1 behind the upsampling: what was rewritten is not looked at again.

    Also where both share one kernel, which the first then leaves behind.
    """
    rng = np.random.default_rng(2)
    one = stage(channels=(2, 3, 3), image=(3, 3))
    graph = graph_of([
        ("ConvTranspose", ["x", "w", "b"], "u", {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
        ("Relu", ["u"], "a"),
        ("ConvTranspose", ["a", "v", "c"], "z", {"pads": [1, 1, 1, 1]}),
        ("Relu", ["z"], "r"),
        ("ConvTranspose", ["r", weights], "y", {"pads": [1, 1, 1, 1]}),
    ], {**one.constants, "e": rng.normal(0, 1, (3, 3, 3, 3)).astype(np.float32)},
        (2, 3, 3), (3, 6, 6))  # fmt: skip
    expected = in_runtime(graph, rows_for(graph))
    split_last_upsampling(graph)
    assert_same(graph, rows_for(graph), expected)


def test_nothing_is_left_behind() -> None:
    graph = stage()
    split_last_upsampling(graph)
    used = {name for node in graph.nodes for name in node.input}
    assert set(graph.constants) < used
    assert not {"w", "v"} & set(graph.constants)
    assert {value.dtype for value in graph.constants.values()} == {np.dtype("f4")}


# --- what is left alone

UP = {"strides": [2, 2], "pads": [0, 0, 1, 1]}
SAME = {"pads": [1, 1, 1, 1]}


def test_the_plain_stage_of_the_cases_below_is_rewritten() -> None:
    graph = stage(first=UP, last=SAME)
    expected = in_runtime(graph, rows_for(graph))
    split_last_upsampling(graph)
    assert Counter(ops(graph)) == rewritten(2, False)
    assert_same(graph, rows_for(graph), expected)


def assert_left_alone(graph: Graph) -> None:
    before = graph.model().SerializeToString()
    expected = in_runtime(graph, rows_for(graph))  # which also proves that the graph is valid
    split_last_upsampling(graph)
    assert graph.model().SerializeToString() == before
    np.testing.assert_array_equal(in_runtime(graph, rows_for(graph)), expected)


@pytest.mark.parametrize(
    ("first", "kernel"),
    [
        ({"strides": [2, 2], "pads": [0, 0, 1, 1], "dilations": [1, 1], "output_padding": [1, 1]},
         (3, 3)),  # one row and column more
        ({"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, (3, 3)),
        ({"strides": [2, 2], "output_padding": [1, 1]}, (1, 1)),  # phases without taps
        ({"strides": [3, 3], "output_padding": [1, 1]}, (2, 2)),
        ({"strides": [3, 3]}, (2, 2)),
        ({"strides": [2, 2]}, (1, 1)),
        ({"strides": [2, 2], "dilations": [2, 2], "pads": [1, 1, 2, 2]}, (3, 3)),
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, (3, 3)),
        ({"strides": [2, 2], "auto_pad": "SAME_LOWER"}, (3, 3)),
        ({"strides": [2, 2], "auto_pad": "VALID"}, (2, 2)),
        ({"strides": [2, 2], "output_shape": [6, 8]}, (5, 5)),  # pads of 1 that are not written
        ({"strides": [2, 2]}, (3, 3)),  # a side of 2n + 1
        ({"strides": [2, 2], "pads": [1, 1, 1, 1]}, (3, 3)),  # a side of 2n - 1
        ({"strides": [2, 3], "pads": [0, 0, 1, 0]}, (3, 3)),
        ({"strides": [3, 2], "pads": [0, 0, 0, 1]}, (3, 3)),
        ({"strides": [2, 3], "pads": [0, 1, 1, 3]}, (3, 3)),  # and yet twice as wide
        ({"strides": [2, 1], "pads": [0, 1, 1, 1]}, (3, 3)),
        ({"pads": [1, 1, 1, 1]}, (3, 3)),  # stride 1
    ],
)  # fmt: skip
def test_other_first_layers_are_left_alone(first: dict[str, Any], kernel: Pair) -> None:
    assert_left_alone(stage(first=first, last=SAME, kernel=kernel))


@pytest.mark.parametrize(
    ("last", "final"),
    [
        ({"strides": [2, 2], "pads": [0, 0, 1, 1]}, (3, 3)),  # not the last upsampling
        ({"pads": [1, 1, 1, 1], "output_padding": [0, 0], "dilations": [2, 2]}, (3, 3)),
        ({"pads": [2, 2, 2, 2], "dilations": [2, 2]}, (3, 3)),
        ({"auto_pad": "SAME_UPPER"}, (3, 3)),
        ({"auto_pad": "SAME_LOWER"}, (2, 2)),
        ({"pads": [0, 0, 0, 0]}, (3, 3)),  # the picture grows
        ({"pads": [1, 1, 1, 1]}, (2, 2)),  # and shrinks
        ({"output_shape": [6, 8]}, (3, 3)),
        ({"strides": [1, 2], "pads": [1, 0, 1, 1]}, (3, 3)),
    ],
)
def test_other_last_layers_are_left_alone(last: dict[str, Any], final: Pair) -> None:
    assert_left_alone(stage(first=UP, last=last, final=final))


W = np.random.default_rng(3).normal(0, 1, (2, 4, 3, 3)).astype(np.float32)
V = np.random.default_rng(4).normal(0, 1, (4, 1, 3, 3)).astype(np.float32)
FIRST = ("ConvTranspose", ["x", "w"], "u", UP)
RELU = ("Relu", ["u"], "a")
LAST = ("ConvTranspose", ["a", "v"], "y", SAME)
ALONE: dict[str, tuple[list[tuple[Any, ...]], dict[str, Any], tuple[str, ...]]] = {
    "two readers of the activation": ([FIRST, RELU, LAST, ("Neg", ["a"], "z")], {}, ("y", "z")),
    "two readers of the first layer": ([FIRST, RELU, LAST, ("Neg", ["u"], "z")], {}, ("y", "z")),
    "the first layer is an output": ([FIRST, RELU, LAST], {}, ("y", "u")),
    "the activation is an output": ([FIRST, RELU, LAST], {}, ("y", "a")),
    "no activation": ([FIRST, ("ConvTranspose", ["u", "v"], "y", SAME)], {}, ("y",)),
    "an activation that mixes channels": (
        [FIRST, ("Softmax", ["u"], "a", {"axis": 1}), LAST], {}, ("y",)
    ),
    "an activation with weights for each place": (
        [FIRST, ("PRelu", ["u", "slope"], "a"), LAST],
        {"slope": np.linspace(0, 1, 48, dtype=np.float32).reshape(1, 6, 8)}, ("y",)
    ),
    "a residual Add between": (
        [FIRST, RELU, ("Add", ["a", "e"], "s"), ("ConvTranspose", ["s", "v"], "y", SAME)],
        {"e": np.ones((4, 6, 8), np.float32)}, ("y",)
    ),
    "a residual Add before the activation": (
        [FIRST, ("Add", ["u", "e"], "s"), ("Relu", ["s"], "a"), LAST],
        {"e": np.ones((4, 6, 8), np.float32)}, ("y",)
    ),
    "computed weights of the first": (
        [("Neg", ["w"], "k"), ("ConvTranspose", ["x", "k"], "u", UP), RELU, LAST], {}, ("y",)
    ),
    "computed weights of the last": (
        [("Neg", ["v"], "k"), FIRST, RELU, ("ConvTranspose", ["a", "k"], "y", SAME)], {}, ("y",)
    ),
    "a computed bias of the first": (
        [("Neg", ["b"], "k"), ("ConvTranspose", ["x", "w", "k"], "u", UP), RELU, LAST],
        {"b": np.ones(4, np.float32)}, ("y",)
    ),
    "a computed bias of the last": (
        [("Neg", ["c"], "k"), FIRST, RELU, ("ConvTranspose", ["a", "v", "k"], "y", SAME)],
        {"c": np.ones(1, np.float32)}, ("y",)
    ),
    "a convolution in the last place": (
        [FIRST, RELU, ("Conv", ["a", "k"], "y", SAME)], {"k": V.transpose(1, 0, 2, 3)}, ("y",)
    ),
    "a convolution in the first place": (
        [("Conv", ["x", "k"], "u", {"pads": [1] * 4}), RELU, LAST],
        {"k": W.transpose(1, 0, 2, 3)}, ("y",)
    ),
    "groups in the last": (
        [FIRST, RELU, ("ConvTranspose", ["a", "k"], "y", {**SAME, "group": 4})],
        {"k": V}, ("y",)
    ),
    "groups in the first": (
        [("ConvTranspose", ["x", "k"], "u", {**UP, "group": 2}), RELU, LAST],
        {"k": W[:, :2]}, ("y",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_other_neighbours_are_left_alone(name: str) -> None:
    nodes, more, outputs = ALONE[name]
    assert_left_alone(
        graph_of(nodes, {"w": W, "v": V, **more}, (2, 3, 4), ("C", "H", "W"), outputs)
    )


@pytest.mark.parametrize("axes", [1, 3])
def test_other_numbers_of_axes_are_left_alone(axes: int) -> None:
    graph = graph_of([
        ("ConvTranspose", ["x", "w"], "u", {"strides": [2] * axes}),
        ("Relu", ["u"], "a"),
        ("ConvTranspose", ["a", "v"], "y", {"pads": [1] * 2 * axes}),
    ], {"w": np.ones((2, 4, *[2] * axes), np.float32),
        "v": np.ones((4, 1, *[3] * axes), np.float32)},
        (2, *[3] * axes), (1, *[6] * axes))  # fmt: skip
    assert_left_alone(graph)


@pytest.mark.parametrize("open_axis", ["height", "width"])
def test_pictures_of_unknown_size_are_left_alone(open_axis: str) -> None:
    graph = stage()
    axis = {"height": 2, "width": 3}[open_axis]
    graph.inputs[0].type.tensor_type.shape.dim[axis].dim_param = "side"
    before = graph.model().SerializeToString()
    split_last_upsampling(graph)
    assert graph.model().SerializeToString() == before
