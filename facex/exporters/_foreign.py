"""What a target reads from any file of its format, whoever wrote it: convolutions, inputs, and a way to run it.

A `Session` serves facex's own files, whose input and outputs are known. Here nothing is: the caller decides what to
feed and finds out what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    DoubleArray = NDArray[np.float64]

Outputs = tuple[tuple[str, NDArray[np.float32]], ...]
"""Name and value of every output, in the file's order; quantized ones as the real numbers that they stand for."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution with constant weights, as the real numbers that the file computes with.

    Attributes:
        name: in the file.
        weight: float64 [out, in / groups, height, width].
        bias: float64 [out]; zeros where there is none.
        groups: of channels.
        stored: type of the weights in the file, such as `float32` or `int8`.
        bits: that one weight takes in the file.
    """

    name: str
    weight: DoubleArray
    bias: DoubleArray
    groups: int
    stored: str
    bits: int


@dataclass(frozen=True, kw_only=True)
class Fed:
    """An input.

    Attributes:
        shape: as the file states it; 0 for a side that it leaves open.
        dtype: NumPy's name.
        scale: what a step of an integer input is worth; 0 where it is not quantized.
        zero_point: the integer that stands for 0.
        colours: "RGB" or "BGR" where the input is typed as an image: the system brings any picture into that order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0
    colours: str | None = None


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A file that is ready to run: `run` takes the only input, real numbers, float32, in the file's layout."""

    runtime: str
    run: Callable[[NDArray[np.float32]], Outputs]


@dataclass(frozen=True, kw_only=True)
class ForeignFile:
    """A file of unknown origin.

    Attributes:
        convolutions: in the order of the file; those whose weights are computed are left out.
        open: loads it for an input of a shape without open sides.
        metadata: text that it carries.
    """

    convolutions: tuple[Convolution, ...]
    inputs: tuple[Fed, ...]
    open: Callable[[tuple[int, ...]], Opened]
    metadata: Mapping[str, str] = field(default_factory=dict)


def to_integers(values: NDArray[np.float32], fed: Fed) -> NDArray[Any]:
    """Real numbers as an input's own type: rounded to its steps and clipped to its range where it is of integers."""
    dtype = np.dtype(fed.dtype)
    if dtype.kind not in "iu":
        return values.astype(dtype, copy=False)
    steps = np.rint(values / fed.scale) + fed.zero_point if fed.scale else np.rint(values)
    limits = np.iinfo(dtype)
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def along(values: NDArray[Any], axis: int, ndim: int) -> NDArray[Any]:
    """Scales or zero points, one or one a channel, shaped to be broadcast over a tensor of `ndim` axes."""
    shape = [1] * ndim
    if values.size > 1:
        shape[axis] = -1
    return values.reshape(shape)
