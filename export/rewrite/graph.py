"""A mutable ONNX graph: producers and readers of tensors, constants, chains of nodes.

It has what the passes of this package need. Look-ups search all nodes: these graphs have some
twenty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from common.arrays import Array

Op = str | tuple[str, ...]  # an operator, or alternatives


class Graph:
    """A copy of one model's graph, with its initializers as numpy arrays."""

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
        """The node that reads the first output of `node`; None unless there is exactly one."""
        tensor = node.output[0]
        readers = self.readers(tensor)
        is_output = any(out.name == tensor for out in self.outputs)
        return readers[0] if len(readers) == 1 and not is_output else None

    def chain(self, node: onnx.NodeProto | None, *ops: Op) -> list[onnx.NodeProto] | None:
        """Nodes of these types in a row, each the only reader of the one before; else None."""
        nodes = []
        for op in ops:
            if node is None or node.op_type not in ((op,) if isinstance(op, str) else op):
                return None
            nodes.append(node)
            node = self.only_reader(node)
        return nodes

    def chains(self, *ops: Op) -> Iterator[list[onnx.NodeProto]]:
        """All chains of these types; the caller may replace each one before the next."""
        for node in list(self.nodes):
            chain = self.chain(node, *ops) if node in self.nodes else None
            if chain:
                yield chain

    def constant_input(self, node: onnx.NodeProto) -> str | None:
        """The name of the one constant that a two-input node reads."""
        names = [name for name in node.input if name in self.constants]
        return names[0] if len(names) == 1 else None

    def add_constant(self, name: str, value: Array) -> str:
        """Store a constant under an unused name, and return it."""
        while name in self.constants:
            name += "_"
        self.constants[name] = value
        return name

    def replace(self, old: Iterable[onnx.NodeProto], new: Iterable[onnx.NodeProto]) -> None:
        """Put `new` in the place of the first of `old`, and drop `old`."""
        old = list(old)
        index = self.nodes.index(old[0])
        self.nodes[index:index] = new
        for node in old:
            self.nodes.remove(node)

    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Inferred shape of each tensor; None where a dimension is not fixed (the batch)."""
        light = without_weights(self.model())
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True, strict_mode=True)
        values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
        return {
            value.name: tuple(
                dim.dim_value if dim.HasField("dim_value") else None
                for dim in value.type.tensor_type.shape.dim
            )
            for value in values
        }

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
        """The graph as a model: nodes in topological order, constants in the order of use.

        tf2onnx writes constants in the order of a hash set; with a fixed order, the same network
        gives the same bytes.
        """
        nodes = self._sorted()
        used = dict.fromkeys(name for node in nodes for name in node.input)
        constants = [
            numpy_helper.from_array(np.ascontiguousarray(self.constants[name]), name)
            for name in used
            if name in self.constants
        ]
        graph = helper.make_graph(nodes, "denoiser", self.inputs, self.outputs, constants)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=self._ir_version,
            producer_name="denoiser",
        )

    def _sorted(self) -> list[onnx.NodeProto]:
        ready = {value.name for value in self.inputs} | set(self.constants) | {""}
        waiting, ordered = list(self.nodes), []
        while waiting:
            able = [node for node in waiting if ready.issuperset(node.input)]
            if not able:
                raise ValueError(f"tensors that no node computes: {waiting[0].input}")
            ordered += able
            ready.update(name for node in able for name in node.output)
            waiting = [node for node in waiting if node not in able]
        return ordered


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, changed in place: its float tensors keep name, shape and type alone."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.ClearField("raw_data")
    return model


def node_like(
    node: onnx.NodeProto, inputs: Iterable[str], output: str, *, op: str = ""
) -> onnx.NodeProto:
    """A new node with the attributes of `node`, and its type unless `op` names another."""
    new = helper.make_node(op or node.op_type, list(inputs), [output])
    new.attribute.extend(node.attribute)
    return new


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or `default`."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default
