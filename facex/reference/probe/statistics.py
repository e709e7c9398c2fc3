"""How far the stored statistics of the batch norms are from those that photographs have under a contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from facex.reference.families import LevelOutput
from facex.reference.probe.subject import Subject, hooked

if TYPE_CHECKING:
    from facex.types import FloatArray

BATCH = 8
_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one run over all photographs gave.

    Attributes:
        divergence: of every batch norm in the order of `Subject.norms`; nan where it was not run.
        levels: raw maps, the photographs along the first axis.
    """

    divergence: tuple[float, ...]
    levels: tuple[LevelOutput, ...]

    def mean_divergence(self, norms: Sequence[int]) -> float:
        """Mean over some of the batch norms, nats."""
        return sum(self.divergence[i] for i in norms) / len(norms)


class _Moments:
    """Sums over all pixels of all photographs, a channel at a time."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor = torch.zeros(())
        self.squares: Tensor = torch.zeros(())

    def __call__(self, module: nn.Module, taken: tuple[Tensor, ...]) -> None:
        x = taken[0]
        pixels = x.numel() // x.shape[1]
        self.count += pixels
        self.sums = self.sums + x.mean((0, 2, 3)).double() * pixels
        self.squares = self.squares + (x * x).mean((0, 2, 3)).double() * pixels

    def divergence(self, norm: nn.BatchNorm2d) -> float:
        """Of the Gaussian with the photographs' moments from the one with the stored ones, mean over channels, nats."""
        if self.count == 0 or norm.running_mean is None or norm.running_var is None:
            return float("nan")
        mean = self.sums / self.count
        variance = (self.squares / self.count - mean**2).clamp_min(0) + _EPS
        stored = norm.running_var.double() + _EPS
        ratio = variance / stored
        shift = (mean - norm.running_mean.double()) ** 2 / stored
        return float((0.5 * (ratio + shift - 1 - torch.log(ratio))).mean())


def run(subject: Subject, images: FloatArray) -> Pass:
    """Run the network with the slopes that it has.

    Args:
        subject: the network.
        images: float32 [B, 3, H, W], as the network wants them.
    """
    moments = {norm: _Moments() for norm in subject.norms}
    outputs: list[list[LevelOutput]] = []
    with hooked(moments, before=True), torch.inference_mode():
        for start in range(0, len(images), BATCH):
            outputs.append(subject.network(torch.from_numpy(images[start : start + BATCH])))
    levels = tuple(
        LevelOutput(*(torch.cat(maps) for maps in zip(*level, strict=True))) for level in zip(*outputs, strict=True)
    )
    return Pass(divergence=tuple(moments[norm].divergence(norm) for norm in subject.norms), levels=levels)
