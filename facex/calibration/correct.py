"""Bias correction: take away the mean error that rounding and clipping leave in every channel.

Nagel et al. 2019 (arXiv 1906.04721, section 4.2), measured on crops rather than derived. Before: y' = y + e with
E[e] != 0. After: the bias of the convolution is smaller by E[e], layer by layer, each seeing the corrected ones before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from facex.calibration.simulate import Simulation


@torch.no_grad()
def correct_biases(simulation: Simulation, crops: Tensor, keep: frozenset[str]) -> None:
    """Correct the biases of a simulation in place.

    Args:
        simulation: of a quantized trunk.
        crops: float32 [n, 3, h, w], 0-255.
        keep: outputs of convolutions that are left as they are.
    """
    expected = simulation(crops, quantized=False)

    def corrected(name: str, result: Tensor) -> Tensor:
        if name in keep:
            return result
        error: Tensor = (result - expected[name]).mean(dim=(0, 2, 3))
        simulation.shift_bias(name, -error)
        return result - error[None, :, None, None]

    simulation(crops, adjust=corrected)
