"""Activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from facex.exporters._mil.registry import operator

if TYPE_CHECKING:
    from torch import Tensor


def of_channels(values: Tensor, x: Tensor) -> Tensor:
    """One value for every channel, shaped to broadcast against [batch, channel, ...].

    Raises:
        ValueError: there are not as many values as channels.
    """
    if values.ndim != 1 or x.ndim < 2 or values.shape[0] != x.shape[1]:
        raise ValueError(f"{list(values.shape)} values do not fit the channels of {list(x.shape)}")
    return values.reshape([-1] + [1] * (x.ndim - 2))


@operator
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


@operator
def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return torch.clamp(x, 0, 6)


@operator
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """Where x >= 0 it is x, elsewhere alpha * x."""
    return torch.where(x >= 0, x, alpha * x)


@operator
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """Where x > 0 it is x, elsewhere alpha * x, with an alpha for every channel; channels are dimension 1."""
    return torch.where(x > 0, x, of_channels(alpha, x) * x)


@operator
def elu(x: Tensor, alpha: float) -> Tensor:
    """Where x > 0 it is x, elsewhere alpha * (e^x - 1)."""
    return torch.where(x > 0, x, alpha * torch.expm1(x))


@operator
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """The product of x and the probability that a normally distributed number is below it.

    EXACT: that is (1 + erf(x / sqrt(2))) / 2; TANH_APPROXIMATION: (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2;
    SIGMOID_APPROXIMATION: sigmoid(1.702 x).
    """
    # (1 + erf(a)) / 2 = erfc(-a) / 2 and (1 + tanh(a)) / 2 = sigmoid(2a), which do not cancel out where a << 0
    if mode == "EXACT":
        probability: Tensor = torch.special.erfc(-x / math.sqrt(2)) / 2
        return x * probability
    if mode == "TANH_APPROXIMATION":
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"mode '{mode}' is not known, only EXACT, TANH_APPROXIMATION and SIGMOID_APPROXIMATION")


@operator
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(beta, x) where x >= 0, elsewhere min(beta, alpha * x)."""
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


@operator
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """The line alpha * x + beta."""
    return alpha * x + beta


@operator
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """The product alpha * tanh(beta * x)."""
    return alpha * torch.tanh(beta * x)


@operator
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return torch.sigmoid(x)


@operator
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(max(alpha * x + beta, 0), 1)."""
    return torch.clamp(alpha * x + beta, 0, 1)


@operator
def silu(x: Tensor) -> Tensor:
    """The product x * sigmoid(x)."""
    return x * torch.sigmoid(x)


@operator
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), which is max(x, 0) + log(1 + e^-|x|) and so does not overflow."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


@operator
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The product alpha * log(1 + e^(beta * x)), with both for every channel; channels are dimension 1."""
    result: Tensor = of_channels(alpha, x) * softplus(of_channels(beta, x) * x)
    return result


@operator
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """e^x / the sum of e^x along the axis."""
    return torch.softmax(x, axis)


@operator
def softsign(x: Tensor) -> Tensor:
    """The quotient x / (1 + |x|)."""
    return x / (1 + x.abs())


@operator
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """Where x >= alpha it is x, elsewhere 0; not-a-number stays."""
    return torch.where(x < alpha, 0.0, x)
