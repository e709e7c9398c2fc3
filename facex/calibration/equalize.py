"""Cross-layer equalization on a graph: give the channels of every tensor ranges of like size, exactly.

Generalises Nagel et al. 2019 (arXiv 1906.04721, eq. 7-11) from pairs of layers to groups of tensors (`channels`).
Before: y = W x + b. After: y/s_y = (W s_x / s_y)(x/s_x) + b/s_y, where s_x and s_y are positive factors per channel;
activations between the convolutions pass them on, so the trunk's results do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration.channels import Channels
from facex.calibration.edit import set_constants
from facex.calibration.graph import Graph, attribute

POWER = 0.5
"""Between 0, nothing, and 1, equal ranges: full equalization moves all the inequality into the weights."""
FLOOR = 1e-3
"""Smallest magnitude of a channel that counts, relative to the largest of its tensor: dead channels stay small."""


@dataclass(frozen=True, kw_only=True)
class Equalization:
    """What was absorbed.

    Attributes:
        factors: group -> its factor per channel, float64, geometric mean 1.
        spread_before: group -> ratio of the largest to the median magnitude among its channels.
        spread_after: the same after the rescaling.
    """

    factors: Mapping[str, NDArray[np.float64]]
    spread_before: Mapping[str, float]
    spread_after: Mapping[str, float]


def watched(graph: Graph, channels: Channels) -> dict[str, list[str]]:
    """Group -> the tensors whose magnitudes decide its factors: those after the activation, where there is one.

    A tensor before an activation has large negative values that the activation then shrinks; they must not count.
    """
    found = {}
    for group, names in channels.groups.items():
        after = [name for name in names if graph.producer[name].op_type != "Conv"]
        found[group] = after or names
    return found


def equalization(magnitudes: Mapping[str, NDArray[np.float64]], watching: Mapping[str, list[str]]) -> Equalization:
    """Choose factors.

    Args:
        magnitudes: tensor -> how large the values of each channel get, float64 [channels].
        watching: of `watched`.
    """
    factors, before, after = {}, {}, {}
    for group, names in watching.items():
        largest = np.max([magnitudes[name] for name in names], axis=0)
        top = float(largest.max())
        largest = np.maximum(largest, FLOOR * top) if top > 0 else np.ones_like(largest)
        factor = largest**POWER
        factors[group] = factor / np.exp(np.log(factor).mean())
        before[group] = _spread(largest)
        after[group] = _spread(largest / factors[group])
    return Equalization(factors=factors, spread_before=before, spread_after=after)


def _spread(magnitudes: NDArray[np.float64]) -> float:
    return float(magnitudes.max() / np.median(magnitudes))


def apply(model: Any, factors: Mapping[str, NDArray[np.float64]]) -> None:
    """Absorb factors into the weights and biases of a model, in place; computed in float64 and rounded once."""
    graph = Graph(model)
    channels = Channels(graph)
    changed: dict[str, NDArray[Any]] = {}
    for node in graph.trunk:
        if node.op_type == "Conv":
            s_in, s_out = (factor_of(channels, factors, name) for name in (node.input[0], node.output[0]))
            weight = graph.constants[node.input[1]].astype(np.float64)
            changed[node.input[1]] = rescaled(weight, s_in, s_out, attribute(node, "group", 1))
            if len(node.input) > 2:
                changed[node.input[2]] = graph.constants[node.input[2]] / s_out
    set_constants(model, changed)


def factor_of(channels: Channels, factors: Mapping[str, NDArray[np.float64]], name: str) -> NDArray[np.float64]:
    """Factor per channel of a tensor, float64 [channels]."""
    return np.concatenate(
        [factors[s.group] if s.group is not None else np.ones(s.channels) for s in channels.segments(name)]
    )


def rescaled(
    weight: NDArray[np.float64], s_in: NDArray[np.float64], s_out: NDArray[np.float64], groups: int
) -> NDArray[np.float64]:
    """Weight [out, in/groups, kh, kw] for inputs divided by `s_in` and outputs divided by `s_out`."""
    per_group = s_in.reshape(groups, -1).repeat(len(weight) // groups, axis=0)
    return weight * per_group[:, :, None, None] / s_out[:, None, None, None]
