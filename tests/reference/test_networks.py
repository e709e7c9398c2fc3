"""Backbones and families against forward passes written here, straight from the published keys, in float64.

Nothing of `facex.reference`'s networks is used for the expected values. Weights are random, or the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from facex.errors import CheckpointError, UsageError
from facex.reference import backbones, checkpoint, families
from facex.reference import detector as detectors
from facex.reference.backbones.resnet import ResNet
from facex.reference.families import retinaface, ultralight
from facex.types import ContractOptions

WIDTH = 24
"""Channels of the pyramid."""
SIDE = 96
TOLERANCE = 1e-5
"""Largest difference over the largest magnitude of a map."""

State = dict[str, Tensor]


class Layers:
    """Layers over a plain state dict, by key."""

    def __init__(self, state: State, *, eps: float = 1e-5) -> None:
        self.state = {k: v.double() for k, v in state.items() if v.is_floating_point()}
        self.eps = eps

    def conv(self, x: Tensor, key: str, *, stride: int = 1, padding: int | None = None, dilation: int = 1) -> Tensor:
        weight, bias = self.state[f"{key}.weight"], self.state.get(f"{key}.bias")
        padding = weight.shape[-1] // 2 * dilation if padding is None else padding
        groups = x.shape[1] // weight.shape[1]
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def norm(self, x: Tensor, key: str) -> Tensor:
        mean, variance, gain, offset = (
            self.state[f"{key}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + self.eps).sqrt() * gain + offset

    def conv_norm(self, x: Tensor, conv: str, norm: str, *, stride: int = 1, dilation: int = 1) -> Tensor:
        return self.norm(self.conv(x, conv, stride=stride, dilation=dilation), norm)


def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


def hard_sigmoid(x: Tensor) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


def hard_swish(x: Tensor) -> Tensor:
    return x * hard_sigmoid(x)


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def mobilenet_v2(state: State, root: str, x: Tensor) -> list[Tensor]:
    layers = Layers(state)
    x = relu6(layers.conv_norm(x, f"{root}0.0", f"{root}0.1", stride=2))
    strides = {2: 2, 4: 2, 7: 2, 14: 2}
    maps = []
    for i in range(1, 18):
        block, before, last = f"{root}{i}.conv", x, 1
        if i > 1:
            x = relu6(layers.conv_norm(x, f"{block}.0.0", f"{block}.0.1"))
        depthwise = f"{block}.{int(i > 1)}"
        x = relu6(layers.conv_norm(x, f"{depthwise}.0", f"{depthwise}.1", stride=strides.get(i, 1)))
        last += int(i > 1)
        x = layers.conv_norm(x, f"{block}.{last}", f"{block}.{last + 1}")
        x = x + before if x.shape == before.shape else x
        if i in (6, 13):
            maps.append(x)
    return [*maps, relu6(layers.conv_norm(x, f"{root}18.0", f"{root}18.1"))]


def mobilenet_v3_small(state: State, root: str, x: Tensor) -> list[Tensor]:
    layers = Layers(state, eps=1e-3)
    x = hard_swish(layers.conv_norm(x, f"{root}0.0", f"{root}0.1", stride=2))
    maps = []
    for i, (stride, swish) in enumerate(zip((2, 2, 1, 2, 1, 1, 1), (0, 0, 0, 1, 1, 1, 1), strict=True), start=1):
        act, block, before, place = (hard_swish if swish else relu), f"{root}{i}.block", x, 0
        if i > 1:
            x = act(layers.conv_norm(x, f"{block}.0.0", f"{block}.0.1"))
            place = 1
        x = act(layers.conv_norm(x, f"{block}.{place}.0", f"{block}.{place}.1", stride=stride))
        if f"{block}.{place + 1}.fc1.weight" in layers.state:
            place += 1
            squeezed = relu(layers.conv(x.mean(dim=(2, 3), keepdim=True), f"{block}.{place}.fc1"))
            x = x * hard_sigmoid(layers.conv(squeezed, f"{block}.{place}.fc2"))
        last = f"{block}.{place + 1}"
        # the published network halves the map in the projection of its last bottleneck
        x = layers.norm(layers.conv(x, f"{last}.0", stride=2 if i == 7 else 1), f"{last}.1")
        x = x + before if x.shape == before.shape else x
        if i in (3, 4, 7):
            maps.append(x)
    return maps


def resnet(state: State, root: str, x: Tensor) -> list[Tensor]:
    layers = Layers(state)
    x = relu(layers.conv_norm(x, f"{root}conv1", f"{root}bn1", stride=2))
    x = functional.max_pool2d(functional.pad(x, (1, 1, 1, 1), value=float("-inf")), 3, 2)
    maps = []
    for stage in (1, 2, 3, 4):
        for i in range(sum(f"{root}layer{stage}.{n}.conv1.weight" in layers.state for n in range(40))):
            block = f"{root}layer{stage}.{i}"
            stride, before = (2 if stage > 1 and i == 0 else 1), x
            deep = f"{block}.conv3.weight" in layers.state
            x = relu(layers.conv_norm(x, f"{block}.conv1", f"{block}.bn1", stride=1 if deep else stride))
            x = layers.conv_norm(x, f"{block}.conv2", f"{block}.bn2", stride=stride if deep else 1)
            if deep:
                x = layers.conv_norm(relu(x), f"{block}.conv3", f"{block}.bn3")
            if f"{block}.downsample.0.weight" in layers.state:
                before = layers.conv_norm(before, f"{block}.downsample.0", f"{block}.downsample.1", stride=stride)
            x = relu(x + before)
        maps.append(x)
    return maps[1:]


def ultra_light(state: State, _root: str, x: Tensor) -> list[Tensor]:
    """conf, loc and landm of every level, level by level."""
    layers = Layers(state)
    x = relu(layers.conv_norm(x, "conv1.0", "conv1.1", stride=2))
    maps = []
    for number in range(2, 14):
        block = f"conv{number}"
        if f"{block}.shortcut.conv.weight" in layers.state:
            x = receptive_field(layers, block, x)
        else:
            x = relu(layers.conv_norm(x, f"{block}.0", f"{block}.1", stride=2 if number in (3, 5, 9, 12) else 1))
            x = relu(layers.conv_norm(x, f"{block}.3", f"{block}.4"))
        if number in (8, 11, 13):
            maps.append(x)
    x = relu(layers.conv(x, "conv14.0"))
    x = relu(layers.conv(x, "conv14.2.0", stride=2))
    maps.append(relu(layers.conv(x, "conv14.2.2")))
    out = []
    for level, feature in enumerate(maps):
        for head in ("conf", "loc", "landm"):
            key = f"{head}.{level}"
            fine = level < 3
            out.append(
                layers.conv(relu(layers.conv(feature, f"{key}.0")), f"{key}.2") if fine else layers.conv(feature, key)
            )
    return out


def receptive_field(layers: Layers, block: str, x: Tensor) -> Tensor:
    def unit(y: Tensor, key: str, dilation: int = 1) -> Tensor:
        return layers.conv_norm(y, f"{block}.{key}.conv", f"{block}.{key}.bn", dilation=dilation)

    branches = []
    for branch, (count, dilation) in enumerate(((3, 2), (3, 3), (4, 5))):
        y = unit(x, f"branch{branch}.0")
        for place in range(1, count - 1):
            y = relu(unit(y, f"branch{branch}.{place}"))
        branches.append(unit(y, f"branch{branch}.{count - 1}", dilation))
    return relu(unit(torch.cat(branches, dim=1), "ConvLinear") + unit(x, "shortcut"))


BY_HAND: dict[str, Callable[[State, str, Tensor], list[Tensor]]] = {
    "mobilenetv2": mobilenet_v2,
    "mobilenetv3-small": mobilenet_v3_small,
    "resnet18": resnet,
    "resnet34": resnet,
    "resnet50": resnet,
    "resnet101": resnet,
    "resnet152": resnet,
}
DEEP = ("resnet101", "resnet152")
KEYS = {"mobilenetv2": ("", "features."), "mobilenetv3-small": ("", "features.")}


def randomised(network: torch.nn.Module, seed: int = 5) -> torch.nn.Module:
    """Random weights, and batch norms whose four vectors all matter."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    module.bias.normal_(0, 0.3)
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.6, 1.2)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.6, 1.6)
    return network.eval()


