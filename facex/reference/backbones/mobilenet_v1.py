"""MobileNetV1 of any width, without its classifier (Howard et al. 2017)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from facex.reference.backbones import Backbone
from facex.reference.backbones.layers import ConvUnit, FeatureMaps, SeparableBlock

MOBILENET_V1_BLOCKS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    ((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    ((1024, 2), (1024, 1)),
)
"""(output channels at width 1.0, stride) of each depthwise separable block, by stage: Howard et al. 2017, table 1."""


class MobileNetV1(FeatureMaps):
    """Three stages with strides 8, 16 and 32.

    Args:
        stem: output channels of the first convolution (32 x width).
        blocks: output channels and stride of every separable block, by stage.
        slope: negative slope of every activation.
    """

    def __init__(self, stem: int, blocks: Sequence[Sequence[tuple[int, int]]], slope: float) -> None:
        super().__init__()
        self.stem = ConvUnit(3, stem, 3, 2, slope=slope)
        self.stages = nn.ModuleList()
        self.channels = []
        c_in = stem
        for stage in blocks:
            layers = []
            for c_out, stride in stage:
                layers.append(SeparableBlock(c_in, c_out, stride, slope))
                c_in = c_out
            self.stages.append(nn.Sequential(*layers))
            self.channels.append(c_in)

    def forward(self, x: Tensor) -> list[Tensor]:
        """float32 [B, 3, H, W] -> the three feature maps, finest first."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def build(stem: int, slope: float) -> MobileNetV1:
    """The backbone without weights; its width is a 32nd of `stem`."""
    # ceil keeps the published channel counts for widths 0.25, 0.5 and 1.0 and is what any other width would mean
    blocks = [[(max(1, -(-c * stem // 32)), s) for c, s in stage] for stage in MOBILENET_V1_BLOCKS]
    return MobileNetV1(stem, blocks, slope)


def published(parameter: str, layout: str) -> tuple[str, ...]:
    """The key of a parameter; the classic layout counts the layers of a block on, the other one groups them."""
    if match := re.fullmatch(r"stem\.(conv|bn)\.(\w+)", parameter):
        return (f"stage1.0.{('conv', 'bn').index(match[1])}.{match[2]}",)
    match = re.fullmatch(r"stages\.(\d)\.(\d+)\.(depthwise|pointwise)\.(conv|bn)\.(\w+)", parameter)
    assert match is not None, parameter
    stage, block = int(match[1]), int(match[2])
    part, layer = ("depthwise", "pointwise").index(match[3]), ("conv", "bn").index(match[4])
    place = f"{part * 3 + layer}" if layout == "classic" else f"{part}.{layer}"
    return (f"stage{stage + 1}.{block + (stage == 0)}.{place}.{match[5]}",)


BACKBONES = (
    Backbone(
        name="mobilenetv1",
        build=build,
        stem="stem.conv.weight",
        published=published,
        label=lambda stem: f"mobilenetv1-{stem / 32:g}",
        own_activations=False,
    ),
)
