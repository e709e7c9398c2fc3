"""What computes a quantized tensor, in the vocabulary that a TFLite file and a QDQ model have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Tensor = TypeVar("Tensor", bound=Hashable)
"""A side's way to name its tensors: an index in a TFLite file, a text in an ONNX model."""

Grid = tuple[float, int]
Integers = NDArray[np.int64]

SCALE_RTOL = 3e-7
"""The converter computes scales from bounds in float32, so one may come back a step of float32 away."""

KINDS = {
    "Add": "ADD",
    "Clip": "RELU",
    "Concat": "CONCATENATION",
    "Conv": "CONV",
    "GlobalAveragePool": "MEAN",
    "HardSigmoid": "HARD_SIGMOID",
    "HardSwish": "HARD_SWISH",
    "LeakyRelu": "LEAKY_RELU",
    "MaxPool": "MAX_POOL_2D",
    "Mul": "MUL",
    "Relu": "RELU",
    "Resize": "RESIZE_NEAREST_NEIGHBOR",
    "Slice": "STRIDED_SLICE",
    "Sub": "SUB",
    "CONV_2D": "CONV",
    "DEPTHWISE_CONV_2D": "CONV",
}
UNCOUNTED = frozenset({"DEQUANTIZE", "DequantizeLinear", "Identity", "MIRROR_PAD", "PAD", "QUANTIZE", "QuantizeLinear"})
"""They change how a value is written, or belong to the convolution that they pad."""
FUSES_RELU = frozenset({"ADD", "CONV", "MUL", "SUB"})


class PairingError(Exception):
    """A quantized tensor of one side without exactly one partner on the other."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Integers of a convolution. weight: int64 [O, I, h, w]; scale: float64 [O]; bias: int64 [O]."""

    weight: Integers
    scale: NDArray[np.float64]
    bias: Integers

    def departures(self, planned: Convolution) -> tuple[str, ...]:
        """What of `weights`, `bias` differs from the plan by more than the float32 rounding of a scale explains."""
        if self.weight.shape != planned.weight.shape:
            return ("weights",)
        used = planned.weight.any(axis=(1, 2, 3))  # the scale of a channel of zeros means nothing
        same = np.array_equal(self.weight, planned.weight)
        same = same and np.allclose(self.scale[used], planned.scale[used], rtol=SCALE_RTOL, atol=0)
        near = np.abs(self.bias - planned.bias) <= 1 + np.abs(planned.bias) * SCALE_RTOL
        return (*(() if same else ("weights",)), *(() if near.all() else ("bias",)))


@dataclass(frozen=True, kw_only=True)
class Region(Generic[Tensor]):
    """What computes a quantized tensor from quantized tensors: one operator, or several that were left in float."""

    tensor: Tensor
    kinds: tuple[str, ...]
    sources: tuple[Tensor, ...]
    grid: Grid
    convolution: Convolution | None

    @property
    def operator(self) -> str:
        """The kinds for people."""
        return "+".join(self.kinds) or "QUANTIZE"

    def departures(self, planned: Region[Any]) -> tuple[str, ...]:
        """What of `grid`, `weights`, `bias` is not as planned."""
        grid = () if same_grid(self.grid, planned.grid) else ("grid",)
        if planned.convolution is None or self.convolution is None:
            return (*grid, *(() if planned.convolution is self.convolution else ("weights",)))
        return (*grid, *self.convolution.departures(planned.convolution))


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether scale and zero point agree."""
    return a[1] == b[1] and bool(np.isclose(a[0], b[0], rtol=SCALE_RTOL, atol=0))


def walk(
    tensor: Tensor, boundary: Iterable[Tensor], operator_of: Callable[[Tensor], tuple[str, list[Tensor]] | None]
) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Kinds of the operators between a tensor and the boundary tensors it depends on, and those tensors; sorted."""
    stops, pending = set(boundary), [tensor]
    seen: set[Tensor] = set()
    kinds: list[str] = []
    sources: list[Tensor] = []
    while pending:
        here = pending.pop()
        if here in stops and here != tensor:
            sources.append(here)
            continue
        operator = operator_of(here)
        if here in seen or operator is None:
            continue
        seen.add(here)
        kinds.append(KINDS.get(operator[0], operator[0]))
        pending += operator[1]
    counted = [kind for kind in kinds if kind not in UNCOUNTED]
    fused = FUSES_RELU & set(counted)
    return tuple(sorted(k for k in counted if k != "RELU" or not fused)), tuple(sorted(sources, key=str))