def published(network: torch.nn.Module, layout: str, backbone: backbones.Backbone, way: int) -> State:
    found = {}
    for name, tensor in network.state_dict().items():
        keys = retinaface.published_keys(name, layout, backbone)
        found[keys[min(way, len(keys) - 1)]] = tensor
    return found


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max() / expected.abs().max()) <= TOLERANCE


def checkpoints() -> list[Any]:
    return [
        pytest.param(backbone.name, layout, way, marks=[pytest.mark.slow] if backbone.name in DEEP else [])
        for backbone in backbones.known()
        if backbone.own_activations
        for layout in retinaface.LAYOUTS
        for way in range(len(KEYS.get(backbone.name, ("",))))
    ]


@pytest.mark.parametrize(("name", "layout", "way"), checkpoints())
def test_backbones_by_hand(name: str, layout: str, way: int, tmp_path: Path) -> None:
    backbone = backbones.find(name)
    state = published(
        randomised(retinaface.skeleton(backbone, 8, WIDTH, (2, 2, 2), 5, 0.0, 0.0)), layout, backbone, way
    )
    torch.save(state, tmp_path / "a.pth")

    loaded = detectors.load(tmp_path / "a.pth", ContractOptions())

    assert (loaded.contract.backbone, loaded.contract.activation_slope) == (name, 0.0)
    root = {"classic": "body.", "fx": "fx."}[layout] + next(
        r for r in ("features.", "") if any(k.split(".", 1)[1].startswith(r) for k in state if k[:3] in ("bod", "fx."))
    )
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        actual = loaded.network.double().backbone(x.double())  # type: ignore[operator]
    expected = BY_HAND[name](state, root, x.double())
    assert [m.shape[-1] for m in expected] == [SIDE // 8, SIDE // 16, SIDE // 32]
    for a, e in zip(actual, expected, strict=True):
        assert_same(a, e)


@pytest.mark.parametrize("name", [b.name for b in backbones.known()])
def test_maps_of_every_size_are_rounded_up(name: str) -> None:
    """Sides that a stride does not divide: every map has the cells of its priors, whatever the layers that halve."""
    with torch.device("meta"):
        network = backbones.find(name).build(8, 0.0)
        for height in range(8, 137, 8):
            width = 264 - height
            image = torch.empty(1, 3, height, width)
            maps = network.all_maps(image) if isinstance(network, ResNet) else network(image)
            strides = (4, 8, 16, 32)[-len(maps) :]
            assert [tuple(m.shape[2:]) for m in maps] == [(-(-height // s), -(-width // s)) for s in strides]


@pytest.mark.parametrize("variant", ultralight.VARIANTS)
@pytest.mark.parametrize("stem", [16, 8])
def test_ultra_light_by_hand(variant: str, stem: int, tmp_path: Path) -> None:
    anchors = (3, 2, 2, 3)
    state = randomised(ultralight.UltraLight(variant, stem, anchors, 7, 0.0)).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")

    loaded = detectors.load(tmp_path / "a.pth", ContractOptions())

    assert loaded.contract.family == "ultralight"
    assert loaded.contract.backbone == (variant if stem == 16 else f"{variant}-0.5")
    assert (loaded.contract.strides, loaded.contract.landmarks) == ((8, 16, 32, 64), 7)
    assert loaded.contract.pyramid_slope is None
    # 56 is a multiple of 8 alone: coarse maps are rounded up
    x = torch.randn(1, 3, 56, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        levels = loaded.network.double()(x.double())
    expected = ultra_light(dict(state), "", x.double())
    assert [tuple(level.conf.shape[2:]) for level in levels] == [(7, 12), (4, 6), (2, 3), (1, 2)]
    for a, e in zip([m for level in levels for m in level[:3]], expected, strict=True):
        assert_same(a, e)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_the_slope_of_an_ultra_light_is_everywhere(slope: float) -> None:
    network = ultralight.UltraLight("rfb", 16, (3, 2, 2, 3), 5, slope)
    slopes = {m.negative_slope for m in network.modules() if isinstance(m, torch.nn.LeakyReLU)}
    assert slopes == ({slope} if slope else set())
    assert any(isinstance(m, torch.nn.ReLU) for m in network.modules()) is (slope == 0)


# --- what keys and shapes prove, and what is assumed of the rest


@pytest.mark.parametrize(
    ("name", "stem", "width", "options", "expected"),
    [
        ("mobilenetv1", 8, 64, {}, (0.1, 0.1)),
        ("mobilenetv1", 16, 128, {}, (0.1, 0.0)),
        ("mobilenetv1", 16, 128, {"activation_slope": 0.2}, (0.2, 0.2)),
        ("mobilenetv1", 16, 128, {"pyramid_slope": 0.3}, (0.1, 0.3)),
        ("mobilenetv1", 8, 64, {"activation_slope": 0.0}, (0.0, 0.0)),
        ("mobilenetv1", 8, 64, {"activation_slope": 0.2, "pyramid_slope": 0.0}, (0.2, 0.0)),
        ("resnet18", 64, 64, {}, (0.0, 0.1)),
        ("resnet18", 64, 128, {}, (0.0, 0.0)),
        ("mobilenetv2", 32, 64, {"activation_slope": 0.2}, (0.0, 0.2)),
    ],
)
def test_slopes(name: str, stem: int, width: int, options: dict[str, float], expected: tuple[float, float]) -> None:
    backbone = backbones.find(name)
    network = retinaface.skeleton(backbone, stem, width, (2, 2, 2), 5, 0.0, 0.0)
    state = published(network, "classic", backbone, 0)
    structure = checkpoint.recognise(Path("given.pth"), state)
    contract, assumed = detectors.settle(structure, ContractOptions(**options))
    assert (contract.activation_slope, contract.pyramid_slope) == expected
    network = families.load("retinaface").build(structure, state, contract)
    pyramid = [m for part in (network.pyramid, network.contexts) for m in part.modules()]
    found = {m.negative_slope for m in pyramid if isinstance(m, torch.nn.LeakyReLU)}
    assert found == ({expected[1]} if expected[1] else set())
    assert ("pyramid_slope" in assumed) is (not options)
    assert ("activation_slope" in assumed) is (not backbone.own_activations and "activation_slope" not in options)


def test_a_network_without_pyramid_has_no_slope_for_it(tmp_path: Path) -> None:
    torch.save(ultralight.UltraLight("slim", 16, (3, 2, 2, 3), 5, 0.0).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UsageError, match="--pyramid-activation: the family ultralight has no pyramid"):
        detectors.load(tmp_path / "a.pth", ContractOptions(pyramid_slope=0.1))


@pytest.mark.parametrize("name", [b.name for b in backbones.known()])
def test_every_backbone_is_named_in_a_refusal(name: str) -> None:
    backbone = backbones.find(name)
    state = published(retinaface.skeleton(backbone, 8, 64, (2, 2, 2), 5, 0.0, 0.0), "fx", backbone, 0)
    del state["fpn.merge1.0.weight"]
    with pytest.raises(
        CheckpointError, match=rf"closest is retinaface \({name} fx keys.*missing fpn\.merge1\.0\.weight —"
    ) as e:
        checkpoint.recognise(Path("given.pth"), state)
    assert "ultralight" in e.value.hint


def test_an_ultra_light_with_wrong_shapes(tmp_path: Path) -> None:
    state = ultralight.UltraLight("rfb", 16, (3, 2, 2, 3), 5, 0.0).state_dict()
    state["conv9.3.weight"] = torch.zeros(100, 64, 1, 1)
    with pytest.raises(CheckpointError, match=r"ultralight .* wrong shape conv9\.3\.weight is \[100, 64, 1, 1\]"):
        checkpoint.recognise(tmp_path / "given.pth", state)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["rfb", "slim", "mnetv3_small"])
def test_real_weights(shared_dir: Path, name: str) -> None:
    path = shared_dir / "weights" / f"{name}.pth"
    loaded, state = detectors.load(path, ContractOptions()), checkpoint.read(path)
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).double() * 60
    with torch.inference_mode():
        network = loaded.network.double()
        if loaded.contract.family == "ultralight":
            actual, expected = [m for level in network(x) for m in level[:3]], ultra_light(state, "", x)
        else:
            actual, expected = network.backbone(x), mobilenet_v3_small(state, "body.", x)  # type: ignore[operator]
    for a, e in zip(actual, expected, strict=True):
        assert_same(a, e)
