"""MobileNetV3-Small up to its seventh bottleneck (Howard et al. 2019), as face detectors were published with it.

Those networks take the maps after bottlenecks 3, 4 and 7, and let the projection of bottleneck 7 halve the map, which
the original does only in bottleneck 9: https://github.com/sglee487/Pytorch_Retinaface, `models/retinaface.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from facex.reference.backbones import Backbone, with_or_without_features
from facex.reference.backbones.layers import TappedSequence, conv_bn

STEM = 16
EPS = 1e-3
"""Of every batch norm; the published code differs from torch's default here."""


@dataclass(frozen=True)
class Row:
    """A bottleneck: Howard et al. 2019, table 2."""

    kernel: int
    expanded: int
    out: int
    squeezed: int
    hard_swish: bool
    stride: int = 1
    projection_stride: int = 1


ROWS = (
    Row(3, 16, 16, 8, hard_swish=False, stride=2),
    Row(3, 72, 24, 0, hard_swish=False, stride=2),
    Row(3, 88, 24, 0, hard_swish=False),
    Row(5, 96, 40, 24, hard_swish=True, stride=2),
    Row(5, 240, 40, 64, hard_swish=True),
    Row(5, 240, 40, 64, hard_swish=True),
    Row(5, 120, 48, 32, hard_swish=True, projection_stride=2),
)
"""`squeezed` is a quarter of `expanded`, rounded to a multiple of 8; 0 where nothing is squeezed."""
TAPS = (3, 4, 7)


class SqueezeExcitation(nn.Module):
    """Scales every channel by a hard sigmoid of two 1x1 convolutions of the channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C, H, W] -> the same shape."""
        out: Tensor = x * self.gate(self.fc2(self.relu(self.fc1(self.pool(x)))))
        return out


class Bottleneck(nn.Module):
    """Expand 1x1, depthwise, squeeze and excite, project 1x1, with a residual where the shapes agree."""

    def __init__(self, c_in: int, row: Row) -> None:
        super().__init__()
        self.residual = row.stride == row.projection_stride == 1 and c_in == row.out

        def act() -> nn.Module:
            return nn.Hardswish() if row.hard_swish else nn.ReLU()

        layers: list[nn.Module] = []
        if row.expanded != c_in:
            layers.append(nn.Sequential(*conv_bn(c_in, row.expanded, 1, eps=EPS), act()))
        depthwise = conv_bn(row.expanded, row.expanded, row.kernel, row.stride, groups=row.expanded, eps=EPS)
        layers.append(nn.Sequential(*depthwise, act()))
        if row.squeezed:
            layers.append(SqueezeExcitation(row.expanded, row.squeezed))
        layers.append(nn.Sequential(*conv_bn(row.expanded, row.out, 1, row.projection_stride, eps=EPS)))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C_in, H, W] -> float32 [B, C_out, H / stride, W / stride]."""
        out: Tensor = self.block(x)
        return x + out if self.residual else out


class MobileNetV3Small(TappedSequence):
    """Three feature maps with strides 8, 16 and 32."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, STEM, 3, 2, eps=EPS), nn.Hardswish())]
        widths = [STEM]
        for row in ROWS:
            layers.append(Bottleneck(widths[-1], row))
            widths.append(row.out)
        super().__init__(layers, widths, TAPS)


BACKBONES = (
    Backbone(
        name="mobilenetv3-small",
        build=lambda _stem, _slope: MobileNetV3Small(),
        stem="features.0.0.weight",
        published=with_or_without_features,
        label=lambda _stem: "mobilenetv3-small",
        own_activations=True,
    ),
)
