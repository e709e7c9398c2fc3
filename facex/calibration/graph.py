"""An index over an ONNX graph: who produces a tensor, who consumes it, and which part of it is the trunk.

The *trunk* is everything up to and including the last convolutions. It runs on integers in a quantized model (in half
precision in a half-precision one); what follows, the arithmetic of the head, needs float32 because it deals in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAC_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SAME_RANGE_OPERATORS = frozenset({"Concat", "Resize", "Slice", "Transpose", "Reshape", "MaxPool", "Identity"})
"""Operators whose 8-bit kernels need one scale for all their inputs and outputs."""
RELU6 = (0.0, 6.0)
"""Bounds of the Clip that 8-bit kernels fuse like a ReLU."""


@dataclass(frozen=True)
class Graph:
    """A read-only view of an ONNX model; nodes are the model's own `NodeProto`s, in its order."""

    model: Any

    @property
    def nodes(self) -> list[Any]:
        """The nodes, in topological order."""
        return list(self.model.graph.node)

    @cached_property
    def constants(self) -> dict[str, NDArray[Any]]:
        """Initializers and Constant nodes by name."""
        from onnx import TensorProto, helper, numpy_helper

        found = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                value = helper.get_attribute_value(node.attribute[0])
                found[node.output[0]] = (
                    numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
                )
        return found

    @cached_property
    def producer(self) -> dict[str, Any]:
        """Tensor name -> the node that computes it."""
        return {name: node for node in self.nodes for name in node.output if node.op_type != "Constant"}

    @cached_property
    def consumers(self) -> dict[str, list[Any]]:
        """Tensor name -> the nodes that read it, in order."""
        found: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def trunk(self) -> list[Any]:
        """The nodes from which a convolution can be reached, convolutions included, in order."""
        reaching: set[str] = set()
        kept = []
        for node in reversed(self.nodes):
            if node.op_type == "Constant":
                continue
            if node.op_type in MAC_OPERATORS or any(name in reaching for name in node.output):
                reaching.update(node.input)
                kept.append(node)
        return kept[::-1]

    @cached_property
    def trunk_tensors(self) -> set[str]:
        """Every tensor that a trunk node computes."""
        return {name for node in self.trunk for name in node.output}

    @cached_property
    def heads(self) -> list[str]:
        """The trunk's results: tensors that it computes and only the arithmetic after it reads, in order."""
        inside = {id(node) for node in self.trunk}
        given = {o.name for o in self.model.graph.output}
        return [
            name
            for node in self.trunk
            for name in node.output
            if name in given or any(id(follower) not in inside for follower in self.consumers.get(name, []))
        ]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> its static shape, as shape inference finds it."""
        import onnx

        inferred = onnx.shape_inference.infer_shapes(self.model, strict_mode=True).graph
        return {
            value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
        }

    def only_consumer(self, name: str) -> Any | None:
        """The one node that reads a tensor; None when several do, or the caller of the model does."""
        followers = self.consumers.get(name, [])
        given = any(o.name == name for o in self.model.graph.output)
        return followers[0] if len(followers) == 1 and not given else None

    def activations(self, node: Any) -> list[str]:
        """The inputs of a node that are computed, not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def bounds(self, clip: Any) -> tuple[float, float]:
        """Lower and upper bound of a Clip; infinite where it has none."""
        low, high = (self.constants.get(name) for name in (*clip.input[1:3], "", "")[:2])
        return (-np.inf if low is None else float(low)), (np.inf if high is None else float(high))

    def fused_into_relu(self, node: Any) -> bool:
        """Whether every 8-bit kernel clips this node's output by the ReLU or ReLU6 that alone follows it."""
        followers = self.consumers.get(node.output[0], [])
        fusable = node.op_type in MAC_OPERATORS or node.op_type in {"Add", "Sub"}
        return fusable and len(followers) == 1 and self._is_relu(followers[0])

    def _is_relu(self, node: Any) -> bool:
        return node.op_type == "Relu" or (node.op_type == "Clip" and self.bounds(node) == RELU6)

    def quantized_tensors(self) -> list[str]:
        """Activations of the trunk that carry a scale: its inputs and every output that is not fused into a ReLU."""
        names = [name for node in self.trunk for name in self.activations(node) if name not in self.producer]
        names += [node.output[0] for node in self.trunk if not self.fused_into_relu(node)]
        return list(dict.fromkeys(names))

    def shared_ranges(self) -> list[set[str]]:
        """Groups of quantized tensors that must share one scale.

        `SAME_RANGE_OPERATORS` pass integers on as they are, in the head as well as in the trunk, so whatever meets in
        one of them must agree. The groups come in the order of their first tensors.
        """
        quantized = self.quantized_tensors()  # in the graph's order, which does not change from one process to the next
        group_of = {name: {name} for name in quantized}
        carried: dict[str, set[str]] = {name: {name} for name in quantized}
        for node in self.nodes:
            if node.op_type not in SAME_RANGE_OPERATORS:
                continue
            sources = set().union(*(carried.get(name, set()) for name in (*self.activations(node), *node.output)))
            for name in node.output:
                carried.setdefault(name, set()).update(sources)
            merged = set().union(*(group_of[name] for name in sources))
            for name in merged:
                group_of[name] = merged
        return list({id(group): group for group in group_of.values()}.values())


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute of a node as a Python value."""
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def macs(node: Any, data_shape: tuple[int, ...], weight_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of a node of `MAC_OPERATORS` for one inference."""
    if node.op_type == "ConvTranspose":
        return int(np.prod(data_shape)) * int(np.prod(weight_shape[1:]))
    if node.op_type == "Conv":
        return int(np.prod(output_shape)) * int(np.prod(weight_shape[1:]))
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return int(np.prod(output_shape)) * int(weight_shape[-1 if transposed or len(weight_shape) == 1 else -2])
