"""ResNet without its classifier (He et al. 2016), with the stride of a bottleneck in its 3x3 convolution.

Modules are named as in the published checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn

from facex.reference.backbones import Backbone
from facex.reference.backbones.layers import FeatureMaps, conv_bn

WIDTHS = (64, 128, 256, 512)
STEM = 64
DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
"""Depth -> kind of block and how many by stage: He et al. 2016, table 1."""


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Module | None:
    return nn.Sequential(*conv_bn(c_in, c_out, 1, stride)) if stride != 1 or c_in != c_out else None


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    EXPANSION = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(c_in, width, 3, stride)
        self.conv2, self.bn2 = conv_bn(width, width, 3)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(c_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C_in, H, W] -> float32 [B, C_out, H / stride, W / stride]."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return result


class Bottleneck(nn.Module):
    """Reduce 1x1, 3x3, expand 1x1 and a shortcut."""

    EXPANSION = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(c_in, width, 1)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride)
        self.conv3, self.bn3 = conv_bn(width, width * self.EXPANSION, 1)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(c_in, width * self.EXPANSION, stride)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C_in, H, W] -> float32 [B, C_out, H / stride, W / stride]."""
        out = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        result: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return result


class ResNet(FeatureMaps):
    """Feature maps of the stages with strides 8, 16 and 32; `all_maps` also gives that with stride 4."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        kind, counts = DEPTHS[depth]
        block = BasicBlock if kind == "basic" else Bottleneck
        self.conv1, self.bn1 = conv_bn(3, STEM, 7, 2)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        c_in = STEM
        for stage, (width, count) in enumerate(zip(WIDTHS, counts, strict=True)):
            layers = []
            for i in range(count):
                layers.append(block(c_in, width, 2 if stage and not i else 1))
                c_in = width * block.EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.all_channels = [width * block.EXPANSION for width in WIDTHS]
        self.channels = self.all_channels[1:]

    def forward(self, x: Tensor) -> list[Tensor]:
        """float32 [B, 3, H, W] -> the three feature maps, finest first."""
        return self.all_maps(x)[1:]

    def all_maps(self, x: Tensor) -> list[Tensor]:
        """float32 [B, 3, H, W] -> the feature maps with strides 4, 8, 16 and 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in range(len(WIDTHS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            maps.append(x)
        return maps


def _of(depth: int) -> Backbone:
    return Backbone(
        name=f"resnet{depth}",
        build=lambda _stem, _slope: ResNet(depth),
        stem="conv1.weight",
        published=lambda parameter, _layout: (parameter,),
        label=lambda _stem: f"resnet{depth}",
        own_activations=True,
    )


BACKBONES = tuple(map(_of, DEPTHS))
