"""RetinaFace with three pyramid levels: backbone, feature pyramid, context modules, three heads a level.

Deng et al., RetinaFace: Single-shot Multi-level Face Localisation in the Wild, CVPR 2020, section 3; the context
modules are those of SSH (Najibi et al. 2017). Written for the layers of the published checkpoints; their two key
layouts are tables here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facex.reference import backbones, families
from facex.reference.backbones import Backbone
from facex.reference.backbones.layers import ConvUnit, FeatureMaps
from facex.reference.families import LevelOutput, Mismatch, Structure
from facex.types import ChannelOrder, Contract

NAME = "retinaface"
STRIDES = (8, 16, 32)
SIZE_STEP = 8
"""The finest level divides the input; coarser ones are rounded up, and enlarged to the finer one's size."""
WIDEST_LEAKY = 64
"""Channels of the pyramid up to which it was usually trained with LeakyReLU."""
ASSUMED: dict[str, Any] = {
    "activation_slope": 0.1,
    "min_sizes": ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)),
    "variances": (0.1, 0.2),
    "channel_order": ChannelOrder.BGR,
    "mean": (104.0, 117.0, 123.0),
    "scale": (1.0, 1.0, 1.0),
}
"""What most published checkpoints of this family were trained with."""


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, top-down nearest upsampling and a 3x3 merge on the two finer levels."""

    def __init__(self, c_in: list[int], c_out: int, slope: float) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvUnit(c, c_out, 1, slope=slope) for c in c_in)
        self.merges = nn.ModuleList(ConvUnit(c_out, c_out, 3, slope=slope) for _ in c_in[:-1])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps float32 [B, C_i, H_i, W_i], finest first -> the same with C_out channels."""
        out = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(out) - 2, -1, -1):
            # not by 2: of an odd number of rows or columns, the coarser level has half of one more
            enlarged = functional.interpolate(out[i + 1], size=out[i].shape[2:], mode="nearest")
            out[i] = self.merges[i](out[i] + enlarged)
        return out


