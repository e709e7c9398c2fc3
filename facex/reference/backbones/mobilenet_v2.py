"""MobileNetV2 without its classifier (Sandler et al. 2018); modules are named as in the published checkpoints."""

from __future__ import annotations

from torch import Tensor, nn

from facex.reference.backbones import Backbone, with_or_without_features
from facex.reference.backbones.layers import TappedSequence, conv_bn

STEM = 32
LAST = 1280
BLOCKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""(expansion, output channels, repeats, stride of the first) of the bottlenecks: Sandler et al. 2018, table 2."""
TAPS = (6, 13, 18)
"""Layers whose results are the feature maps: the last ones with strides 8, 16 and 32."""


class Bottleneck(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1, with ReLU6 and a residual where the shapes agree."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.residual = stride == 1 and c_in == c_out
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(nn.Sequential(*conv_bn(c_in, hidden, 1), nn.ReLU6()))
        layers.append(nn.Sequential(*conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()))
        self.conv = nn.Sequential(*layers, *conv_bn(hidden, c_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C_in, H, W] -> float32 [B, C_out, H / stride, W / stride]."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(TappedSequence):
    """Three feature maps with strides 8, 16 and 32, the last after the final 1x1 convolution."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, STEM, 3, 2), nn.ReLU6())]
        widths = [STEM]
        for expansion, c_out, repeats, first_stride in BLOCKS:
            for i in range(repeats):
                layers.append(Bottleneck(widths[-1], c_out, first_stride if i == 0 else 1, expansion))
                widths.append(c_out)
        layers.append(nn.Sequential(*conv_bn(widths[-1], LAST, 1), nn.ReLU6()))
        super().__init__(layers, [*widths, LAST], TAPS)


BACKBONES = (
    Backbone(
        name="mobilenetv2",
        build=lambda _stem, _slope: MobileNetV2(),
        stem="features.0.0.weight",
        published=with_or_without_features,
        label=lambda _stem: "mobilenetv2",
        own_activations=True,
    ),
)
