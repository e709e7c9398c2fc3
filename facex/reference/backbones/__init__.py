"""Backbones shared by the detector families, one kind a file; the file name is the registry.

A module of this package offers `BACKBONES`, the variants whose checkpoints have different keys. Each network maps
float32 [B, 3, H, W] to three feature maps with strides 8, 16 and 32, finest first, and tells their channels in
`channels`. Batch norms follow their convolutions in the same parent, so that an exporter can fold them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facex.reference.backbones.layers import FeatureMaps

ROOTS = {"classic": "body.", "fx": "fx."}
"""Name of a key layout -> where its checkpoints keep the backbone."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A kind of backbone: how it is built, and how checkpoints call its parameters.

    Attributes:
        name: of the kind; see `label` for the name of one with its width.
        build: (channels of the first convolution, negative slope) -> the network.
        stem: parameter that the channels of the first convolution are read from.
        published: (parameter, layout) -> its keys after the root of the layout, one for every way it is published.
        label: channels of the first convolution -> name of the backbone.
        own_activations: whether the architecture itself says which activations it has, whatever the slope.
    """

    name: str
    build: Callable[[int, float], FeatureMaps]
    stem: str
    published: Callable[[str, str], tuple[str, ...]]
    label: Callable[[int], str]
    own_activations: bool


def with_or_without_features(parameter: str, layout: str) -> tuple[str, ...]:
    """The keys of a parameter of a `TappedSequence`: itself, or without `features.` where only that part was kept."""
    del layout
    return parameter, parameter.removeprefix("features.")


def known() -> list[Backbone]:
    """Every backbone, by file and in the order of its file."""
    modules = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "layers")
    return [b for name in modules for b in importlib.import_module(f"{__name__}.{name}").BACKBONES]


def find(name: str) -> Backbone:
    """The backbone of a name."""
    return next(b for b in known() if b.name == name)
