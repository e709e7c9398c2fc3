"""Detector families, one a file; the file name is the registry.

A family module offers:

    NAME: str                                   the file's name
    ASSUMED: dict[str, Any]                     what a checkpoint cannot prove of its contract, as usually trained
    def recognise(state) -> Structure | Mismatch    from keys and shapes alone
    def build(structure, state, contract) -> nn.Module  a float32 network in eval mode

The network maps float32 [B, 3, H, W] (mean subtracted, scaled, in the contract's channel order) to one `LevelOutput`
per pyramid level. It knows no exporter.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class LevelOutput(NamedTuple):
    """Raw maps of one pyramid level, A priors a cell; channels are prior-major.

    conf: float32 [B, A*2, H, W], logits (background, face). loc: float32 [B, A*4, H, W].
    landm: float32 [B, A*2K, H, W].
    """

    conf: Tensor
    loc: Tensor
    landm: Tensor


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What keys and shapes prove about a checkpoint.

    Attributes:
        family: name of the family module.
        backbone: name of the backbone.
        layout: name of the key layout.
        strides: pyramid strides, input pixels per cell.
        anchors_per_cell: priors per cell, by level.
        landmarks: landmark points per face.
        renamed: canonical parameter name -> key in the state dict.
        channels: what the family needs to build the network; opaque elsewhere.
    """

    family: str
    backbone: str
    layout: str
    strides: tuple[int, ...]
    anchors_per_cell: tuple[int, ...]
    landmarks: int
    renamed: Mapping[str, str]
    channels: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Why a checkpoint is not of a family.

    Attributes:
        layout: the closest key layout of that family.
        common: how many keys agree.
        missing: keys of the layout that the checkpoint lacks.
        unexpected: keys of the checkpoint that the layout lacks.
        shapes: keys whose shapes contradict the rest, with both shapes.
    """

    family: str
    layout: str
    common: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...] = ()


def names() -> list[str]:
    """Names of the families, alphabetical."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of a family."""
    return importlib.import_module(f"{__name__}.{name}")
