"""How much the rounding of each value matters to the faces: its squared influence on the head, from one backward pass.

The expected squared change of the head by a small error at a value is the value's diagonal of J^T J, with J the
Jacobian of the weighted head; it is estimated by random signs, E[(J^T z)^2] with z = +-1 (Hutchinson's estimator).
Priors count as `heads.Level.weighted` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from facex.calibration.heads import levels

if TYPE_CHECKING:
    from facex.calibration.graph import Graph
    from facex.calibration.observers import MeanSquaredError
    from facex.calibration.simulate import Simulation

BATCH = 8


def weigh(
    graph: Graph,
    simulation: Simulation,
    observers: Mapping[str, MeanSquaredError],
    crops: Tensor,
    *,
    seed: int,
    on_crop: Callable[[], None] | None = None,
) -> None:
    """Tell observers how much errors of their tensor's values matter.

    Args:
        graph: of the float model.
        simulation: of the same.
        observers: by tensor of the trunk.
        crops: float32 [n, 3, h, w], 0-255, mostly around faces.
        seed: of the random signs.
        on_crop: called after each.
    """
    simulation.requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    found = levels(graph)
    for batch in torch.split(crops, BATCH):
        values = simulation(batch.clone().requires_grad_(), quantized=False)
        for name in observers:
            values[name].retain_grad()
        total = torch.zeros(())
        for level in found:
            for error_weight, value in level.weighted(values):
                signs = torch.randint(0, 2, value.shape, generator=random) * 2 - 1
                total = total + (value * signs * error_weight.sqrt()).sum()
        total.backward()  # type: ignore[no-untyped-call]
        for name, observer in observers.items():
            gradient = values[name].grad
            assert gradient is not None
            observer.weigh(values[name].detach(), gradient.square())
        for _ in range(len(batch) if on_crop else 0):
            on_crop()  # type: ignore[misc]
    simulation.requires_grad_(True)
