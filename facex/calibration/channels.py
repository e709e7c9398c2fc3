"""Which channels of a graph may be rescaled against each other without changing its results.

A convolution absorbs any positive factor per channel of its input and of its output. What lies between two
convolutions passes a factor on when it is positively homogeneous, f(s x) = s f(x): LeakyReLU, ReLU, nearest resizing,
a cut of rows and columns, max pooling, the mean of a channel. An addition needs one factor for all its operands and
its result; a product with a gate, a clipped tensor or one value a channel, has the factor of what is gated while the
gate has 1; a concatenation along the channels keeps the factors of its parts. Everything else, the image and the
results of the trunk keep the factor 1: a ReLU6 or a hard swish would bend elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from facex.calibration.graph import MAC_OPERATORS, Graph, attribute

HOMOGENEOUS = frozenset({"LeakyRelu", "Relu", "Resize", "Slice", "MaxPool", "GlobalAveragePool", "Identity"})
TIED = frozenset({"Add", "Sub"})


@dataclass(frozen=True)
class Segment:
    """A run of channels of a tensor; `group` is None where the factor is 1."""

    group: str | None
    channels: int


class Channels:
    """The groups of tensors that share one factor per channel.

    Attributes:
        groups: name of a group -> its tensors, in the order of the graph. Concatenations are made of segments and
            belong to no group.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parent: dict[str, str] = {}
        self._parts: dict[str, list[str]] = {}
        fixed = {i.name for i in graph.model.graph.input} | set(graph.heads) | set(graph.constants)
        for node in graph.trunk:
            fixed |= self._visit(node)
        self._fixed = self._spread(fixed)

    def _visit(self, node: Any) -> set[str]:
        """Tie what a node ties; returns the tensors that it fixes at the factor 1."""
        computed = self._graph.activations(node)
        names = [*computed, *node.output]
        if node.op_type in MAC_OPERATORS:
            return set(names) if node.op_type != "Conv" else set()
        if node.op_type == "Concat" and attribute(node, "axis", 1) == 1:
            self._parts[node.output[0]] = list(node.input)
            return set()
        if node.op_type == "Mul" and len(computed) == 2:
            gate, gated = sorted(computed, key=self._gates_by)
            if self._gates_by(gate) == self._gates_by(gated) or self._count(gate) != self._count(gated):
                return set(names)
            self._parent[self._find(node.output[0])] = self._find(gated)
            return {gate}
        if computed and (node.op_type in HOMOGENEOUS or node.op_type in TIED):
            for name in names[1:]:
                self._parent[self._find(name)] = self._find(names[0])
            has_constants = node.op_type in TIED and len(computed) < len(node.input)
            broadcasts = len({self._count(name) for name in names}) > 1
            return set(names) if has_constants or broadcasts else set()
        return set(names)

    def _gates_by(self, name: str) -> tuple[bool, int]:
        """Sorts the gate of a product before what it gates."""
        producer = self._graph.producer.get(name)
        return producer is None or producer.op_type != "Clip", math.prod(self._graph.shapes[name][2:])

    def _count(self, name: str) -> int:
        """Channels of a tensor, computed or constant."""
        constant = self._graph.constants.get(name)
        return int((self._graph.shapes[name] if constant is None else constant.shape)[1])

    def _find(self, name: str) -> str:
        self._parent.setdefault(name, name)
        while self._parent[name] != name:
            name = self._parent[name]
        return name

    def _spread(self, fixed: set[str]) -> set[str]:
        """Roots of the fixed groups: a concatenation that is tied to anything but convolutions fixes its parts."""
        tied = {self._find(node.output[0]) for node in self._graph.trunk if node.op_type not in ("Conv", "Concat")}
        roots = {self._find(name) for name in fixed}
        roots |= {self._find(name) for name in self._parts if self._find(name) in tied}
        while True:
            parts = {
                self._find(part) for name, inputs in self._parts.items() if self._find(name) in roots for part in inputs
            }
            if parts <= roots:
                return roots
            roots |= parts

    @cached_property
    def groups(self) -> Mapping[str, list[str]]:
        """See the class."""
        found: dict[str, list[str]] = {}
        for node in self._graph.trunk:
            for name in node.output:
                root = self._find(name)
                if root not in self._fixed and name not in self._parts:
                    found.setdefault(root, []).append(name)
        return found

    def segments(self, name: str) -> list[Segment]:
        """The channels of a tensor as runs of groups, in order."""
        root = self._find(name)
        if root in self._fixed:
            return [Segment(None, self._count(name))]
        if name in self._parts:
            return [segment for part in self._parts[name] for segment in self.segments(part)]
        return [Segment(root, self._count(name))]
