"""Cross-layer equalization by the weights alone: channels whose weights are of like size share a palette well.

Nagel et al. 2019 (arXiv 1906.04721, section 4.1), with root mean squares in place of ranges, over groups of tensors
(`channels`) in place of pairs of layers. It needs no photographs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration import equalize
from facex.calibration.channels import Channels
from facex.calibration.graph import Graph, attribute

SWEEPS = 40
STEP = 0.7
"""Share of the way that a sweep goes: groups that share a convolution would overshoot together."""

MOST = 64.0
"""Largest factor of a channel, and the inverse of the smallest: what is almost dead stays almost dead."""

Factors = Mapping[str, NDArray[np.float64]]


def factors(model: Any) -> dict[str, NDArray[np.float64]]:
    """Factor per channel of every group, geometric mean 1, for `equalize.apply`.

    After it the weights that produce a channel and the weights that consume it have the same root mean square, up to
    `MOST`.
    """
    graph = Graph(model)
    channels = Channels(graph)
    convolutions = [node for node in graph.trunk if node.op_type == "Conv"]
    found = {
        group: np.ones(sum(s.channels for s in channels.segments(names[0]))) for group, names in channels.groups.items()
    }
    for _ in range(SWEEPS):
        made: dict[str, list[NDArray[np.float64]]] = {group: [] for group in found}
        used: dict[str, list[NDArray[np.float64]]] = {group: [] for group in found}
        for node in convolutions:
            rows, columns = _sizes(node, graph, channels, found)
            _shared_out(made, channels, node.output[0], rows)
            _shared_out(used, channels, node.input[0], columns)
        for group in found:
            if made[group] and used[group]:
                ratio = np.mean(np.log(made[group]), axis=0) - np.mean(np.log(used[group]), axis=0)
                moved = np.log(found[group]) + STEP * ratio / 2
                found[group] = np.exp(np.clip(moved - moved.mean(), -np.log(MOST), np.log(MOST)))
    return found


def _sizes(
    node: Any, graph: Graph, channels: Channels, found: Factors
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Root mean squares of a convolution's rescaled weights by output channel and by input channel."""
    s_in, s_out = (equalize.factor_of(channels, found, name) for name in (node.input[0], node.output[0]))
    groups = attribute(node, "group", 1)
    weight = graph.constants[node.input[1]].astype(np.float64)
    squares = np.square(equalize.rescaled(weight, s_in, s_out, groups)).mean(axis=(2, 3))
    # [groups, outputs of a group, inputs of a group]
    grouped = squares.reshape(groups, -1, squares.shape[1])
    tiny = np.finfo(np.float64).tiny
    return np.sqrt(squares.mean(axis=1) + tiny), np.sqrt(grouped.mean(axis=1).reshape(-1) + tiny)


def _shared_out(
    sizes: dict[str, list[NDArray[np.float64]]], channels: Channels, name: str, values: NDArray[np.float64]
) -> None:
    """Give each group that a tensor is made of its part of the values."""
    start = 0
    for segment in channels.segments(name):
        if segment.group is not None:
            sizes[segment.group].append(values[start : start + segment.channels])
        start += segment.channels