class ContextModule(nn.Module):
    """Receptive fields of 3x3, 5x5 and 7x7 from stacked 3x3 convolutions, concatenated, then ReLU.

    The final ReLU is a true ReLU whatever the slope elsewhere: that is what the published networks do.
    """

    def __init__(self, c_in: int, c_out: int, slope: float) -> None:
        super().__init__()
        half, quarter = c_out // 2, c_out // 4
        self.conv3 = ConvUnit(c_in, half, 3, slope=None)
        self.shared = ConvUnit(c_in, quarter, 3, slope=slope)
        self.conv5 = ConvUnit(quarter, quarter, 3, slope=None)
        self.middle7 = ConvUnit(quarter, quarter, 3, slope=slope)
        self.conv7 = ConvUnit(quarter, quarter, 3, slope=None)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C, H, W] -> float32 [B, C_out, H, W]."""
        shared = self.shared(x)
        branches = [self.conv3(x), self.conv5(shared), self.conv7(self.middle7(shared))]
        return functional.relu(torch.cat(branches, dim=1))


class RetinaFace(nn.Module):
    """The detector; see the module's docstring."""

    def __init__(
        self, backbone: FeatureMaps, width: int, anchors_per_cell: tuple[int, ...], landmarks: int, slope: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = FeaturePyramid(backbone.channels, width, slope)
        self.contexts = nn.ModuleList(ContextModule(width, width, slope) for _ in anchors_per_cell)
        self.class_heads = nn.ModuleList(nn.Conv2d(width, a * 2, 1) for a in anchors_per_cell)
        self.box_heads = nn.ModuleList(nn.Conv2d(width, a * 4, 1) for a in anchors_per_cell)
        self.landmark_heads = nn.ModuleList(nn.Conv2d(width, a * 2 * landmarks, 1) for a in anchors_per_cell)

    def forward(self, x: Tensor) -> list[LevelOutput]:
        """float32 [B, 3, H, W], H and W multiples of 8 -> raw maps, finest level first."""
        out = []
        for i, pyramid_map in enumerate(self.pyramid(self.backbone(x))):
            feature = self.contexts[i](pyramid_map)
            out.append(
                LevelOutput(
                    conf=self.class_heads[i](feature),
                    loc=self.box_heads[i](feature),
                    landm=self.landmark_heads[i](feature),
                )
            )
        return out


_COMMON = (
    (r"pyramid\.laterals\.(\d)\.", lambda m: f"fpn.output{int(m[1]) + 1}."),
    (r"pyramid\.merges\.(\d)\.", lambda m: f"fpn.merge{int(m[1]) + 1}."),
    (r"contexts\.(\d)\.conv3\.", lambda m: f"ssh{int(m[1]) + 1}.conv3X3."),
    (r"contexts\.(\d)\.shared\.", lambda m: f"ssh{int(m[1]) + 1}.conv5X5_1."),
    (r"contexts\.(\d)\.conv5\.", lambda m: f"ssh{int(m[1]) + 1}.conv5X5_2."),
    (r"contexts\.(\d)\.middle7\.", lambda m: f"ssh{int(m[1]) + 1}.conv7X7_2."),
    (r"contexts\.(\d)\.conv7\.", lambda m: f"ssh{int(m[1]) + 1}.conv7x7_3."),
    (r"\.conv\.(weight)$", lambda m: f".0.{m[1]}"),
    (r"\.bn\.(\w+)$", lambda m: f".1.{m[1]}"),
)
LAYOUTS = {
    "classic": (
        (r"class_heads\.(\d)\.", lambda m: f"ClassHead.{m[1]}.conv1x1."),
        (r"box_heads\.(\d)\.", lambda m: f"BboxHead.{m[1]}.conv1x1."),
        (r"landmark_heads\.(\d)\.", lambda m: f"LandmarkHead.{m[1]}.conv1x1."),
        *_COMMON,
    ),
    "fx": (
        (r"class_heads\.(\d)\.", lambda m: f"class_head.class_head.{m[1]}."),
        (r"box_heads\.(\d)\.", lambda m: f"bbox_head.bbox_head.{m[1]}."),
        (r"landmark_heads\.(\d)\.", lambda m: f"landmark_head.landmark_head.{m[1]}."),
        *_COMMON,
    ),
}
"""Key layout -> ordered (pattern of this file's names, published name) of everything after the backbone."""
BACKBONE = "backbone."


def published_keys(parameter: str, layout: str, backbone: Backbone) -> tuple[str, ...]:
    """The keys that `layout` gives to a parameter of `RetinaFace`, one for every way its backbone is published."""
    if parameter.startswith(BACKBONE):
        inner = backbone.published(parameter.removeprefix(BACKBONE), layout)
        return tuple(backbones.ROOTS[layout] + key for key in inner)
    key = parameter
    for pattern, replacement in LAYOUTS[layout]:
        key = re.sub(pattern, replacement, key)
    return (key,)


def skeleton(
    backbone: Backbone, stem: int, width: int, anchors: tuple[int, ...], landmarks: int,
    slope: float, pyramid_slope: float,
) -> RetinaFace:  # fmt: skip
    """A RetinaFace without weights.

    Args:
        backbone: kind of the backbone.
        stem: channels of its first convolution.
        width: channels of the pyramid.
        anchors: priors a cell, by level.
        landmarks: points per face.
        slope: negative slope of the backbone's activations, unless it has its own.
        pyramid_slope: that of the activations of pyramid and context modules.
    """
    return RetinaFace(backbone.build(stem, slope), width, anchors, landmarks, pyramid_slope)


@functools.cache
def _layouts() -> tuple[tuple[str, Backbone, dict[str, str]], ...]:
    """Every layout of every backbone: its name, and parameter -> key."""
    found = []
    for backbone in backbones.known():
        with torch.device("meta"):
            parameters = list(skeleton(backbone, 8, 64, (2, 2, 2), 5, 0.0, 0.0).state_dict())
        for layout in LAYOUTS:
            keys = [published_keys(parameter, layout, backbone) for parameter in parameters]
            for way in range(max(map(len, keys))):
                renamed = {p: k[min(way, len(k) - 1)] for p, k in zip(parameters, keys, strict=True)}
                found.append((layout, backbone, renamed))
    return tuple(found)


def recognise(state: Mapping[str, Tensor]) -> Structure | Mismatch:
    """Read the structure from keys and shapes.

    Args:
        state: a flat state dict without `module.` prefixes.

    Returns:
        The structure, or why `state` is not a RetinaFace with a backbone that facex knows.
    """
    layouts = [(f"{backbone.name} {layout}", renamed) for layout, backbone, renamed in _layouts()]
    found = families.match_keys(NAME, layouts, state)
    if isinstance(found, Mismatch):
        return found
    name, _, layout = found[0].rpartition(" ")
    return _structure(state, layout, backbones.find(name), found[1])


def _structure(
    state: Mapping[str, Tensor], layout: str, backbone: Backbone, renamed: Mapping[str, str]
) -> Structure | Mismatch:
    def first(name: str) -> int:
        return families.first_side(state, renamed[name])

    stem, width = first(BACKBONE + backbone.stem), first("pyramid.laterals.0.conv.weight")
    anchors = tuple(max(1, first(f"box_heads.{i}.weight") // 4) for i in range(len(STRIDES)))
    landmarks = max(1, first("landmark_heads.0.weight") // (2 * anchors[0]))
    with torch.device("meta"):
        expected = skeleton(backbone, stem, max(width, 4), anchors, landmarks, 0.0, 0.0).state_dict()
    wrong = families.wrong_shapes(expected, renamed, state)
    if wrong:
        return Mismatch(
            family=NAME, layout=f"{backbone.name} {layout}", common=len(renamed), missing=(), unexpected=(),
            shapes=wrong,
        )  # fmt: skip
    return Structure(
        family=NAME,
        backbone=backbone.label(stem),
        layout=layout,
        strides=STRIDES,
        anchors_per_cell=anchors,
        landmarks=landmarks,
        renamed=renamed,
        channels={"backbone": backbone.name, "stem": stem, "width": width},
        proved={"activation_slope": 0.0} if backbone.own_activations else {},
        pyramid_slope=functools.partial(usual_pyramid_slope, width, own_activations=backbone.own_activations),
    )


def usual_pyramid_slope(width: int, slope: float, *, own_activations: bool) -> float:
    """Negative slope of pyramid and context modules, as the published training code sets it.

    It is that of a MobileNetV1 or else 0.1 up to 64 channels, and 0 beyond
    (https://github.com/biubug6/Pytorch_Retinaface, `models/net.py`).
    """
    if width > WIDEST_LEAKY:
        return 0.0
    return ASSUMED["activation_slope"] if own_activations else slope


def build(structure: Structure, state: Mapping[str, Tensor], contract: Contract) -> nn.Module:
    """The float32 network in eval mode, with the checkpoint's weights and the contract's activations."""
    assert contract.pyramid_slope is not None
    network = skeleton(
        backbones.find(structure.channels["backbone"]),
        structure.channels["stem"],
        structure.channels["width"],
        structure.anchors_per_cell,
        structure.landmarks,
        contract.activation_slope,
        contract.pyramid_slope,
    )
    return families.with_weights(network, structure, state)
