"""Layers that networks share, and what rewrites need to find in a network."""

from __future__ import annotations

from torch import Tensor, nn


class FeatureMaps(nn.Module):
    """A network of which several maps are the result; `channels` of each, finest first."""

    channels: list[int]


class TappedSequence(FeatureMaps):
    """Layers in a row, `features`, of which some results are the maps.

    Args:
        layers: in their order.
        widths: output channels of each.
        taps: numbers of the layers whose results are given, finest first.
    """

    def __init__(self, layers: list[nn.Module], widths: list[int], taps: tuple[int, ...]) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.channels = [widths[tap] for tap in taps]
        self._taps = taps

    def forward(self, x: Tensor) -> list[Tensor]:
        """float32 [B, 3, H, W] -> the feature maps, finest first."""
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self._taps:
                maps.append(x)
        return maps


def conv_bn(
    c_in: int, c_out: int, kernel: int, stride: int = 1, *, groups: int = 1, dilation: int = 1, eps: float = 1e-5
) -> list[nn.Module]:
    """A convolution without bias, padded to keep the size at stride 1, and its batch norm."""
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation=dilation, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out, eps=eps)]


def activation(slope: float) -> nn.Module:
    """ReLU for slope 0, LeakyReLU otherwise."""
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


class ConvUnit(nn.Module):
    """Convolution, batch norm and, unless `slope` is None, an activation."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        slope: float | None,
    ) -> None:
        super().__init__()
        self.conv, self.bn = conv_bn(c_in, c_out, kernel, stride, groups=groups, dilation=dilation)
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


def first_convolution(network: nn.Module) -> nn.Conv2d:
    """The convolution that sees the pixels: the first one with three input channels in definition order.

    Raises:
        ValueError: the network has none.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            return module
    raise ValueError(f"{type(network).__name__} has no convolution over three channels")
