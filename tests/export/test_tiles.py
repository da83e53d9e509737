"""The last layer in tiles: the same function, no tap twice, and additions that cost nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from export.convert import graphs
from export.rewrite import tiles
from export.rewrite.graph import Graph
from export.rewrite.phases import split_last_upsampling
from export.rewrite.transposed import Layer
from tests.export.test_cleanup import graph_of, ops
from tests.export.test_convert import build
from tests.export.test_fold import assert_same, in_runtime
from tests.export.test_phases import Pair, rewritten, rows_for, stage


@settings(max_examples=40)
@given(
    channels=st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 16, 32]), st.integers(1, 4)),
    image=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.sampled_from([2, 3]),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    final=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    bias=st.booleans(),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@example((2, 16, 3), (3, 5), 2, (0.5, 0.5), (3, 3), True, 2, 0)  # as colour networks have it
@example((2, 16, 3), (1, 1), 2, (0, 1), (6, 5), True, 2, 1)  # taps that lead beyond all tiles
@example((2, 3, 4), (2, 3), 3, (0, 0), (1, 1), False, 1, 2)  # a core alone, no rim
def test_any_geometry_gives_the_same(
    channels: tuple[int, int, int],
    image: Pair,
    stride: int,
    at: tuple[float, float],
    final: Pair,
    bias: bool,
    batch: int,
    seed: int,
) -> None:
    begin = (round(at[0] * (final[0] - 1)), round(at[1] * (final[1] - 1)))
    graph = stage(channels=channels, image=image, stride=stride, kernel=(stride + 1, stride + 1),
                  final=final, final_begin=begin, biases=(True, bias), seed=seed)  # fmt: skip
    rows = rows_for(graph, batch)
    expected = in_runtime(graph, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "pay_off", lambda *_: True)
        split_last_upsampling(graph)
    assert "ConvTranspose" not in ops(graph)
    assert_same(graph, rows, expected)


def colour(channels: int = 16, outputs: int = 3, final: Pair = (3, 3)) -> Graph:
    return stage(channels=(2, channels, outputs), image=(4, 5), final=final)


@pytest.mark.parametrize(
    ("channels", "outputs", "final", "worth"),
    [
        (16, 3, (3, 3), True),
        (32, 3, (3, 3), True),
        (128, 3, (3, 3), True),
        (24, 3, (3, 3), False),  # no whole blocks
        (8, 3, (3, 3), False),
        (32, 1, (3, 3), False),  # few lanes of a block are used
        (32, 2, (3, 3), False),
        (64, 2, (3, 3), False),
        (32, 4, (3, 3), False),  # a rim of 20 channels
        (32, 3, (5, 5), False),  # and one of 63
        (32, 3, (4, 4), False),
        (32, 3, (2, 2), False),
    ],
)
def test_the_rule(channels: int, outputs: int, final: Pair, worth: bool) -> None:
    """Every row but two (128, and 64 with 2 outputs) stands in benchmarks/LOG.md with its time."""
    begin = ((final[0] - 1) // 2, (final[1] - 1) // 2)
    weights = np.ones((channels, outputs, *final), np.float32)
    assert tiles.pay_off(Layer(weights, np.zeros(outputs), 1, begin), 2) is worth
    graph = colour(channels, outputs, final)
    split_last_upsampling(graph)
    assert ("Add" in ops(graph)) is worth


def test_a_colour_layer_is_four_cores_and_four_rims_of_one_block() -> None:
    graph = colour()
    split_last_upsampling(graph)
    assert Counter(ops(graph)) == {
        "Conv": 4 + 4 * 4, "Relu": 4, "Add": 7, "Reshape": 3, "Transpose": 3,
    }  # fmt: skip
    shapes = Counter(
        graph.constants[node.input[1]].shape for node in graph.nodes if node.op_type == "Conv"
    )
    assert shapes[12, 16, 1, 1] == 4 + 4  # cores, and what puts a rim into its place
    assert shapes[16, 16, 1, 1] == 4  # rims
    assert shapes[16, 1, 2, 2] == 4  # their moves


def test_no_tap_is_lost_and_none_counted_twice() -> None:
    """Cores and rims hold each weight once from each of four phases, and zeros."""
    graph = colour()
    weights = graph.constants["v"]
    split_last_upsampling(graph)
    sources = {node.output[0] for node in graph.nodes if node.op_type == "Relu"}
    last = [node for node in graph.nodes if node.op_type == "Conv" and node.input[0] in sources]
    result = np.concatenate([graph.constants[node.input[1]].ravel() for node in last])
    expected = np.repeat(weights.ravel(), 4)
    np.testing.assert_array_equal(np.sort(result[result != 0]), np.sort(expected))
    moved = [graph.constants[node.input[1]] for node in graph.nodes if len(node.attribute) > 1]
    for kernel in moved:  # each of 15 channels by one step, the sixteenth nowhere
        assert (kernel.sum(axis=(1, 2, 3)) == [1] * 15 + [0]).all()


def test_it_can_be_left_out() -> None:
    graph = colour()
    expected = in_runtime(graph, rows_for(graph))
    split_last_upsampling(graph, tiled=False)
    assert Counter(ops(graph)) == rewritten(2, False)
    assert_same(graph, rows_for(graph), expected)


def test_reshapes_keep_the_batch_where_they_can() -> None:
    constants = {
        "keeps": np.array([-1, 4, 2, 2]),
        "merges": np.array([-1, 2]),
        "splits": np.array([-1, 8, 4]),
        "again": np.array([0, 2, 2, 4]),
    }
    graph = graph_of([
        ("Reshape", ["x", "keeps"], "a"),
        ("Reshape", ["a", "merges"], "b"),
        ("Reshape", ["b", "keeps"], "c"),
        ("Reshape", ["c", "splits"], "d"),
        ("Reshape", ["x", "again"], "e"),
        ("Relu", ["e"], "y"),
    ], constants, (16,), (2, 2, 4), ("y", "d"))  # fmt: skip
    tiles.keep_batch(graph)
    targets = [graph.constants[n.input[1]].tolist() for n in graph.nodes if n.op_type == "Reshape"]
    assert targets == [[0, 4, 2, 2], [-1, 2], [-1, 4, 2, 2], [-1, 8, 4], [0, 2, 2, 4]]


@pytest.fixture(scope="module")
def pair() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A colour decoder as it is served, and as int8 starts from it."""
    return graphs(build((16, 16, 3), (16, 32), 3).decoder, "decoder", metadata={})


