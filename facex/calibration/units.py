"""The trunk as convolutions with what follows each: what can be left in float, and how much each piece hurts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from facex.calibration.graph import Graph, macs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facex.calibration.plan import QuantizationPlan


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A convolution and the operators up to the next ones.

    Attributes:
        name: output of the convolution.
        outputs: of all its nodes.
        macs: multiply-accumulates of one inference.
    """

    name: str
    outputs: frozenset[str]
    macs: int


def units(graph: Graph) -> list[Unit]:
    """Every convolution of the trunk, in order; an operator with several inputs goes with the first."""
    members: dict[str, list[str]] = {}
    unit_of: dict[str, str] = {}
    cost = {}
    for node in graph.trunk:
        name = node.output[0]
        if node.op_type == "Conv":
            unit_of[name] = name
            shapes = graph.shapes[node.input[0]], graph.constants[node.input[1]].shape, graph.shapes[name]
            cost[name] = macs(node, *shapes)
        else:
            unit_of[name] = next((unit_of[x] for x in graph.activations(node) if x in unit_of), "")
        members.setdefault(unit_of[name], []).append(name)
    return [Unit(name=name, outputs=frozenset(members[name]), macs=cost[name]) for name in cost]


def closure(graph: Graph, convolutions: Iterable[str]) -> frozenset[str]:
    """Outputs of every node that runs in float when these convolutions do.

    An operator that multiplies nothing follows its inputs: it is in float when all of them come from float nodes.
    """
    asked = set(convolutions)
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
        with torch.no_grad():
            expected = simulation(image, quantized=False)
            return {
                unit.name: float(head_loss(found, simulation(image, only=unit.outputs), expected))
                for unit in units(graph)
            }
