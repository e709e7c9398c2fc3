"""Weights of few values, of which each column makes up for the errors of those before it.

GPTQ (Frantar et al. 2023, arXiv 2210.17323): with H = X X^T over the inputs X of a convolution that photographs give,
and U upper triangular with U^T U = H^-1, the columns W_j of its weights are rounded one after another, those of the
largest H_jj first; e = (W_j - round(W_j)) / U_jj, and then W_k -= e U_jk for every later k. Every convolution sees
inputs that the rounded ones before it give. What is left as a mean error of a channel its bias takes up (`correct`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from numpy.typing import NDArray
from torch import Tensor

from facex.calibration.correct import correct_biases
from facex.calibration.graph import Graph, attribute
from facex.calibration.heads import levels
from facex.calibration.plan import QuantizationPlan, quantize_weight
from facex.calibration.simulate import Simulation, torch_threads

Nearest = Callable[[Tensor], Tensor]
"""Values float32 [out, n] -> the nearest that the weights may have."""

Grid = Callable[[NDArray[np.float32]], "Nearest | None"]
"""Weights float32 [out, in/groups, kh, kw] -> the values that may stand for them; None where they stay as they are."""

DAMPING = 0.05
"""Added to the diagonal of H, as a share of its mean: directions that the crops hardly show must not be relied on."""
UNFOLDED_CROPS = 8
"""Crops whose patches are held in memory at a time."""


def eight_bits(weight: NDArray[np.float32]) -> Nearest:
    """Symmetric integers, a scale per output channel; see `plan.quantize_weight`."""
    scale = torch.from_numpy(quantize_weight(weight, axis=0)[1])[:, None]

    def nearest(values: Tensor) -> Tensor:
        return (values / scale).round().clamp(-127, 127) * scale

    return nearest


def one_of(values: NDArray[np.floating]) -> Nearest:
    """A few values in rising order, the same ones for all weights."""
    known = torch.from_numpy(values.astype(np.float32))
    middles = (known[1:] + known[:-1]) / 2

    def nearest(given: Tensor) -> Tensor:
        return known[torch.bucketize(given.contiguous(), middles)]

    return nearest


def rounded(model: Any, grid: Grid, crops: NDArray[np.float32] | None) -> dict[str, NDArray[np.float32]]:
    """Weights, and with crops biases, of the convolutions of a model, by their names in it.

    Args:
        model: float ONNX; it is not changed.
        grid: says for each convolution what its weights may be.
        crops: float32 [n, 3, h, w], 0-255, most of them around faces; without any, every weight takes the nearest
            value and biases stay.

    Raises:
        UnsupportedOperatorError: the trunk has an operator that cannot be simulated; not without crops.
    """
    graph = Graph(model)
    convolutions = [node for node in graph.trunk if node.op_type == "Conv"]
    nearest = {node.output[0]: grid(graph.constants[node.input[1]]) for node in convolutions}
    with torch_threads(1):  # other numbers of threads would sum in other orders
        if crops is None:
            chosen = [(n.input[1], n, nearest[n.output[0]]) for n in convolutions]
            return {name: _flat(graph.constants[n.input[1]], of) for name, n, of in chosen if of is not None}
        # and so would another order in memory
        return dict(_with_feedback(graph, nearest, torch.from_numpy(np.ascontiguousarray(crops))))


def _flat(weight: NDArray[np.float32], nearest: Nearest) -> NDArray[np.float32]:
    found: NDArray[np.float32] = nearest(torch.tensor(weight.reshape(len(weight), -1))).numpy()
    return found.reshape(weight.shape)


def _with_feedback(
    graph: Graph, nearest: Mapping[str, Nearest | None], crops: Tensor
) -> Mapping[str, NDArray[np.float32]]:
    # no activation has a grid, and no weight is rounded but by `prepare`
    plan = QuantizationPlan(activations={}, method="rounded weights", floats=frozenset(nearest))
    simulation = Simulation(graph, plan)

    def prepare(node: Any, value: Tensor) -> None:
        of = nearest[node.output[0]]
        if of is None:
            return
        weight = torch.tensor(graph.constants[node.input[1]])
        rows = weight.reshape(len(weight), -1)
        if attribute(node, "group", 1) == 1:
            rows = column_by_column(rows, _moments(node, weight, value), of)
        else:  # the few weights of a channel's own filter
            rows = of(rows)
        simulation.set_weight(node.output[0], rows.reshape(weight.shape))

    correct_biases(simulation, levels(graph), crops, prepare)
    return simulation.learned().constants


def _moments(node: Any, weight: Tensor, value: Tensor) -> Tensor:
    """H of a convolution's inputs, float64 [columns, columns]."""
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    padded = F.pad(value, (left, right, top, bottom))
    columns = weight[0].numel()
    total = torch.zeros(columns, columns, dtype=torch.float64)
    for some in torch.split(padded, UNFOLDED_CROPS):
        patches = F.unfold(
            some, weight.shape[2:], stride=attribute(node, "strides", [1, 1]),
            dilation=attribute(node, "dilations", [1, 1]),
        ).permute(1, 0, 2).reshape(columns, -1)  # fmt: skip
        total += (patches @ patches.T).double()
    return total


def column_by_column(weight: Tensor, moments: Tensor, nearest: Nearest) -> Tensor:
    """Round with feedback.

    Args:
        weight: float32 [out, columns].
        moments: H, float64 [columns, columns].
        nearest: the values that are allowed.

    Returns:
        float32 [out, columns], all of them allowed values.
    """
    order = moments.diagonal().argsort(descending=True, stable=True)
    level = float(moments.diagonal().mean()) or 1.0
    damped = moments[order][:, order] + DAMPING * level * torch.eye(len(order), dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    left = weight[:, order].double()
    found = torch.empty_like(weight)
    for j in range(len(order)):
        column = nearest(left[:, j : j + 1].float())
        error = (left[:, j : j + 1] - column) / upper[j, j]
        left[:, j + 1 :] -= error * upper[j, j + 1 :]
        found[:, order[j]] = column[:, 0]
    return found
