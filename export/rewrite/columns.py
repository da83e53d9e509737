"""A first convolution that reads images as they come: a pixel's channels as columns of one picture.

Images have their channels last, a convolution wants them first. With one channel that is the same.
With a few, an image (H, W, C) is also one picture of H × W·C numbers, and a kernel that is C times
as wide and steps C times as far sums the same products. Nothing is transposed, and ONNX Runtime,
which reads pictures of few channels as they lie, goes over each line of its answer once, not once
for each channel.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from export.rewrite.cleanup import NHWC_TO_NCHW
from export.rewrite.graph import Graph, attribute

MAX_CHANNELS = 4  # what images have; a wider kernel is another layer's


def read_channels_last(graph: Graph) -> None:
    """Rewrite each Transpose of few channels and the Conv that alone reads it."""
    for node in list(graph.nodes):
        found = graph.chain(node, "Transpose", "Conv")
        if found and list(attribute(node, "perm")) == NHWC_TO_NCHW:
            _rewrite(graph, *found)


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
    down, right = attribute(conv, "strides", [1, 1])
    top, left, bottom, end = attribute(conv, "pads", [0, 0, 0, 0])
    kernel = weights.transpose(0, 2, 3, 1).reshape(len(weights), 1, weights.shape[2], -1)
    picture = f"{transpose.output[0]}_columns"
    shape = np.array([0, 1, height, width * channels], np.int64)
    wide = helper.make_node(
        "Conv",
        [picture, graph.add_constant(f"{conv.output[0]}_columns", kernel), *conv.input[2:]],
        list(conv.output),
        strides=[down, right * channels],
        pads=[top, left * channels, bottom, end * channels],
    )
    target = graph.add_constant(f"{picture}_shape", shape)
    reshape = helper.make_node("Reshape", [transpose.input[0], target], [picture])
    graph.replace([transpose, conv], [reshape, wide])
    graph.prune()
