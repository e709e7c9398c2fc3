"""Networks with the operators of newer backbones, converted by coremltools: the executor gives torch's results."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facex.exporters import _package
from facex.exporters._mil import executor, program
from facex.exporters._quiet import quiet

pytestmark = pytest.mark.slow


class Excitation(nn.Module):
    """Squeeze and excitation as in MobileNetV3 (Howard et al. 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        gate: Tensor = nn.functional.hardsigmoid(self.excite(torch.relu(self.squeeze(mean))))
        return gate * x


class Residual(nn.Module):
    """A residual block of MobileNetV2, then one of ResNet's sums."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.narrow = nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.relu6(self.deep(nn.functional.relu6(self.wide(x))))
        return torch.relu(self.narrow(inner) + x)


NETWORKS = {
    "hard swish and excitation": lambda: [nn.Hardswish(), Excitation(8)],
    "relu6 and sums": lambda: [Residual()],
    "a pool below zero": lambda: [nn.MaxPool2d(3, 2, 1)],
    "a pool above zero": lambda: [nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
    "dilation": lambda: [nn.Conv2d(8, 8, 3, padding=5, dilation=5), nn.ReLU()],
}


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_coremltools_makes_of_a_network_is_the_network(name, half, tmp_path):
    with quiet():
        import coremltools as ct
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *NETWORKS[name](), nn.Conv2d(8, 4, 1)).eval()
    x = 4 * torch.randn(1, 3, 22, 26)
    with quiet(), torch.inference_mode():
        model = ct.convert(
            torch.jit.trace(network, x), inputs=[ct.TensorType(name="image", shape=x.shape)],
            convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16, skip_model_load=True,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        )  # fmt: skip
        model.save(str(tmp_path / "a.mlpackage"))
        parsed = program.parse(*_package.load(tmp_path / "a.mlpackage"))
        wanted = network(x).numpy()
    (found,) = executor.Executor(parsed)({"image": x}).values()
    assert Counter(o.type for o in parsed.operations)["conv"] >= 2
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=(0.01 if half else 2e-6) * scale)
