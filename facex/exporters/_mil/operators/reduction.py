"""Operators that make one element of many: sums, extremes and norms over some dimensions; running sums.

Without axes, all dimensions are reduced; with an empty list of them, none, so that every element is reduced alone.
Integers give integers: sums wrap around at 32 bits, and a fraction is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from facex.exporters._mil.operators.elementwise import truncated, wrapped
from facex.exporters._mil.registry import Ints, operator

if TYPE_CHECKING:
    from torch import Tensor

PLACES = {"int32": 2**31, "uint16": 2**16}
"""How many places an index can tell apart, by type."""


def reduced(x: Tensor, axes: Ints | None, keep_dims: bool, over_last: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce some dimensions at once: they are made one, the last, which the given function takes away.

    Args:
        x: any shape.
        axes: of the dimensions to reduce, negative ones from the end; None is all.
        keep_dims: whether the reduced dimensions stay, with one place each.
        over_last: from [..., n] to [...].

    Raises:
        ValueError: an axis is out of range or named twice.
    """
    gone = list(range(x.ndim)) if axes is None else [axis + x.ndim if axis < 0 else axis for axis in axes]
    if len(set(gone)) != len(gone) or not all(0 <= axis < x.ndim for axis in gone):
        raise ValueError(f"axes {list(axes or ())} do not fit {list(x.shape)}")
    kept = [i for i in range(x.ndim) if i not in gone]
    count = math.prod(x.shape[i] for i in gone)
    result = over_last(x.permute([*kept, *gone]).reshape([*(x.shape[i] for i in kept), count]))
    return result.reshape([1 if i in gone else n for i, n in enumerate(x.shape)]) if keep_dims else result


def real(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of real numbers, made one of integers too: computed in double precision, then cut off."""

    def either(x: Tensor) -> Tensor:
        return function(x) if x.is_floating_point() else truncated(function(x.double()))

    return either


def total(x: Tensor) -> Tensor:
    """The sum along the last dimension."""
    return x.sum(-1) if x.is_floating_point() else wrapped(x.sum(-1, dtype=torch.int64))


def mean(x: Tensor) -> Tensor:
    """The mean along the last dimension."""
    if x.is_floating_point():
        return x.mean(-1)
    return torch.div(x.sum(-1, dtype=torch.int64), x.shape[-1], rounding_mode="trunc").to(torch.int32)


def place(x: Tensor, keep_dims: bool, output_dtype: str, axis: int, function: Callable[..., Tensor]) -> Tensor:
    """Where the function finds an extreme along the axis, as an index.

    Raises:
        ValueError: the type is not one of an index, or too small for the axis.
    """
    kind = output_dtype.lower()
    if kind not in PLACES:
        raise ValueError(f"output_dtype '{output_dtype}' is not known, only {', '.join(PLACES)}")
    if x.shape[axis] > PLACES[kind]:
        raise ValueError(f"{kind} does not count to {x.shape[axis]}")
    return function(x, dim=axis, keepdim=keep_dims).to(torch.int32)


@operator
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """The index of the greatest element along the axis, the first one of equals."""
    return place(x, keep_dims, output_dtype, axis, torch.argmax)


@operator
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """The index of the least element along the axis, the first one of equals."""
    return place(x, keep_dims, output_dtype, axis, torch.argmin)


@operator
def reduce_l1_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The sum of |x|."""
    return reduced(x.abs(), axes, keep_dims, total)


@operator
def reduce_l2_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The square root of the sum of x^2."""
    return reduced(x, axes, keep_dims, real(lambda v: (v * v).sum(-1).sqrt()))


@operator
def reduce_log_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The natural logarithm of the sum of x."""
    return reduced(x, axes, keep_dims, real(lambda v: v.sum(-1).log()))


@operator
def reduce_log_sum_exp(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The natural logarithm of the sum of e^x, without overflow: the greatest x is taken out of the sum first."""
    return reduced(x, axes, keep_dims, real(lambda v: v.logsumexp(-1)))


@operator
def reduce_max(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The greatest x; not-a-number if there is one."""
    return reduced(x, axes, keep_dims, lambda v: v.amax(-1))


@operator
def reduce_mean(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The sum of x, divided by how many there are; of integers towards zero."""
    return reduced(x, axes, keep_dims, mean)


@operator
def reduce_min(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The least x; not-a-number if there is one."""
    return reduced(x, axes, keep_dims, lambda v: v.amin(-1))


@operator
def reduce_prod(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The product of x."""
    return reduced(x, axes, keep_dims, lambda v: v.prod(-1, dtype=v.dtype))


@operator
def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The sum of x."""
    return reduced(x, axes, keep_dims, total)


@operator
def reduce_sum_square(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The sum of x^2."""
    return reduced(x * x, axes, keep_dims, total)


@operator
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """At every place the sum of what comes before it along the axis and, unless exclusive, of the place itself.

    In reverse, of what comes after it.
    """
    x = x.flip(axis) if reverse else x
    sums = x.cumsum(axis, dtype=x.dtype)
    if exclusive:
        first = torch.zeros_like(sums.narrow(axis, 0, 1))
        sums = torch.cat([first, sums.narrow(axis, 0, x.shape[axis] - 1)], dim=axis)
    return sums.flip(axis) if reverse else sums
