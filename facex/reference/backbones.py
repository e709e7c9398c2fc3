"""Backbones shared by the detector families. Each returns one feature map per stage."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

MOBILENET_V1_BLOCKS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    ((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    ((1024, 2), (1024, 1)),
)
"""(output channels at width 1.0, stride) of each depthwise separable block, by stage: Howard et al. 2017, table 1."""


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias, padded to keep the size at stride 1, and its batch norm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out)]


def activation(slope: float) -> nn.Module:
    """ReLU for slope 0, LeakyReLU otherwise."""
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


class ConvUnit(nn.Module):
    """Convolution, batch norm and, unless `act` is None, an activation."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, *, groups: int = 1, slope: float | None
    ) -> None:
        super().__init__()
        self.conv, self.bn = conv_bn(c_in, c_out, kernel, stride, groups)
        self.act = nn.Identity() if slope is None else activation(slope)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C_in, H, W] -> float32 [B, C_out, H / stride, W / stride]."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class SeparableBlock(nn.Module):
    """Depthwise 3x3 then pointwise 1x1, each with batch norm and activation (Howard et al. 2017, figure 3)."""

    def __init__(self, c_in: int, c_out: int, stride: int, slope: float) -> None:
        super().__init__()
        self.depthwise = ConvUnit(c_in, c_in, 3, stride, groups=c_in, slope=slope)
        self.pointwise = ConvUnit(c_in, c_out, 1, slope=slope)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C_in, H, W] -> float32 [B, C_out, H / stride, W / stride]."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class MobileNetV1(nn.Module):
    """MobileNetV1 without its classifier: three stages with strides 8, 16 and 32.

    Args:
        stem: output channels of the first convolution (32 x width).
        blocks: output channels and stride of every separable block, by stage.
        slope: negative slope of every activation.
    """

    def __init__(self, stem: int, blocks: Sequence[Sequence[tuple[int, int]]], slope: float) -> None:
        super().__init__()
        self.stem = ConvUnit(3, stem, 3, 2, slope=slope)
        self.stages = nn.ModuleList()
        self.channels: list[int] = []
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


def first_convolution(network: nn.Module) -> nn.Conv2d:
    """The convolution that sees the pixels: the first one with three input channels in definition order.

    Raises:
        ValueError: the network has none.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            return module
    raise ValueError(f"{type(network).__name__} has no convolution over three channels")
