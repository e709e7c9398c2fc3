"""Detector families, one a file; the file name is the registry.

A family module offers:

    NAME: str                                   the file's name
    ASSUMED: dict[str, Any]                     what a checkpoint cannot prove of its contract, as usually trained
    SIZE_STEP: int                              sides of the input are multiples of it, in pixels
    def recognise(state) -> Structure | Mismatch    from keys and shapes alone
    def build(structure, state, contract) -> nn.Module  a float32 network in eval mode

The network maps float32 [B, 3, H, W] (mean subtracted, scaled, in the contract's channel order) to one `LevelOutput`
per pyramid level. It knows no exporter.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn


class LevelOutput(NamedTuple):
    """Raw maps of one pyramid level, A priors a cell; channels are prior-major.

    conf: float32 [B, A*2, H, W], logits (background, face). loc: float32 [B, A*4, H, W].
    landm: float32 [B, A*2K, H, W]. mesh: float32 [B, A*M, H, W], of networks with a dense regression.
    """

    conf: Tensor
    loc: Tensor
    landm: Tensor
    mesh: Tensor | None = None


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
        mesh: values a prior of the dense regression; 0 where there is none.
        renamed: canonical parameter name -> key in the state dict.
        channels: what the family needs to build the network; opaque elsewhere.
        proved: fields of the contract that follow from the architecture, where another checkpoint of the family
            leaves them open.
        pyramid_slope: activation slope of the backbone -> that of pyramid and context modules, as usually trained;
            None where there are none.
    """

    family: str
    backbone: str
    layout: str
    strides: tuple[int, ...]
    anchors_per_cell: tuple[int, ...]
    landmarks: int
    renamed: Mapping[str, str]
    channels: Mapping[str, Any]
    mesh: int = 0
    proved: Mapping[str, Any] = field(default_factory=dict)
    pyramid_slope: Callable[[float], float] | None = None


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

    @property
    def closeness(self) -> tuple[int, int]:
        """The more keys agree, then the fewer are missing, the closer."""
        return self.common, -len(self.missing)


def names() -> list[str]:
    """Names of the families, alphabetical."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of a family."""
    return importlib.import_module(f"{__name__}.{name}")


def optional(key: str) -> bool:
    """Batch norm's step counter is missing from old checkpoints and plays no part in inference."""
    return key.endswith("num_batches_tracked")


def match_keys(
    family: str, layouts: Iterable[tuple[str, Mapping[str, str]]], state: Mapping[str, Tensor]
) -> tuple[str, dict[str, str]] | Mismatch:
    """The layout whose keys are those of a state dict.

    Args:
        family: name of the family.
        layouts: name of each layout, and canonical parameter name -> key in it.
        state: a flat state dict without prefixes.

    Returns:
        The layout with its names, without those that the state dict may lack and does; or how the closest one differs.
    """
    present = {key for key in state if not optional(key)}
    best: Mismatch | None = None
    for layout, renamed in layouts:
        wanted = {key for key in renamed.values() if not optional(key)}
        if wanted == present:
            return layout, {name: key for name, key in renamed.items() if key in state}
        mismatch = Mismatch(
            family=family,
            layout=layout,
            common=len(wanted & present),
            missing=tuple(sorted(wanted - present)),
            unexpected=tuple(sorted(present - wanted)),
        )
        if best is None or mismatch.closeness > best.closeness:
            best = mismatch
    assert best is not None
    return best


def wrong_shapes(
    expected: Mapping[str, Tensor], renamed: Mapping[str, str], state: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Keys whose shapes are not those of a network built to the rest of them, with both shapes."""
    return tuple(
        f"{renamed[name]} is {list(state[renamed[name]].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if not optional(name) and state[renamed[name]].shape != tensor.shape
    )


def first_side(state: Mapping[str, Tensor], key: str) -> int:
    """Length of a tensor's first axis; 1 where it has none, or an empty one."""
    shape = tuple(state[key].shape)
    return max(1, shape[0]) if shape else 1


def with_weights(network: nn.Module, structure: Structure, state: Mapping[str, Tensor]) -> nn.Module:
    """The network in eval mode, float32, with the checkpoint's weights in it."""
    import torch

    weights = {name: state[key].to(torch.float32) for name, key in structure.renamed.items() if not optional(name)}
    result = network.load_state_dict(weights, strict=False)
    assert all(map(optional, result.missing_keys)), result.missing_keys
    return network.eval().requires_grad_(False)
