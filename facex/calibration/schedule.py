"""How long and how fast a reconstruction learns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to learn. Rates are per step of Adam, at the top of a cosine that ends at zero.

    Attributes:
        steps: of Adam.
        batch: crops a step.
        side: of a crop, in pixels.
        pool: crops drawn once and learned from again and again.
        near_faces: share of the crops that are drawn around a face.
        halved: share of the crops that are drawn twice as large and halved.
        weight_rate: in steps of the weight's grid.
        bias_rate: relative to the mean magnitude of the bias.
        factor_rate: in natural logarithms of an equalization factor.
        scale_rate: in natural logarithms of an activation's step.
        zero_rate: in steps of the activation's grid.
    """

    steps: int = 500
    batch: int = 16
    side: int = 192
    pool: int = 1536
    near_faces: float = 0.7
    halved: float = 0.25
    weight_rate: float = 0.015
    bias_rate: float = 6e-4
    factor_rate: float = 6e-3
    scale_rate: float = 2e-3
    zero_rate: float = 0.12
