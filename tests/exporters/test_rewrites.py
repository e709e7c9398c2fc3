"""The rewritten network against the untouched one, in float64, at the borders too."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from facex.exporters import _pivot, _rewrites
from facex.reference import detector as detectors
from facex.reference.detector import Detector
from facex.reference.families.retinaface import FeaturePyramid
from facex.types import ChannelOrder, ContractOptions, Head, Size

SQUARE = Size(height=160, width=160)
RING = 2
"""Cells from the edge within which a wrong border is looked for."""

CONTRACTS = {
    "default": ContractOptions(),
    "rgb": ContractOptions(channel_order=ChannelOrder.RGB, mean=(123.0, 117.0, 104.0)),
    "scaled": ContractOptions(scale=(0.0171, 0.0175, 0.0174)),
    "rgb scaled": ContractOptions(
        channel_order=ChannelOrder.RGB, mean=(123.7, 116.3, 103.5), scale=(0.0171, 0.0175, 0.0174)
    ),
    "no mean": ContractOptions(mean=(0.0, 0.0, 0.0)),
    "odd anchors": ContractOptions(
        min_sizes=((10.0, 24.7), (50.0, 100.0), (212.3, 411.0)), variances=(0.13, 0.17)
    ),
    "relu": ContractOptions(activation_slope=0.0),
}  # fmt: skip


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory, seeded_state: Callable[..., Any]) -> Callable[..., Detector]:
    """`load(options, landmarks=5)` gives a detector with seeded weights under that contract."""

    def loaded(options: ContractOptions, landmarks: int = 5) -> Detector:
        path: Path = tmp_path_factory.mktemp("net") / "net.pth"
        slope = 0.1 if options.activation_slope is None else options.activation_slope
        torch.save(seeded_state(landmarks=landmarks, slope=slope), path)
        return detectors.load(path, options)

    return loaded


def photograph(size: Size) -> np.ndarray:
    """Strong colours up to the very edge: uint8 [1, H, W, 3], RGB."""
    random = np.random.default_rng(21)
    coarse = random.integers(0, 256, (size.height // 8, size.width // 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[None]


def reference(detector: Detector, size: Size, head: Head, image: np.ndarray) -> list[np.ndarray]:
    """The untouched network in float64 with preprocessing, softmax and SSD decoding written out here."""
    contract = detector.contract
    ordered = image[..., ::-1] if contract.channel_order is ChannelOrder.BGR else image
    x = (ordered.astype(np.float64) - np.array(contract.mean)) * np.array(contract.scale)
    with torch.inference_mode():
        levels = copy.deepcopy(detector.network).double()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))

    def by_prior(part: str, width: int) -> np.ndarray:
        maps = [getattr(level, part).numpy()[0].transpose(1, 2, 0).reshape(-1, width) for level in levels]
        return np.concatenate(maps)

    loc, conf, landm = by_prior("loc", 4), by_prior("conf", 2), by_prior("landm", 2 * contract.landmarks)
    conf = np.exp(conf - conf.max(1, keepdims=True))
    conf /= conf.sum(1, keepdims=True)
    if head is Head.RAW:
        return [loc[None], conf[None], landm[None]]
    centre, side, (v0, v1) = *anchors(detector, size), contract.variances
    centres, halves = centre + loc[:, :2] * v0 * side, side * np.exp(loc[:, 2:] * v1) / 2
    points = centre[:, None] + landm.reshape(len(centre), -1, 2) * v0 * side[:, None]
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    return [boxes[None], conf[None, :, 1], points.reshape(1, len(points), -1)]


def anchors(detector: Detector, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Prior centres [N, 2] and sides [N, 1], float64."""
    found = [
        (x + 0.5, y + 0.5, stride, side)
        for stride, sides in zip(detector.contract.strides, detector.contract.min_sizes, strict=True)
        for y in range(-(-size.height // stride))
        for x in range(-(-size.width // stride))
        for side in sides
    ]
    x, y, stride, side = np.array(found).T
    return np.stack([x * stride, y * stride], axis=1), side[:, None]


def on_border(detector: Detector, size: Size) -> np.ndarray:
    """bool [N]: the priors within `RING` cells of an edge of their level."""
    flags = []
    for stride, sides in zip(detector.contract.strides, detector.contract.min_sizes, strict=True):
        rows, columns = -(-size.height // stride), -(-size.width // stride)
        edge = np.ones((rows, columns), bool)
        edge[RING:-RING, RING:-RING] = False
        flags.append(np.repeat(edge.reshape(-1), len(sides)))
    return np.concatenate(flags)


def exported(detector: Detector, size: Size, head: Head, image: np.ndarray) -> list[np.ndarray]:
    model = _rewrites.ImageModel(detector, size, head).double().eval()
    with torch.inference_mode():
        return [t.numpy() for t in model(torch.from_numpy(image.transpose(0, 3, 1, 2).astype(np.float64)))]


def relative_error(found: list[np.ndarray], wanted: list[np.ndarray], where: Any) -> list[float]:
    """By output: the largest difference at some priors over the largest value of the output."""
    return [
        float(np.abs(f - w)[:, where].max() / np.abs(w).max()) for f, w in zip(found, wanted, strict=True)
    ]  # fmt: skip


TOLERANCE = 3e-6
"""The folded weights are rounded to float32 once; a dozen layers amplify that a little."""


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
@pytest.mark.parametrize("name", CONTRACTS)
def test_image_model_is_the_network(load, name, head):
    detector = load(CONTRACTS[name])
    image = photograph(SQUARE)
    found, wanted = exported(detector, SQUARE, head, image), reference(detector, SQUARE, head, image)
    assert [f.shape for f in found] == [w.shape for w in wanted]
    border = on_border(detector, SQUARE)
    assert 0.1 < border.mean() < 1
    assert max(relative_error(found, wanted, border)) < TOLERANCE
    assert max(relative_error(found, wanted, ~border)) < TOLERANCE


@pytest.mark.parametrize("head", [h for h in Head if h is h.traced])
@pytest.mark.parametrize("landmarks", [5, 10])
@pytest.mark.parametrize("size", ["96x224", "224x96", "32x32", "8x8", "40x72", "136x120"])
def test_sizes_and_numbers_of_landmarks(load, size, landmarks, head):
    height, width = map(int, size.split("x"))
    detector, shape = load(ContractOptions(), landmarks), Size(height=height, width=width)
    image = photograph(shape)
    found, wanted = exported(detector, shape, head, image), reference(detector, shape, head, image)
    assert [f.shape for f in found] == [w.shape for w in wanted]
    assert [o.shape for o in _rewrites.outputs_of(detector.contract, shape, head, None)] == [f.shape for f in found]
    assert max(relative_error(found, wanted, slice(None))) < TOLERANCE


def test_doubled_and_cut_is_nearest_interpolation_to_the_finer_size():
    """For every number of rows that a side of up to 4096 px can have, and both numbers of finer rows above it."""
    for n in range(1, 513):
        for m in (2 * n - 1, 2 * n):
            rows = torch.arange(n, dtype=torch.float32).reshape(1, 1, n, 1)
            published = functional.interpolate(rows, size=(m, 1), mode="nearest")
            assert published.flatten().tolist() == [i * n // m for i in range(m)] == [i // 2 for i in range(m)]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("columns", [1, 2, 5, 10])
def test_a_doubling_pyramid_is_the_published_one(rows, columns):
    cells = [(rows, columns)]
    while len(cells) < 4:
        cells.append((-(-cells[-1][0] // 2), -(-cells[-1][1] // 2)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        pyramid = FeaturePyramid([3, 4, 5, 6], 8, 0.1).eval()
        maps = [torch.randn(1, c, *size) for c, size in zip((3, 4, 5, 6), cells, strict=True)]
    wrapped = _rewrites.double_coarse_maps(nn.Sequential(pyramid), [*cells, (1, 1)])  # as with a level beyond it
    assert isinstance(wrapped[0], _rewrites.DoublingPyramid)
    with torch.inference_mode():
        for found, wanted in zip(wrapped(maps), pyramid(maps), strict=True):
            assert torch.equal(found, wanted)


class ScalingPyramid(nn.Module):
    """A pyramid as it can be where every level is just half as large as the finer one."""

    def __init__(self, pyramid: FeaturePyramid, _cells: Any) -> None:
        super().__init__()
        self.laterals, self.merges = pyramid.laterals, pyramid.merges

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        out = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(out) - 2, -1, -1):
            out[i] = self.merges[i](out[i] + functional.interpolate(out[i + 1], scale_factor=2.0, mode="nearest"))
        return out


@pytest.mark.parametrize("size", ["160x160", "32x96"])
def test_where_levels_are_halves_the_graph_is_that_of_a_doubling_alone(detector, monkeypatch, tmp_path, size):
    height, width = map(int, size.split("x"))
    for name in ("cut", "plain"):
        _pivot.write(detector, Size(height=height, width=width), Head.DECODED, 17, tmp_path / f"{name}.onnx")
        monkeypatch.setattr(_rewrites, "DoublingPyramid", ScalingPyramid)
    assert (tmp_path / "cut.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_a_mean_folded_into_the_first_bias_would_be_seen_at_the_border(load):
    """The tempting rewrite is wrong within reach of the padding: this check can fail."""
    detector = load(ContractOptions())
    image = photograph(SQUARE)
    model = _rewrites.ImageModel(detector, SQUARE, Head.RAW).double().eval()
    conv = next(m for m in model.network.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        conv.bias -= (conv.weight * model.mean).sum(dim=(1, 2, 3))
        model.mean.zero_()
        found = [t.numpy() for t in model(torch.from_numpy(image.transpose(0, 3, 1, 2).astype(np.float64)))]
    wanted = reference(detector, SQUARE, Head.RAW, image)
    assert max(relative_error(found, wanted, on_border(detector, SQUARE))) > 1000 * TOLERANCE


def test_the_network_given_is_left_as_it_was(load):
    detector = load(CONTRACTS["rgb scaled"])
    before = copy.deepcopy(detector.network.state_dict())
    kinds = [(name, type(module)) for name, module in detector.network.named_modules()]
    exported(detector, SQUARE, Head.DECODED, photograph(SQUARE))
    after = detector.network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [(name, type(module)) for name, module in detector.network.named_modules()] == kinds
    assert not detector.network.training


def test_folding_leaves_no_batch_norm_and_computes_the_same(detector):
    folded = _rewrites.fold_batch_norms(detector.network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in detector.network.modules())
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 60
    with torch.inference_mode():
        wanted, found = copy.deepcopy(detector.network).double()(x), folded.double()(x)
    for a, b in zip(wanted, found, strict=True):
        for w, f in zip(a[:3], b[:3], strict=True):  # it has no mesh code
            assert float((w - f).abs().max()) <= TOLERANCE * float(w.abs().max())


def test_a_batch_norm_that_follows_no_convolution_is_refused_by_name():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="without a convolution before it: 2"):
        _rewrites.fold_batch_norms(net)


def test_rgb_weights_are_the_network_s_own_where_nothing_must_change(load):
    options = dataclasses.replace(CONTRACTS["rgb"], scale=(1.0, 1.0, 1.0))
    detector = load(options)
    rewritten = _rewrites.accept_rgb(detector.network, detector.contract)
    assert torch.equal(rewritten.backbone.stem.conv.weight, detector.network.backbone.stem.conv.weight)
    bgr = _rewrites.accept_rgb(detector.network, dataclasses.replace(detector.contract, channel_order=ChannelOrder.BGR))
    assert torch.equal(bgr.backbone.stem.conv.weight, detector.network.backbone.stem.conv.weight[:, [2, 1, 0]])
