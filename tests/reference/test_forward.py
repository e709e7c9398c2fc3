"""The reference network against a forward pass written here, straight from the published keys, in float64.

Nothing of `facex.reference`'s networks is used for the expected values.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from facex.reference import detector as detectors
from facex.reference import photographs
from facex.types import ChannelOrder, ContractOptions, Head, Size

TOLERANCE = 1e-4
"""Largest difference over the largest magnitude of an output."""

STAGE_STRIDES = ((1, 2, 1, 2, 1), (2, 1, 1, 1, 1, 1), (2, 1))
SMALL_ANCHORS = ((10.0, 20.0), (32.0, 64.0), (128.0, 256.0))
REAL = {
    "mnet025.pth": ("classic", ContractOptions()),
    "mnet025_relu.pth": ("classic", ContractOptions(activation_slope=0.0)),
    "mnet025_relu_small_anchors.pth": (
        "classic",
        ContractOptions(activation_slope=0.0, min_sizes=SMALL_ANCHORS),
    ),
    "mnet025_rgb.pth": ("classic", ContractOptions(channel_order=ChannelOrder.RGB)),
    "mnet025_fx_keys.pth": ("fx", ContractOptions()),
    "mnet025_10_landmarks.pth": ("classic", ContractOptions(landmarks=10)),
}
KEYS = {
    # layout -> (stem, blocks from 1 in stage 1, depthwise and pointwise positions in a block, heads)
    "classic": (
        "body.stage{}.{}",
        ("0", "1"),
        ("3", "4"),
        "{}Head.{}.conv1x1",
        ("Class", "Bbox", "Landmark"),
    ),
    "fx": (
        "fx.stage{}.{}",
        ("0.0", "0.1"),
        ("1.0", "1.1"),
        "{0}_head.{0}_head.{1}",
        ("class", "bbox", "landmark"),
    ),
}


class ByHand:
    """A RetinaFace MobileNet forward pass over a plain state dict."""

    def __init__(self, state: dict[str, Tensor], layout: str, slope: float) -> None:
        self.state = {k: v.to(torch.float64) for k, v in state.items() if v.is_floating_point()}
        self.layout, self.slope = layout, slope

    def act(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * self.slope)

    def conv_bn(self, x: Tensor, conv: str, bn: str, *, stride: int = 1) -> Tensor:
        weight = self.state[f"{conv}.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        mean, var, gamma, beta = (
            self.state[f"{bn}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * gamma + beta

    def pair(self, x: Tensor, name: str) -> Tensor:
        """Convolution and batch norm as numbers 0 and 1 of a sequence."""
        return self.conv_bn(x, f"{name}.0", f"{name}.1")

    def body(self, x: Tensor) -> list[Tensor]:
        block_name, depthwise, pointwise, *_ = KEYS[self.layout]
        stem = block_name.format(1, 0)
        x = self.act(self.conv_bn(x, f"{stem}.0", f"{stem}.1", stride=2))
        maps = []
        for stage, strides in enumerate(STAGE_STRIDES, start=1):
            for i, stride in enumerate(strides, start=1 if stage == 1 else 0):
                block = block_name.format(stage, i)
                x = self.act(self.conv_bn(x, f"{block}.{depthwise[0]}", f"{block}.{depthwise[1]}", stride=stride))
                x = self.act(self.conv_bn(x, f"{block}.{pointwise[0]}", f"{block}.{pointwise[1]}"))
            maps.append(x)
        return maps

    def pyramid(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (self.act(self.pair(x, f"fpn.output{i}")) for i, x in enumerate(maps, start=1))
        middle = self.act(self.pair(middle + self.enlarged(coarse, middle), "fpn.merge2"))
        fine = self.act(self.pair(fine + self.enlarged(middle, fine), "fpn.merge1"))
        return [fine, middle, coarse]

    @staticmethod
    def enlarged(x: Tensor, like: Tensor) -> Tensor:
        """Nearest interpolation to the size of another map, pixel by pixel in whole numbers."""
        (rows, columns), (height, width) = x.shape[2:], like.shape[2:]
        y, x_ = ([i * n // m for i in range(m)] for n, m in ((rows, height), (columns, width)))
        return x[:, :, y][:, :, :, x_]

    def context(self, x: Tensor, name: str) -> Tensor:
        three = self.pair(x, f"{name}.conv3X3")
        shared = self.act(self.pair(x, f"{name}.conv5X5_1"))
        five = self.pair(shared, f"{name}.conv5X5_2")
        seven = self.pair(self.act(self.pair(shared, f"{name}.conv7X7_2")), f"{name}.conv7x7_3")
        return torch.cat([three, five, seven], dim=1).clamp(min=0)

    def head(self, features: list[Tensor], word: str, width: int) -> Tensor:
        rows = []
        for level, x in enumerate(features):
            name = KEYS[self.layout][3].format(word, level)
            out = functional.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])
            rows.append(out.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width))
        return torch.cat(rows, dim=1)

    def __call__(self, x: Tensor) -> dict[str, np.ndarray[Any, Any]]:
        features = [self.context(p, f"ssh{i}") for i, p in enumerate(self.pyramid(self.body(x.double())), start=1)]
        words = KEYS[self.layout][4]
        point_channels = self.state[f"{KEYS[self.layout][3].format(words[2], 0)}.weight"].shape[0]
        logits = self.head(features, words[0], 2)
        face = 1 / (1 + torch.exp(logits[..., 0] - logits[..., 1]))
        return {
            "loc": self.head(features, words[1], 4).numpy(),
            "conf": torch.stack([1 - face, face], dim=-1).numpy(),
            "landm": self.head(features, words[2], point_channels // 2).numpy(),
        }


def by_hand_input(pixels: np.ndarray[Any, Any], *, bgr: bool) -> Tensor:
    """RGB letterboxed pixels as the published networks want them: minus 104, 117, 123 in their order."""
    channels = [pixels[:, :, c].astype(np.float64) for c in ((2, 1, 0) if bgr else (0, 1, 2))]
    return torch.from_numpy(np.stack([c - m for c, m in zip(channels, (104, 117, 123), strict=True)]))[None]


def unpacked(state: dict[str, Any]) -> dict[str, Tensor]:
    state = state.get("state_dict", state)
    return {k.removeprefix("module."): v for k, v in state.items()}


def worst_difference(actual: dict[str, Any], expected: dict[str, Any]) -> float:
    """Largest difference over the largest magnitude, of the worst output."""
    assert list(actual) == ["loc", "conf", "landm"]
    for name, value in actual.items():
        assert value.dtype == np.float32
        assert value.shape == expected[name].shape
    return max(
        float(np.abs(value - expected[name]).max() / np.abs(expected[name]).max()) for name, value in actual.items()
    )


@pytest.mark.parametrize("layout", ["classic", "fx"])
@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("landmarks", [5, 10])
def test_seeded_weights(
    seeded_state: Callable[..., dict[str, Tensor]],
    draw_photograph: Callable[..., Any],
    tmp_path: Path,
    layout: str,
    slope: float,
    landmarks: int,
) -> None:
    state = seeded_state(layout=layout, slope=slope, landmarks=landmarks)
    torch.save(state, tmp_path / "a.pth")
    detector = detectors.load(tmp_path / "a.pth", ContractOptions(activation_slope=slope))
    size = Size(height=64, width=96)
    pixels = np.asarray(draw_photograph(3, size.width, size.height))

    actual = detectors.ReferenceSession(detector, size, Head.RAW, threads=1)({"image": pixels[None]})

    x = by_hand_input(pixels, bgr=True)
    assert worst_difference(actual, ByHand(state, layout, slope)(x)) <= TOLERANCE
    assert worst_difference(actual, ByHand(state, layout, 0.1 - slope)(x)) > 0.01


@pytest.mark.parametrize("size", ["8x8", "40x72", "120x160", "136x200", "240x320"])
def test_sizes_that_only_the_finest_level_divides(
    seeded_state: Callable[..., dict[str, Tensor]], draw_photograph: Callable[..., Any], detector: Any, size: str
) -> None:
    height, width = map(int, size.split("x"))
    pixels = np.asarray(draw_photograph(3, width, height))
    given = Size(height=height, width=width)
    actual = detectors.ReferenceSession(detector, given, Head.RAW, threads=1)({"image": pixels[None]})
    expected = ByHand(seeded_state(), "classic", 0.1)(by_hand_input(pixels, bgr=True))
    assert worst_difference(actual, expected) <= TOLERANCE


def large_face(shared_dir: Path) -> Path:
    """The photograph with the largest annotated face."""
    folder = shared_dir / "data" / "dev"
    images = json.loads((folder / "gt.json").read_text(encoding="utf-8"))["images"]
    sides = {i["file"]: max((min(f["bbox"][2:]) for f in i["faces"] or ()), default=0) for i in images}
    return folder / max(sides, key=lambda file: sides[file])


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints(shared_dir: Path, name: str) -> None:
    layout, options = REAL[name]
    path = shared_dir / "weights" / name
    detector = detectors.load(path, options)
    size = Size(height=192, width=256)
    by_hand = ByHand(
        unpacked(torch.load(path, map_location="cpu", weights_only=True)),
        layout,
        detector.contract.activation_slope,
    )
    noise = np.random.default_rng(11).integers(0, 256, (size.height, size.width, 3)).astype(np.uint8)
    real = photographs.letterbox(photographs.load(large_face(shared_dir)), size, detector.contract.mean_rgb).pixels
    session = detectors.ReferenceSession(detector, size, Head.RAW, threads=1)
    bgr = options.channel_order is not ChannelOrder.RGB
    for pixels in (noise, real):
        actual = session({"image": pixels[None]})
        assert worst_difference(actual, by_hand(by_hand_input(pixels, bgr=bgr))) <= TOLERANCE
    assert actual["conf"][..., 1].max() > 0.5, "no face in the photograph: it proves little"
