"""A small handle on an ONNX graph: who makes a tensor, who reads it, what is constant.

Enough for the passes of this package and no more. Reading is by dictionaries that are made anew
after each change: these graphs have some twenty nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from common.arrays import Array


class Graph:
    """The graph of one model, with its initializers as numpy arrays; the model stays as it is."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = model.opset_import[0].version
        self._ir_version = model.ir_version
        self.inputs = [deepcopy(value) for value in model.graph.input]
        self.outputs = [deepcopy(value) for value in model.graph.output]
        self.nodes = [deepcopy(node) for node in model.graph.node]
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        for node in list(self.nodes):
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
                self.nodes.remove(node)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that computes a tensor; None for inputs and constants."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor."""
        return [node for node in self.nodes if tensor in node.input]

    def only_reader(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The one node that reads the first output of `node`, if it alone does."""
        tensor = node.output[0]
        readers = self.readers(tensor)
        is_output = any(out.name == tensor for out in self.outputs)
        return readers[0] if len(readers) == 1 and not is_output else None

    def chain(self, node: onnx.NodeProto | None, *ops: str) -> list[onnx.NodeProto] | None:
        """Nodes of these types in a row, each the only reader of the one before; else None."""
        found = []
        for op in ops:
            if node is None or node.op_type != op:
                return None
            found.append(node)
            node = self.only_reader(node)
        return found

    def constant_input(self, node: onnx.NodeProto) -> str | None:
        """The name of the one constant that a two-input node reads."""
        names = [name for name in node.input if name in self.constants]
        return names[0] if len(names) == 1 else None

    def add_constant(self, name: str, value: Array) -> str:
        """Store a constant under a name that nothing has yet."""
        while name in self.constants:
            name += "_"
        self.constants[name] = value
        return name

    def replace(self, old: Iterable[onnx.NodeProto], new: Iterable[onnx.NodeProto]) -> None:
        """Put `new` where the first of `old` stood, and drop `old`."""
        old = list(old)
        at = self.nodes.index(old[0])
        self.nodes[at:at] = new
        for node in old:
            self.nodes.remove(node)

    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Inferred shape of each tensor; None where a dimension is not fixed (the batch)."""
        inferred = onnx.shape_inference.infer_shapes(self.model(), data_prop=True, strict_mode=True)
        found = {}
        for value in [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]:
            dims = value.type.tensor_type.shape.dim
            found[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in dims
            )
        return found

    def prune(self) -> None:
        """Drop nodes and constants that no output needs."""
        needed = {out.name for out in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
        self.nodes = kept[::-1]
        self.constants = {name: v for name, v in self.constants.items() if name in needed}

    def model(self) -> onnx.ModelProto:
        """The graph as a model again: nodes after what they read, constants as they are read.

        tf2onnx hands out constants in the order of a hash set; here the order is the graph's own,
        so that the same network gives the same bytes.
        """
        nodes = self._sorted()
        used = dict.fromkeys(name for node in nodes for name in node.input)
        graph = helper.make_graph(
            nodes,
            "denoiser",
            self.inputs,
            self.outputs,
            [
                numpy_helper.from_array(np.ascontiguousarray(self.constants[name]), name)
                for name in used
                if name in self.constants
            ],
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=self._ir_version,
            producer_name="denoiser",
        )

    def _sorted(self) -> list[onnx.NodeProto]:
        ready = {value.name for value in self.inputs} | set(self.constants) | {""}
        waiting, done = list(self.nodes), []
        while waiting:
            able = [node for node in waiting if ready.issuperset(node.input)]
            if not able:
                raise ValueError(f"tensors that nothing computes: {waiting[0].input}")
            done += able
            ready.update(name for node in able for name in node.output)
            waiting = [node for node in waiting if node not in able]
        return done


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or `default`."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default
