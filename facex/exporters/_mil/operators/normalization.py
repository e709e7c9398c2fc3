"""Normalizations: statistics in float32 by torch's own kernels, whose variance is that of the centered values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from facex.exporters._mil.registry import Ints, operator

if TYPE_CHECKING:
    from torch import Tensor


def standardized(x: Tensor, axes: Ints, epsilon: float) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over the axes; the variance is the mean of squares, not corrected."""
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + epsilon)


def along(values: Tensor, x: Tensor, axes: Ints) -> Tensor:
    """Values that run along some axes of x, in x's order, with an extent of 1 for its other axes.

    Raises:
        ValueError: their shape is not that of x at the axes.
    """
    wanted = [x.shape[i] for i in sorted(axes)]
    if list(values.shape) != wanted:
        raise ValueError(f"parameters of shape {wanted} are needed, not {list(values.shape)}")
    return values.reshape([x.shape[i] if i in axes else 1 for i in range(x.ndim)])


def scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, axes: Ints) -> Tensor:
    """Scale by gamma and shift by beta, which run along some axes; None does nothing."""
    x = x if gamma is None else x * along(gamma, x, axes)
    return x if beta is None else x + along(beta, x, axes)


@operator
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, all given for each channel, which is axis 1."""
    centered = x - along(mean, x, (1,))
    return scaled(centered / torch.sqrt(along(variance, x, (1,)) + epsilon), gamma, beta, (1,))


@operator
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta; mean and variance of each channel of each image.

    Channels are axis 1, for which gamma and beta are given; the axes from 2 on are normalized.
    """
    if x.ndim < 3:
        raise ValueError(f"an input of rank 3 or more is needed, not {x.ndim}")
    return scaled(standardized(x, tuple(range(2, x.ndim)), epsilon), gamma, beta, (1,))


@operator
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Divide x by sqrt(sum of x^2 + epsilon), the sum over the last three dimensions together."""
    if x.ndim < 3:
        raise ValueError(f"an input of rank 3 or more is needed, not {x.ndim}")
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@operator
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, mean and variance over the axes together (None: over all).

    Gamma and beta have x's shape at the axes, taken in x's order whatever the order of `axes`.
    """
    given = range(x.ndim) if axes is None else axes
    if not given or any(not -x.ndim <= axis < x.ndim for axis in given):
        raise ValueError(f"axes {tuple(given)} for an input of rank {x.ndim}")
    places = tuple(axis % x.ndim for axis in given)
    return scaled(standardized(x, places, epsilon), gamma, beta, places)


@operator
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Divide x by (k + alpha / size * sum of x^2)^beta, the sum over `size` channels about it, fewer at the ends.

    They are the size // 2 before, itself, and what is left of `size` after it.
    """
    if x.ndim < 3 or size < 1:
        raise ValueError(f"rank {x.ndim} and size {size}: 3 and 1 are the least")
    # axis -3 as in NeuralNetwork.proto, also for rank 3, where the documentation has the channels in axis 1: on Core ML
    # coremltools' own test of this operator gives each element of a [1, 3, 2] no neighbour
    squares = functional.pad(x.square().movedim(-3, -1), (size // 2, (size - 1) // 2))
    summed = squares.unfold(-1, size, 1).sum(-1).movedim(-1, -3)
    return x / (k + alpha / size * summed) ** beta
