"""The integers of a QDQ ONNX model, in the neutral form of `_integers`.

In a QDQ model every 8-bit tensor is written as a QuantizeLinear and a DequantizeLinear. A runtime drops both around an
operator whose inputs all come from a DequantizeLinear and whose outputs all go to a QuantizeLinear, a ReLU between an
operator and its QuantizeLinear counting as part of it; such an operator is an integer one here. What is left of the
pairs is what the model really quantizes and dequantizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration.graph import MAC_OPERATORS, Graph, attribute
from facex.calibration.twin import DEQUANTIZE, QUANTIZE, folded
from facex.exporters._integers import Grid, Kind, Operation, Weight
from facex.exporters._integers import facts as neutral
from facex.types import QuantizationFacts

LAYOUT_OPERATORS = frozenset(
    {"Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
KINDS: Mapping[str, Kind] = {
    QUANTIZE: Kind.QUANTIZE,
    DEQUANTIZE: Kind.DEQUANTIZE,
    "Sigmoid": Kind.SIGMOID,
    "Softmax": Kind.SIGMOID,
    # what is chosen, or a comparison, tells nothing of how large a value is
    **dict.fromkeys(("NonMaxSuppression", "Less", "GreaterOrEqual"), Kind.CHOICE),
    **dict.fromkeys(MAC_OPERATORS, Kind.MULTIPLY_ACCUMULATE),
    **dict.fromkeys(LAYOUT_OPERATORS, Kind.LAYOUT),
}


def facts(graph: Graph, unasked_floats: int) -> QuantizationFacts | None:
    """See `_integers.facts`."""
    view = _View(graph)
    weights = [
        Weight(name=node.input[1], values=view.constants[node.input[1]], axis=_channel_axis(node))
        for node in graph.nodes
        if node.op_type in MAC_OPERATORS and node.input[1] in view.constants
    ]
    outputs = {o.name: o.name for o in graph.model.graph.output}
    return neutral(list(view.operations()), view.grids(), outputs, weights, unasked_floats)


def _channel_axis(node: Any) -> int:
    """Of the output channels of a weight."""
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return 0 if node.op_type == "Conv" or transposed else 1 if node.op_type == "ConvTranspose" else -1


class _View:
    """Which nodes are integer ones."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.constants: dict[str, NDArray[Any]] = folded(graph)
        self._computed = [n for n in graph.nodes if n.output[0] not in self.constants]
        self._source = {n.output[0]: n.input[0] for n in self._computed if n.op_type == DEQUANTIZE}
        self._given = {o.name for o in graph.model.graph.output}
        self._integer: set[int] = set()
        for node in self._computed:
            if self._starts(node) and self._ends(node):
                self._integer.add(id(node))

    def _activations(self, node: Any) -> list[str]:
        return [name for name in node.input if name and name not in self.constants]

    def _starts(self, node: Any) -> bool:
        """Whether a node is fed integers alone; a ReLU also by the operator that it is fused into."""
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            return False
        inputs = self._activations(node)
        return bool(inputs) and all(
            name in self._source or id(self._graph.producer.get(name)) in self._integer for name in inputs
        )

    def _ends(self, node: Any) -> bool:
        """Whether integers alone come of a node, after the ReLU that it is fused with."""
        followers = [f for name in node.output for f in self._graph.consumers.get(name, [])]
        if not followers or self._given & set(node.output):
            return False
        if self._graph.fused_into_relu(node):
            return self._ends(followers[0])
        return all(f.op_type == QUANTIZE for f in followers)

    def operations(self) -> Iterator[Operation]:
        """The operators that a runtime is left with."""
        for node in self._computed:
            inputs = tuple(self._activations(node))
            if node.op_type == DEQUANTIZE:
                readers = self._graph.consumers.get(node.output[0], [])
                if not readers or node.output[0] in self._given or any(id(r) not in self._integer for r in readers):
                    yield Operation(kind=Kind.DEQUANTIZE, inputs=inputs, outputs=(node.output[0],))
            elif node.op_type == QUANTIZE:
                if id(self._graph.producer.get(node.input[0])) not in self._integer:
                    yield Operation(kind=Kind.QUANTIZE, inputs=inputs, outputs=(node.output[0],))
            else:
                yield self._operation(node, inputs)

    def _operation(self, node: Any, inputs: tuple[str, ...]) -> Operation:
        kind, outputs = KINDS.get(node.op_type, Kind.OTHER), tuple(node.output)
        if id(node) not in self._integer:
            return Operation(kind=kind, inputs=inputs, outputs=outputs)
        grids = [f.output[0] for name in outputs for f in self._graph.consumers.get(name, []) if f.op_type == QUANTIZE]
        read = tuple(self._source.get(name, name) for name in inputs)
        return Operation(kind=kind, inputs=read, outputs=(*outputs, *grids))

    def grids(self) -> dict[str, Grid]:
        """Every 8-bit activation by the name of its integers, called as the float tensor before them."""
        found: dict[str, Grid] = {}
        for node in self._computed:
            scale = self.constants.get(node.input[1]) if node.op_type in (QUANTIZE, DEQUANTIZE) else None
            if scale is not None and scale.size:
                key, name = (node.output[0], node.input[0]) if node.op_type == QUANTIZE else (node.input[0],) * 2
                found.setdefault(key, Grid(name=name, step=float(np.max(scale))))
        return found
