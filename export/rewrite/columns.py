"""A first convolution that reads channels-last images: a pixel's channels as columns.

Images have their channels last, ONNX convolutions have them first. An image (H, W, C) is also a
plane of H × W·C numbers, on which a kernel C times as wide, with C times the stride, sums the same
products. This saves the transposition, and ONNX Runtime, which has a kernel for inputs of few
channels, passes over each output row once, not once per channel.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from export.rewrite.cleanup import NHWC_TO_NCHW
from export.rewrite.graph import Graph, attribute

MAX_CHANNELS = 4  # of images


def read_channels_last(graph: Graph) -> None:
    """Rewrite each Transpose of few channels and the Conv that alone reads it."""
    for transpose, conv in graph.chains("Transpose", "Conv"):
        if list(attribute(transpose, "perm")) == NHWC_TO_NCHW:
            _rewrite(graph, transpose, conv)


def _rewrite(graph: Graph, transpose: onnx.NodeProto, conv: onnx.NodeProto) -> None:
    weights = graph.constants.get(conv.input[1])
    sides = graph.shapes()[transpose.input[0]][1:]
    if weights is None or None in sides or not 1 < weights.shape[1] <= MAX_CHANNELS:
        return
    if attribute(conv, "auto_pad", b"NOTSET") != b"NOTSET" or attribute(conv, "group", 1) != 1:
        return
    if list(attribute(conv, "dilations", [1, 1])) != [1, 1]:
        return
    height, width, channels = (side or 0 for side in sides)
    down, across = attribute(conv, "strides", [1, 1])
    top, left, bottom, right = attribute(conv, "pads", [0, 0, 0, 0])
    kernel = weights.transpose(0, 2, 3, 1).reshape(len(weights), 1, weights.shape[2], -1)
    plane = f"{transpose.output[0]}_columns"
    shape = np.array([0, 1, height, width * channels], np.int64)
    wide = helper.make_node(
        "Conv",
        [plane, graph.add_constant(f"{conv.output[0]}_columns", kernel), *conv.input[2:]],
        list(conv.output),
        strides=[down, across * channels],
        pads=[top, left * channels, bottom, right * channels],
    )
    target = graph.add_constant(f"{plane}_shape", shape)
    reshape = helper.make_node("Reshape", [transpose.input[0], target], [plane])
    graph.replace([transpose, conv], [reshape, wide])
    graph.prune()
