"""Bias correction: take away the mean error that rounding and clipping leave in every channel.

Nagel et al. 2019 (arXiv 1906.04721, section 4.2), measured on crops rather than derived. Before: y' = y + e with
E[e] != 0. After: the bias of the convolution is smaller by E[e], layer by layer, each seeing the corrected ones before
it. In the head, the mean is taken over the priors that see faces, weighted as `heads.Level.weighted` says: the
backgrounds that fill the crops must not decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from facex.calibration.heads import Level
    from facex.calibration.simulate import Simulation


@torch.no_grad()
def correct_biases(
    simulation: Simulation, levels: list[Level], crops: Tensor, prepare: Callable[[Any, Tensor], None] | None = None
) -> None:
    """Correct the biases of a simulation in place.

    Args:
        simulation: of a quantized trunk.
        levels: its head.
        crops: float32 [n, 3, h, w], 0-255, most of them around faces.
        prepare: see `Simulation.forward`; what it changes does not change what is expected.
    """
    heads = {name for level in levels for name in level.tensors}
    means: dict[str, Tensor] = {}  # in place of the tensors, which would fill the memory

    def noted(name: str, result: Tensor) -> Tensor:
        means[name] = _mean(result)
        return result

    expected = simulation(crops, quantized=False, adjust=noted, keep=heads)
    weights = {name: weight for level in levels for name, weight in _head_weights(level, expected).items()}

    def corrected(name: str, result: Tensor) -> Tensor:
        if name in weights:
            mean = _mean((result - expected[name]) * weights[name]) / _mean(weights[name])
        else:
            mean = _mean(result) - means[name]
        simulation.shift_bias(name, -mean)
        unbiased: Tensor = result - mean.float()[None, :, None, None]
        return unbiased

    simulation(crops, adjust=corrected, prepare=prepare, keep=heads)


def _mean(value: Tensor) -> Tensor:
    """Of every channel, float64 [C]."""
    return value.mean(dim=(0, 2, 3), dtype=torch.float64)


def _head_weights(level: Level, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How much each value of the head's tensors counts, in their shape."""
    found = {}
    for name, (weight, _) in zip(level.tensors, level.weighted(expected), strict=True):
        by_value = weight.unsqueeze(2) if name == level.margin else weight  # one margin of two logits
        found[name] = by_value.expand(level.by_prior(expected[name]).shape).reshape(expected[name].shape)
    return found
