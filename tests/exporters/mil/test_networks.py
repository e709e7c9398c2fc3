"""Whole networks that the executor was not written for: torch in float64 against the saved package, executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from facex.exporters._mil import program
from facex.exporters._mil.executor import Executor, held
from facex.exporters._quiet import quiet

SHAPE = (1, 3, 32, 40)


class Residual(nn.Sequential):
    """Strided convolutions, batch norms, pooling with ceiling, sums."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(8, 8, 3, padding=1))  # fmt: skip
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self)[:4]:
            x = layer(x)
        return self.last(torch.relu(x + self[4](x)).mean((2, 3)))


class Inverted(nn.Module):
    """MobileNetV3: depthwise, squeeze and excitation, hard swish, hard sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.depth = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 5, 2, 2, groups=12)
        self.squeeze, self.excite, self.project = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1), nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.depth(functional.hardswish(self.widen(x))))
        gate = functional.hardsigmoid(self.excite(torch.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1)))))
        return self.project(x * gate)


class UNet(nn.Module):
    """Down, up by a transposed convolution and by bilinear interpolation, skips."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up1, self.up2 = nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = functional.elu(self.down1(x))
        b = functional.silu(self.down2(a))
        joined = torch.cat([a, self.up1(b)], dim=1)
        return torch.tanh(self.up2(functional.interpolate(joined, scale_factor=2, mode="bilinear")))


class Attention(nn.Module):
    """A transformer block on patches: layer norm, heads, softmax, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(self.norm1(tokens)).reshape(1, 20, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weight = torch.softmax(query @ key.transpose(-1, -2) / 2.0, dim=-1)
        tokens = tokens + self.out((weight @ value).transpose(1, 2).reshape(1, 20, 16))
        return tokens + self.mlp(self.norm2(tokens))


class Shuffled(nn.Module):
    """ShuffleNet's channel shuffle, chunks, PReLU, dilated and grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.slope = nn.PReLU(8, init=0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.first(x))
        left, right = self.grouped(x).chunk(2, dim=1)
        x = torch.cat([left * 2, right - left], dim=1)
        return x.reshape(1, 2, 4, 32, 40).transpose(1, 2).reshape(1, 8, 32, 40)


class SuperResolution(nn.Module):
    """Pixel shuffle, reflected padding, leaky ReLU, clamping."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 5), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.first(functional.pad(x, (2, 2, 2, 2), mode="reflect")), 0.2)
        return functional.pixel_shuffle(self.last(x), 2).clamp(-0.5, 0.75)


class Normalized(nn.Module):
    """Instance norm, group norm, softplus, Mish, average pooling that counts no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.instance = nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True)
        self.group, self.pool = nn.GroupNorm(4, 8), nn.AvgPool2d(3, 2, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.softplus(self.instance(self.first(x)))
        return self.pool(functional.mish(self.group(x)))


class Wave(nn.Module):
    """One dimension: convolutions along rows, sigmoid gates, sums, roots."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.gate = nn.Conv1d(96, 8, 5, padding=4, dilation=2), nn.Conv1d(96, 8, 5, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(1, 96, 40)
        gated = torch.tanh(self.filter(rows))[..., :36] * torch.sigmoid(self.gate(rows))
        return torch.sqrt(gated.square().sum(1) + 1e-3)


class Volume(nn.Module):
    """Three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool = nn.Conv3d(1, 4, 3, padding=1), nn.MaxPool3d((1, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(torch.relu(self.first(x[:, None])))


class Pyramid(nn.Module):
    """A feature pyramid with nearest upsampling, and the maximum over levels."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = functional.relu6(self.low(x))
        high = functional.interpolate(self.high(low), scale_factor=2.0, mode="nearest")
        return torch.maximum(low, high) - torch.minimum(low, high).abs()


class Decoder(nn.Module):
    """A detector's tail: slices, exponentials, where, stacked corners, a selection of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 10, 3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.head(x).permute(0, 2, 3, 1).reshape(1, -1, 5)
        centre, size = raw[..., :2], torch.exp(raw[..., 2:4] * 0.2)
        boxes = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
        score = torch.where(raw[..., 4:] > 0, torch.sigmoid(raw[..., 4:]), raw[..., 4:] * 0.1)
        return torch.cat([boxes, score], dim=-1)[:, 3::7]


class Statistics(nn.Module):
    """Reductions of all kinds, powers, logarithms, a matrix product, squeezed and expanded dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        mean, highest, lowest = x.mean(1), x.amax(1), x.amin(1)
        spread = torch.log(1 + (x - mean.unsqueeze(1)).pow(2).sum(1)) + torch.rsqrt(highest - lowest + 1)
        return torch.matmul(spread.transpose(1, 2), self.mix).squeeze(0) / torch.logsumexp(x, 2).mean()


NETWORKS = [Residual, Inverted, UNet, Attention, Shuffled, SuperResolution, Normalized, Wave, Volume, Pyramid, Decoder,
            Statistics]  # fmt: skip


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_gives_what_torch_gives(
    network: type[nn.Module], half: bool, saved_model: Callable[[Any], tuple[Any, Path]]
) -> None:
    torch.manual_seed(7)
    module = network().eval()
    for part in module.modules():  # statistics as a trained network has them, and not 0 and 1
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
    image = torch.randn(SHAPE)
    with quiet():
        import coremltools as ct

        precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
        converted = ct.convert(
            torch.jit.trace(module, image), inputs=[ct.TensorType(name="image", shape=SHAPE)], skip_model_load=True,
            outputs=[ct.TensorType(name="out", dtype=np.float32)], compute_precision=precision,
            minimum_deployment_target=ct.target.iOS17,
        )  # fmt: skip
    parsed = program.parse(*saved_model(converted))
    kinds = {declared.dtype for op in parsed.operations for _, declared in op.outputs if op.type != "const"}
    assert ("fp16" in kinds) == half
    found = Executor(parsed)({"image": held(image.numpy())})["out"].double()
    with torch.inference_mode():
        wanted = module.double()(image.double())
    error = float((found - wanted).norm() / wanted.norm())
    assert error < (4e-3 if half else 3e-6)
    assert not half or error > 1e-5, "half precision must be seen"
