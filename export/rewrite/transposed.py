"""The parameters of a transposed convolution, as the passes use them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from common.arrays import Array
from export.rewrite.graph import Graph, attribute


@dataclass(frozen=True)
class Layer:
    """A transposed convolution whose output has exactly `stride` times its input's sides."""

    weights: Array  # (C_in, C_out, kH, kW)
    bias: Array  # (C_out,)
    stride: int
    begin: tuple[int, int]  # pads at the top and at the left

    @property
    def pads(self) -> list[int]:
        """Top, left, bottom, right; for stride 1."""
        (top, left), (height, width) = self.begin, self.weights.shape[2:]
        return [top, left, height - 1 - top, width - 1 - left]

    @classmethod
    def of(cls, graph: Graph, node: onnx.NodeProto) -> Layer | None:
        """The layer, or None where the passes do not support its attributes."""
        weights = graph.constants.get(node.input[1])
        if weights is None or weights.ndim != 4:
            return None
        shapes = graph.shapes()
        sides, output_sides = shapes[node.input[0]][2:], shapes[node.output[0]][2:]
        strides = list(attribute(node, "strides", [1, 1]))
        if (
            None in sides
            or strides[0] != strides[1]
            or attribute(node, "group", 1) != 1
            or list(attribute(node, "dilations", [1, 1])) != [1, 1]
            or list(attribute(node, "output_padding", [0, 0])) != [0, 0]
            or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET"
            or attribute(node, "output_shape")  # the pads then follow from it
            or [side * strides[0] for side in sides if side is not None] != list(output_sides)
        ):
            return None
        bias = np.zeros(weights.shape[1], weights.dtype)
        if len(node.input) > 2:
            if node.input[2] not in graph.constants:
                return None
            bias = graph.constants[node.input[2]]
        top, left = list(attribute(node, "pads", [0, 0, 0, 0]))[:2]
        return cls(weights, bias, strides[0], (top, left))

    def taps(self, phase: int, axis: int) -> list[tuple[int, int]]:
        """(shift, tap) along one axis for the outputs at `phase`, by ascending shift.

        Output s·i + phase reads input i + shift through that kernel tap.
        """
        reach = phase + self.begin[axis]
        kernel = self.weights.shape[2 + axis]
        distances = [
            (reach - tap, tap) for tap in range(kernel) if (reach - tap) % self.stride == 0
        ]
        return sorted((distance // self.stride, tap) for distance, tap in distances)