@pytest.mark.tensorflow
def test_what_int8_starts_from_has_no_tiles(pair: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    served, reducible = pair
    assert "Add" in {node.op_type for node in served.graph.node}
    assert "Add" not in {node.op_type for node in reducible.graph.node}
    rows = np.random.default_rng(0).normal(0, 1, (3, 5)).astype(np.float32)
    result = [
        ort.InferenceSession(model.SerializeToString()).run(None, {"latents": rows})[0]
        for model in pair
    ]
    np.testing.assert_allclose(result[0], result[1], rtol=0, atol=2e-6)


@pytest.mark.tensorflow
def test_one_channel_is_the_same_for_both() -> None:
    both = graphs(build((8, 8, 1), (16,), 3).decoder, "decoder", metadata={})
    assert both.served == both.reducible


@pytest.mark.tensorflow
def test_channels_last_are_reached_without_a_way_back(
    pair: tuple[onnx.ModelProto, onnx.ModelProto],
) -> None:
    nodes = pair[0].graph.node
    assert [node.op_type for node in nodes][-6:] == [
        "Reshape", "Transpose", "Reshape", "Transpose", "Reshape", "Sigmoid",
    ]  # fmt: skip
    assert nodes[-1].output[0] == "images"


@pytest.mark.tensorflow
def test_the_runtime_adds_convolutions_in_place(
    pair: tuple[onnx.ModelProto, onnx.ModelProto], tmp_path: Path
) -> None:
    """Seven sums, and no Add that would go over its operands once more."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # a note that such a file is for this processor alone
    ort.InferenceSession(
        pair[0].SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )
    graph = Graph(onnx.load(options.optimized_model_filepath))
    blocked = [node for node in graph.nodes if node.domain == "com.microsoft.nchwc"]
    if not blocked:
        pytest.skip("this processor's ONNX Runtime has no blocked layout")
    assert not {"Add", "Sum"} & set(ops(graph))
    assert sum(node.op_type == "Conv" and len(node.input) == 4 for node in blocked) == 7
    assert sum(node.op_type == "ReorderInput" for node in blocked) == 1  # of what the phases read
    assert sum(node.op_type == "ReorderOutput" for node in blocked) == 1  # of finished tiles
