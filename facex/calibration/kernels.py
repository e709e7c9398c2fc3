"""What 8-bit convolutions cannot hold: multipliers that are too large, and biases of channels whose weights are dead.

A kernel sums integers in units of s_in s_w, adds the bias in that unit, and multiplies by s_in s_w / s_out. Where a
tensor is always zero on photographs, or a channel's weights have died in training, one of those scales means nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration.graph import Graph
from facex.calibration.plan import QMAX, QMIN, QuantizationPlan, quantize_weight

LARGEST_MULTIPLIER = 128.0
"""XNNPACK refuses 256 and more, and may take the process down."""
FAINT = 1 / 256
"""Steps of the output that a single weight must be able to reach, or its channel counts as dead."""


def _convolutions(graph: Graph, plan: QuantizationPlan) -> list[tuple[Any, str]]:
    """The integer convolutions, each with the tensor whose grid its result has."""
    return [
        (n, graph.consumers[n.output[0]][0].output[0] if graph.fused_into_relu(n) else n.output[0])
        for n in graph.trunk
        if n.op_type == "Conv" and n.output[0] not in plan.floats
    ]


def with_multipliers(plan: QuantizationPlan, graph: Graph) -> QuantizationPlan:
    """Before: s_in s_w / s_out above `LARGEST_MULTIPLIER` in some channel. After: s_out so wide that it is not."""
    activations = dict(plan.activations)
    group_of = {name: group for group in graph.shared_ranges() for name in group}
    for node, output in _convolutions(graph, plan):
        largest = float(quantize_weight(graph.constants[node.input[1]], axis=0)[1].max())
        least = activations[node.input[0]].scale * largest / LARGEST_MULTIPLIER
        for name in group_of[output]:
            if activations[name].scale < least:
                activations[name] = dataclasses.replace(activations[name], scale=float(np.float32(least)))
    return dataclasses.replace(plan, activations=activations)


def without_dead_channels(plan: QuantizationPlan, graph: Graph) -> dict[str, NDArray[np.float32]]:
    """Weights, by name, of the convolutions that have channels in which no weight reaches `FAINT` steps of the output.

    Before: w, in units so small that the bias does not fit 32 bits, or TensorFlow drops most of it. After:
    one weight of `FAINT` steps, at the input's widest, and zeros. The bias then fits whenever the output can show it.
    """
    changed = {}
    for node, output in _convolutions(graph, plan):
        weight = graph.constants[node.input[1]]
        widest = plan.activations[node.input[0]].scale * (QMAX - QMIN)
        faint = FAINT * plan.activations[output].scale / widest
        dead = np.abs(weight).max(axis=(1, 2, 3)) < faint
        if dead.any():
            revived = weight.copy()
            revived[dead] = 0
            revived[dead, 0, 0, 0] = faint
            changed[node.input[1]] = revived
    return changed
