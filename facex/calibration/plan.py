"""Ranges to integers: the scale and zero point of every tensor, as 8-bit kernels use them.

real = scale * (q - zero_point), q in [-128, 127] (Jacob et al. 2018, eq. 1). Activations are asymmetric per tensor with
zero exactly representable; weights are symmetric per output channel in [-127, 127].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facex.calibration.graph import Graph, attribute

QMIN, QMAX = -128, 127
WEIGHT_QMAX = 127
SMALLEST_SCALE = 1e-8
NARROWER, WIDER = 0.02, 0.05
"""How far the step before a LeakyReLU may shrink, which clips, and grow, which is coarser."""
IMAGE_RANGE = (0.0, 255.0)


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Scale and zero point of an int8 tensor."""

    scale: float
    zero_point: int

    @property
    def low(self) -> float:
        """The real value of -128."""
        return self.scale * (QMIN - self.zero_point)

    @property
    def high(self) -> float:
        """The real value of 127."""
        return self.scale * (QMAX - self.zero_point)


@dataclass(frozen=True, kw_only=True)
class QuantizationPlan:
    """What becomes an integer, and which one.

    Attributes:
        activations: tensor -> its grid; weights follow from the float model by `quantize_weight`.
        method: how the grids were chosen.
        floats: outputs of trunk nodes that are left in float.
    """

    activations: Mapping[str, Affine]
    method: str
    floats: frozenset[str] = frozenset()


def affine(low: float, high: float) -> Affine:
    """The int8 grid over a range, widened to hold zero, with zero on the grid.

    Returns:
        scale as float32 would store it; `SMALLEST_SCALE` for a tensor that is always zero.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / (QMAX - QMIN), SMALLEST_SCALE)))
    return Affine(scale=scale, zero_point=int(np.clip(round(QMIN - low / scale), QMIN, QMAX)))


def make_plan(graph: Graph, ranges: Mapping[str, tuple[float, float]], method: str) -> QuantizationPlan:
    """Choose the integers of every quantized tensor; tensors that must agree take the union of their ranges.

    Image pixels always take 0-255, so that the uint8 image enters without loss.
    """
    activations: dict[str, Affine] = {}
    images = {i.name for i in graph.model.graph.input}
    for group in graph.shared_ranges():
        known = [IMAGE_RANGE if name in images else ranges[name] for name in sorted(group)]
        grid = affine(min(low for low, _ in known), max(high for _, high in known))
        activations.update(dict.fromkeys(group, grid))
    ordered = {name: activations[name] for name in graph.quantized_tensors()}
    return QuantizationPlan(activations=ordered, method=method)


def for_leaky_kernels(plan: QuantizationPlan, graph: Graph) -> QuantizationPlan:
    """The plan with grids before LeakyReLUs that 8-bit kernels can follow exactly.

    XNNPACK multiplies by two factors of 1/256ths, round(256 s_in / s_out) and round(256 a s_in / s_out), where a is the
    slope: at a = 0.1 the second may be 2 % off, for every negative value alike. Before: s_in as it was chosen. After:
    s_in = k s_out / 256 with k and a k as whole as can be, at most a few per cent away; the step before the activation
    changes by as much.
    """
    activations = dict(plan.activations)
    own = {name for group in graph.shared_ranges() if len(group) == 1 for name in group}
    for node in (n for n in graph.trunk if n.op_type == "LeakyRelu"):
        before, after = (activations.get(name) for name in (node.input[0], node.output[0]))
        alone = node.input[0] in own and graph.only_consumer(node.input[0]) is not None
        if alone and before is not None and after is not None:
            factor = _whole_factor(256 * before.scale / after.scale, float(attribute(node, "alpha", 0.01)))
            scale = float(np.float32(factor * after.scale / 256))
            activations[node.input[0]] = Affine(scale=scale, zero_point=before.zero_point)
    return replace(plan, activations=activations)


def _whole_factor(factor: float, slope: float) -> int:
    """The whole number near a factor whose product with a slope is nearest to a whole one; the nearest of several."""
    low, high = math.floor(factor * (1 - NARROWER)), math.ceil(factor * (1 + WIDER))
    candidates = range(max(low, 1), max(high, 1) + 1)

    def error(k: int) -> tuple[float, float]:
        return round(abs(round(slope * k) / (slope * k) - 1), 6), abs(k - factor)

    return min(candidates, key=error)


def without(plan: QuantizationPlan, graph: Graph, floats: frozenset[str]) -> QuantizationPlan:
    """The plan with some nodes of the trunk left in float: tensors that only they touch lose their grids.

    Args:
        plan: of the whole trunk.
        graph: that it is a plan of.
        floats: outputs of the nodes, besides those that the plan leaves in float already. The image keeps its grid, so
            that it still enters as uint8.
    """
    floats |= plan.floats
    images = {i.name for i in graph.model.graph.input}

    def touched(name: str) -> bool:
        producer = graph.producer.get(name)
        nodes = [n for n in graph.consumers.get(name, []) if n.output[0] in graph.trunk_tensors]
        return any(n.output[0] not in floats for n in (*nodes, *([producer] if producer is not None else [])))

    kept = {name: grid for name, grid in plan.activations.items() if name in images or touched(name)}
    return QuantizationPlan(activations=kept, method=plan.method, floats=floats)


def quantize_weight(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 weights per channel.

    Args:
        weight: float32, any shape.
        axis: of the output channels.

    Returns:
        int8 weights of the same shape with at least one +-127 in every channel that is not all zero, and float32 scales
        [channels].
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    # weights beneath what a float32 scale can resolve are as good as zero
    scale = (np.where(largest > np.finfo(np.float32).tiny, largest, 1.0) / WEIGHT_QMAX).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    quantized = np.rint(weight / scale.reshape(shape)).clip(-WEIGHT_QMAX, WEIGHT_QMAX).astype(np.int8)
    return quantized, scale


def quantize_bias(
    bias: NDArray[np.float32], input_scale: float, weight_scale: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Integer bias in units of input scale times weight scale, as the kernels add it to their accumulators."""
    unit = np.float64(input_scale) * weight_scale.astype(np.float64)
    bounds = np.iinfo(np.int32)
    return np.rint(bias / unit).clip(bounds.min, bounds.max).astype(np.int32)
