"""The trunk as convolutions with what follows each: what can be left in float, and how much each piece hurts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from facex.calibration.graph import Graph, macs
from facex.calibration.rewrites import HALVES, join_leaky_relus

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facex.calibration.plan import QuantizationPlan


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A convolution and the operators up to the next ones; convolutions with a split LeakyReLU between them are one.

    Attributes:
        name: output of the first convolution.
        convolutions: outputs of all of them.
        outputs: of all its nodes.
        macs: multiply-accumulates of one inference in float, where no LeakyReLU is split.
    """

    name: str
    convolutions: frozenset[str]
    outputs: frozenset[str]
    macs: int


def units(graph: Graph) -> list[Unit]:
    """Every convolution of the trunk, in order; an operator with several inputs goes with the first."""
    members: dict[str, list[str]] = {}
    unit_of: dict[str, str] = {}
    for node in graph.trunk:
        name = node.output[0]
        first = next((unit_of[x] for x in graph.activations(node) if x in unit_of), "")
        unit_of[name] = name if node.op_type == "Conv" and not node.input[0].endswith(HALVES) else first
        members.setdefault(unit_of[name], []).append(name)
    cost = _macs_in_float(graph)
    found = []
    for name in (n for n in members if n):  # what precedes every convolution belongs to none
        convolutions = frozenset(cost) & frozenset(members[name])
        total = sum(cost[c] for c in convolutions)
        found.append(Unit(name=name, convolutions=convolutions, outputs=frozenset(members[name]), macs=total))
    return found


def _macs_in_float(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of every convolution of the trunk once all of it runs in float."""
    from onnx import ModelProto

    model = ModelProto()
    model.CopyFrom(graph.model)
    join_leaky_relus(model, frozenset(graph.trunk_tensors))
    joined = Graph(model)
    return {
        n.output[0]: macs(n, joined.shapes[n.input[0]], joined.constants[n.input[1]].shape, joined.shapes[n.output[0]])
        for n in joined.trunk
        if n.op_type == "Conv"
    }


def closure(graph: Graph, names: Iterable[str]) -> frozenset[str]:
    """Outputs of every node that runs in float when these units, or single convolutions, do.

    An operator that multiplies nothing follows its inputs: it is in float when all of them come from float nodes.
    """
    convolutions = {u.name: u.convolutions for u in units(graph)}
    asked = frozenset[str]().union(*(convolutions.get(name, {name}) for name in names))
    floats: set[str] = set()
    for node in graph.trunk:
        name = node.output[0]
        inputs = graph.activations(node)
        follows = node.op_type != "Conv" and bool(inputs) and all(x in floats for x in inputs)
        if name in asked or follows:
            floats.add(name)
    return frozenset(floats)


def sensitivities(
    graph: Graph, plan: QuantizationPlan, crops: NDArray[np.float32], threads: int
) -> Mapping[str, float]:
    """How far the head moves when one unit alone is quantized, by unit: the loss that reconstruction minimises.

    Args:
        graph: of the float model that the plan is for, with unrounded weights.
        plan: of the whole trunk.
        crops: float32 [n, 3, h, w], 0-255, with faces.
        threads: for torch.
    """
    import torch

    from facex.calibration.heads import levels
    from facex.calibration.reconstruct import head_loss
    from facex.calibration.simulate import Simulation, torch_threads

    with torch_threads(threads):
        simulation, found = Simulation(graph, plan), levels(graph)
        image = torch.from_numpy(crops)
        heads = set(graph.heads)
        with torch.no_grad():
            expected = simulation(image, quantized=False, keep=heads)
            return {
                unit.name: float(head_loss(found, simulation(image, only=unit.outputs, keep=heads), expected))
                for unit in units(graph)
            }
