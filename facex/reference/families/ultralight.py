"""The ultra-light detectors "slim" and "RFB" with landmarks: separable convolutions and four levels with own heads.

The networks of https://github.com/biubug6/Face-Detector-1MB-with-landmark, after those of
https://github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB; the receptive field block is that of Liu et al.
2018, Receptive Field Block Net. Modules are named as in the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from facex.reference import families
from facex.reference.backbones.layers import ConvUnit, activation, conv_bn
from facex.reference.families import LevelOutput, Mismatch, Structure
from facex.types import ChannelOrder, Contract

NAME = "ultralight"
STRIDES = (8, 16, 32, 64)
SIZE_STEP = 8
"""Nothing is upsampled, so only the finest level must divide the input; coarser ones are rounded up."""
ASSUMED: dict[str, Any] = {
    "activation_slope": 0.0,
    "min_sizes": ((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0)),
    "variances": (0.1, 0.2),
    "channel_order": ChannelOrder.BGR,
    "mean": (104.0, 117.0, 123.0),
    "scale": (1.0, 1.0, 1.0),
}
"""What the published checkpoints were trained with."""
STEM = 16
"""Channels of the first convolution of the published networks."""
BLOCKS = (
    (2, 1), (2, 2), (2, 1), (4, 2), (4, 1), (4, 1), (4, 1), (8, 2), (8, 1), (8, 1), (16, 2), (16, 1),
)  # fmt: skip
"""(output channels over those of the first convolution, stride) of `conv2` to `conv13`."""
RECEPTIVE_FIELD = 8
"""Number of the block that is a receptive field block in RFB."""
TAPS = (8, 11, 13, 14)
"""Numbers of the blocks whose results are the feature maps."""
VARIANTS = ("rfb", "slim")


class ReceptiveField(nn.Module):
    """Three branches of 3x3 convolutions with dilations 2, 3 and 5, merged and added to a 1x1 shortcut."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        inner = channels // 8
        wide, middle = 2 * inner, inner // 2 * 3

        def last(dilation: int) -> ConvUnit:
            return ConvUnit(wide, wide, 3, dilation=dilation, slope=None)

        self.branch0 = nn.Sequential(
            ConvUnit(channels, inner, 1, slope=None), ConvUnit(inner, wide, 3, slope=slope), last(2)
        )
        self.branch1 = nn.Sequential(
            ConvUnit(channels, inner, 1, slope=None), ConvUnit(inner, wide, 3, slope=slope), last(3)
        )
        self.branch2 = nn.Sequential(
            ConvUnit(channels, inner, 1, slope=None),
            ConvUnit(inner, middle, 3, slope=slope),
            ConvUnit(middle, wide, 3, slope=slope),
            last(5),
        )
        self.ConvLinear = ConvUnit(3 * wide, channels, 1, slope=None)
        self.shortcut = ConvUnit(channels, channels, 1, slope=None)
        self.act = activation(slope)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C, H, W] -> the same shape."""
        merged = self.ConvLinear(torch.cat([self.branch0(x), self.branch1(x), self.branch2(x)], dim=1))
        out: Tensor = self.act(merged + self.shortcut(x))
        return out


def _separable(c_in: int, c_out: int, stride: int, slope: float) -> nn.Module:
    depthwise, pointwise = conv_bn(c_in, c_in, 3, stride, groups=c_in), conv_bn(c_in, c_out, 1)
    return nn.Sequential(*depthwise, activation(slope), *pointwise, activation(slope))


def _separable_with_bias(c_in: int, c_out: int, stride: int, slope: float) -> nn.Module:
    depthwise = nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in)
    return nn.Sequential(depthwise, activation(slope), nn.Conv2d(c_in, c_out, 1))


class UltraLight(nn.Module):
    """The detector.

    Args:
        variant: one of `VARIANTS`.
        stem: channels of the first convolution.
        anchors: priors a cell, by level.
        landmarks: points per face.
        slope: negative slope of every activation.
    """

    def __init__(self, variant: str, stem: int, anchors: tuple[int, ...], landmarks: int, slope: float) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*conv_bn(3, stem, 3, 2), activation(slope))
        c_in, found = stem, {}
        for number, (factor, stride) in enumerate(BLOCKS, start=2):
            c_out = stem * factor
            special = variant == "rfb" and number == RECEPTIVE_FIELD
            self.add_module(
                f"conv{number}", ReceptiveField(c_out, slope) if special else _separable(c_in, c_out, stride, slope)
            )
            c_in = found[number] = c_out
        extra = _separable_with_bias(c_in // 4, c_in, 2, slope)
        self.conv14 = nn.Sequential(nn.Conv2d(c_in, c_in // 4, 1), activation(slope), extra, activation(slope))
        found[14] = c_in
        widths = [found[tap] for tap in TAPS]
        self.loc, self.conf, self.landm = (
            _heads(widths, [a * per_anchor for a in anchors], slope) for per_anchor in (4, 2, 2 * landmarks)
        )

    def forward(self, x: Tensor) -> list[LevelOutput]:
        """float32 [B, 3, H, W], H and W multiples of 8 -> raw maps, finest level first."""
        maps = []
        for number in range(1, TAPS[-1] + 1):
            x = self.get_submodule(f"conv{number}")(x)
            if number in TAPS:
                maps.append(x)
        heads = zip(maps, self.conf, self.loc, self.landm, strict=True)
        return [LevelOutput(conf=conf(m), loc=loc(m), landm=landm(m)) for m, conf, loc, landm in heads]


def _heads(widths: list[int], outputs: list[int], slope: float) -> nn.Sequential:
    """One head a level: separable, and a plain 3x3 convolution on the coarsest."""
    pairs = list(zip(widths, outputs, strict=True))
    fine = [_separable_with_bias(c_in, c_out, 1, slope) for c_in, c_out in pairs[:-1]]
    return nn.Sequential(*fine, nn.Conv2d(*pairs[-1], 3, padding=1))


def recognise(state: Mapping[str, Tensor]) -> Structure | Mismatch:
    """Read the structure from keys and shapes.

    Returns:
        The structure, or why `state` is not one of these networks.
    """
    layouts = []
    for variant in VARIANTS:
        with torch.device("meta"):
            keys = UltraLight(variant, STEM, (3, 2, 2, 3), 5, 0.0).state_dict()
        layouts.append((variant, {key: key for key in keys}))
    found = families.match_keys(NAME, layouts, state)
    if isinstance(found, Mismatch):
        return found
    variant, renamed = found
    heads = [f"{i}.2.weight" for i in range(len(STRIDES) - 1)] + [f"{len(STRIDES) - 1}.weight"]
    anchors = tuple(max(1, families.first_side(state, f"loc.{head}") // 4) for head in heads)
    landmarks = max(1, families.first_side(state, f"landm.{heads[0]}") // (2 * anchors[0]))
    stem = max(4, families.first_side(state, "conv1.0.weight"))
    with torch.device("meta"):
        expected = UltraLight(variant, stem, anchors, landmarks, 0.0).state_dict()
    wrong = families.wrong_shapes(expected, renamed, state)
    if wrong:
        return Mismatch(
            family=NAME, layout=variant, common=len(renamed), missing=(), unexpected=(), shapes=wrong
        )  # fmt: skip
    return Structure(
        family=NAME,
        backbone=variant if stem == STEM else f"{variant}-{stem / STEM:g}",
        layout=variant,
        strides=STRIDES,
        anchors_per_cell=anchors,
        landmarks=landmarks,
        renamed=renamed,
        channels={"variant": variant, "stem": stem},
    )


def build(structure: Structure, state: Mapping[str, Tensor], contract: Contract) -> nn.Module:
    """The float32 network in eval mode, with the checkpoint's weights and the contract's activation."""
    network = UltraLight(
        structure.channels["variant"],
        structure.channels["stem"],
        structure.anchors_per_cell,
        structure.landmarks,
        contract.activation_slope,
    )
    return families.with_weights(network, structure, state)
