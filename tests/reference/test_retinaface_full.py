"""The RetinaFace of the paper against a forward pass written here, from the keys of its state dict, in float64.

Nothing of `facex.reference`'s networks is used for the expected values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from facex.errors import CheckpointError, UsageError
from facex.reference import checkpoint, families, geometry
from facex.reference import detector as detectors
from facex.reference.backbones.resnet import DEPTHS
from facex.reference.families import retinaface_full
from facex.reference.families.retinaface_full import STRIDES, RetinaFaceFull
from facex.types import ContractOptions, Head, Size

WIDTH, LANDMARKS, MESH = 16, 4, 7
ANCHORS = (3, 2, 1, 3, 2)
SIZES = tuple(tuple(float(4 * stride * (i + 1)) for i in range(count)) for stride, count in zip(STRIDES, ANCHORS))  # noqa: B905
VARIANCES = (0.3, 0.4)
SIZE = Size(height=96, width=160)
"""Its coarsest map would have one row and a half, and two columns and a half."""
OPTIONS = ContractOptions(min_sizes=SIZES, variances=VARIANCES)

State = dict[str, Tensor]


def network(depth: int = 18, *, width: int = WIDTH, cascade: bool = True, mesh: int = MESH) -> RetinaFaceFull:
    variance = 0.2 if cascade else None
    return RetinaFaceFull(depth, width, ANCHORS, LANDMARKS, 0.0, size_variance=variance, mesh=mesh)


@pytest.fixture(scope="module")
def state() -> State:
    """Random weights, and batch norms whose four vectors all matter."""
    made = network()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        for module in made.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 0.9)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.9, 1.6)
        for head in (made.box_heads, made.first_box_heads):  # no box outgrows the numbers
            for level in head:
                level.weight.mul_(0.02)
    return made.state_dict()


def without(state: State, *parts: tuple[str, ...]) -> State:
    return {key: value for key, value in state.items() if not key.startswith(sum(parts, ()))}


class ByHand:
    """The forward pass over a plain state dict."""

    def __init__(self, state: State, slope: float) -> None:
        self.state = {k: v.double() for k, v in state.items()}
        self.slope = slope

    def act(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * self.slope)

    def conv_norm(self, x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{conv}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance, gain, offset = (
            self.state[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * gain + offset

    def unit(self, x: Tensor, key: str, stride: int = 1) -> Tensor:
        return self.conv_norm(x, f"{key}.conv", f"{key}.bn", stride)

    def resnet18(self, x: Tensor) -> list[Tensor]:
        x = self.conv_norm(x, "backbone.conv1", "backbone.bn1", 2).clamp(min=0)
        x = functional.max_pool2d(functional.pad(x, (1, 1, 1, 1), value=float("-inf")), 3, 2)
        maps = []
        for stage in (1, 2, 3, 4):
            for i in (0, 1):
                key, before, stride = f"backbone.layer{stage}.{i}", x, 2 if stage > 1 and i == 0 else 1
                x = self.conv_norm(x, f"{key}.conv1", f"{key}.bn1", stride).clamp(min=0)
                x = self.conv_norm(x, f"{key}.conv2", f"{key}.bn2")
                if stride == 2:
                    before = self.conv_norm(before, f"{key}.downsample.0", f"{key}.downsample.1", 2)
                x = (x + before).clamp(min=0)
            maps.append(x)
        return maps

    def pyramid(self, maps: list[Tensor]) -> list[Tensor]:
        found = [self.act(self.unit(x, f"pyramid.laterals.{i}")) for i, x in enumerate(maps)]
        for i in (2, 1, 0):
            (rows, columns), (height, width) = found[i + 1].shape[2:], found[i].shape[2:]
            y, x = ([k * n // m for k in range(m)] for n, m in ((rows, height), (columns, width)))
            enlarged = found[i + 1][:, :, y][:, :, :, x]
            found[i] = self.act(self.unit(found[i] + enlarged, f"pyramid.merges.{i}"))
        return [*found, self.act(self.unit(maps[-1], "coarsest", 2))]

    def context(self, x: Tensor, key: str) -> Tensor:
        shared = self.act(self.unit(x, f"{key}.shared"))
        seven = self.unit(self.act(self.unit(shared, f"{key}.middle7")), f"{key}.conv7")
        return torch.cat([self.unit(x, f"{key}.conv3"), self.unit(shared, f"{key}.conv5"), seven], 1).clamp(min=0)

    def head(self, x: Tensor, name: str, level: int, values: int) -> np.ndarray[Any, Any]:
        """[N, values] of one level."""
        key = f"{name}.{level}"
        out = functional.conv2d(x, self.state[f"{key}.weight"], self.state[f"{key}.bias"])
        return out[0].permute(1, 2, 0).reshape(-1, values).numpy()

    def __call__(self, x: Tensor) -> dict[str, list[np.ndarray[Any, Any]]]:
        """Head -> what it gives on each level."""
        found: dict[str, list[np.ndarray[Any, Any]]] = {}
        values = {"class_heads": 2, "box_heads": 4, "landmark_heads": 2 * LANDMARKS, "mesh_heads": MESH}
        for level, pyramid_map in enumerate(self.pyramid(self.resnet18(x))):
            feature = self.context(pyramid_map, f"contexts.{level}")
            if f"refined_contexts.{level}.conv3.conv.weight" in self.state:
                found.setdefault("first", []).append(self.head(feature, "first_box_heads", level, 4))
                feature = self.context(feature, f"refined_contexts.{level}")
            for name, count in values.items():
                if f"{name}.{level}.weight" in self.state:
                    found.setdefault(name, []).append(self.head(feature, name, level, count))
        return found


def decoded_in_steps(found: dict[str, list[np.ndarray[Any, Any]]], size: Size) -> dict[str, np.ndarray[Any, Any]]:
    """Boxes and landmarks, with the anchors of a cascade regressed first, prior by prior in float64."""
    anchors = []
    for stride, sides in zip(STRIDES, SIZES, strict=True):
        for row in range(-(-size.height // stride)):
            for column in range(-(-size.width // stride)):
                anchors += [((column + 0.5) * stride, (row + 0.5) * stride, side, side) for side in sides]
    place = np.array(anchors)
    for name in ("first", "box_heads"):
        if name == "box_heads":
            points = np.concatenate(found["landmark_heads"]).reshape(len(place), LANDMARKS, 2)
            landmarks = place[:, None, :2] + points * VARIANCES[0] * place[:, None, 2:]
        if name in found:
            offsets = np.concatenate(found[name])
            centre = place[:, :2] + offsets[:, :2] * VARIANCES[0] * place[:, 2:]
            place = np.concatenate([centre, place[:, 2:] * np.exp(offsets[:, 2:] * VARIANCES[1])], axis=1)
    boxes = np.concatenate([place[:, :2] - place[:, 2:] / 2, place[:, :2] + place[:, 2:] / 2], axis=1)
    logits = np.concatenate(found["class_heads"])
    scores = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    return {"boxes": boxes, "scores": scores, "landmarks": landmarks.reshape(len(place), -1)}


@pytest.mark.parametrize(
    ("cascade", "mesh", "size"),
    [
        (False, False, "96x160"),
        (False, True, "96x160"),
        (True, False, "96x160"),
        (True, True, "96x160"),
        (True, True, "40x72"),  # P4 to P6 are rounded up in both directions
        (False, False, "72x120"),
    ],
)
def test_forward_by_hand(
    state: State, draw_photograph: Any, tmp_path: Path, cascade: bool, mesh: bool, size: str
) -> None:
    height, width = map(int, size.split("x"))
    shape = Size(height=height, width=width)
    left_out = (() if cascade else retinaface_full.CASCADE, () if mesh else retinaface_full.MESH)
    given = without(state, *left_out) if any(left_out) else state
    torch.save(given, tmp_path / "a.pth")
    slope = 0.2 if cascade else 0.0
    options = ContractOptions(min_sizes=SIZES, variances=VARIANCES, pyramid_slope=slope)
    loaded = detectors.load(tmp_path / "a.pth", options)
    assert loaded.contract.mesh == (MESH if mesh else 0)
    pixels = np.asarray(draw_photograph(3, width, height))

    actual = detectors.ReferenceSession(loaded, shape, Head.DECODED, threads=1)({"image": pixels[None]})

    bgr = pixels[:, :, ::-1].astype(np.float64) - (104, 117, 123)
    found = ByHand(given, slope)(torch.from_numpy(bgr.transpose(2, 0, 1).copy())[None])
    expected = decoded_in_steps(found, shape)
    if mesh:
        expected["mesh"] = np.concatenate(found["mesh_heads"])
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].shape == (1, *value.shape)
        assert actual[name].dtype == np.float32
        assert np.abs(actual[name][0] - value).max() <= 1e-4 * np.abs(value).max(), name


def test_the_raw_head_decodes_to_the_decoded_one(state: State, draw_photograph: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")
    loaded = detectors.load(tmp_path / "a.pth", OPTIONS)
    image = {"image": np.asarray(draw_photograph(3, SIZE.width, SIZE.height))[None]}
    raw, decoded = (
        detectors.ReferenceSession(loaded, SIZE, head, threads=1)(image) for head in (Head.RAW, Head.DECODED)
    )
    assert list(raw) == ["loc", "conf", "landm", "mesh"]
    for name, value in zip(decoded, detectors.decoded(raw, Head.RAW, loaded.contract, SIZE), strict=False):
        np.testing.assert_array_equal(decoded[name][0], value)
    np.testing.assert_array_equal(raw["mesh"], decoded["mesh"])


@pytest.mark.parametrize("seed", range(3))
def test_composed_offsets_decode_as_two_steps_do(seed: int) -> None:
    """With the decoder of everything else, and the regressed boxes as the anchors of the second step."""
    random = np.random.default_rng(seed)
    priors, rows, columns = 3, 4, 5
    count = priors * rows * columns

    def maps(values: int) -> np.ndarray[Any, Any]:
        return random.normal(0, 1, (1, priors * values, rows, columns)).astype(np.float32)

    def flat(raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return raw.transpose(0, 2, 3, 1).reshape(count, -1)

    first, loc, landm = maps(4), maps(4), maps(2 * LANDMARKS)
    anchors = random.uniform(10, 60, (count, 4)).astype(np.float32)
    whole = retinaface_full.compose(
        *map(torch.from_numpy, (first, loc, landm)), landmarks=LANDMARKS, size_variance=VARIANCES[1]
    )
    actual = geometry.decode(*(flat(m.numpy()) for m in whole), anchors, VARIANCES)
    corners, _ = geometry.decode(flat(first), flat(landm), anchors, VARIANCES)
    regressed = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    expected = geometry.decode(flat(loc), flat(landm), regressed, VARIANCES)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-3)


# --- what is assumed, and what keys and shapes prove


def test_priors_are_those_of_the_paper(tmp_path: Path) -> None:
    made = RetinaFaceFull(18, 4, (3,) * 5, 5, 0.0, size_variance=None, mesh=0)
    torch.save(made.state_dict(), tmp_path / "a.pth")
    contract = detectors.load(tmp_path / "a.pth", ContractOptions()).contract
    table = (
        (16, 20.16, 25.40), (32, 40.32, 50.80), (64, 80.63, 101.59), (128, 161.26, 203.19), (256, 322.54, 406.37),
    )  # fmt: skip
    np.testing.assert_allclose(contract.min_sizes, table, atol=0.011)  # it prints 161.27 as 161.26
    size = Size(height=640, width=640)
    assert [rows for rows, _ in geometry.cells(contract, size)] == [160, 80, 40, 20, 10]
    assert geometry.priors(contract, size).shape == (102300, 4)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("cascade", "mesh"), [(False, 0), (True, 144)])
def test_structure(depth: int, cascade: bool, mesh: int) -> None:
    with torch.device("meta"):
        state = network(depth, width=20, cascade=cascade, mesh=mesh).state_dict()
    found = retinaface_full.recognise({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})
    assert isinstance(found, families.Structure)
    assert (found.backbone, found.anchors_per_cell) == (f"resnet{depth}", ANCHORS)
    assert (found.landmarks, found.mesh, found.strides) == (LANDMARKS, mesh, (4, 8, 16, 32, 64))
    assert found.channels == {"depth": depth, "width": 20, "cascade": cascade}
    assert found.layout == f"resnet{depth}{' cascade' * cascade}{' mesh' * (mesh > 0)}"


def test_what_is_assumed(state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")
    loaded = detectors.load(tmp_path / "a.pth", ContractOptions(min_sizes=SIZES))
    assert loaded.assumed == ("variances", "channel_order", "mean", "scale", "pyramid_slope")
    assert (loaded.contract.activation_slope, loaded.contract.pyramid_slope) == (0.0, 0.0)
    with pytest.raises(UsageError, match=r"\[3, 3, 3, 3, 3\] prior sizes by level, .* have \[3, 2, 1, 3, 2\]"):
        detectors.load(tmp_path / "a.pth", ContractOptions())
    with pytest.raises(UsageError, match="84 is not a multiple of 8"):
        detectors.check_size(Size(height=84, width=64), loaded.contract)


def test_heads_that_levels_share_are_five_equal_ones(tmp_path: Path) -> None:
    made = RetinaFaceFull(18, 8, (3,) * 5, 5, 0.0, size_variance=None, mesh=0)
    for heads in (made.class_heads, made.box_heads, made.landmark_heads):
        for i in range(1, 5):
            heads[i] = heads[0]
    torch.save(made.state_dict(), tmp_path / "a.pth")
    loaded = detectors.load(tmp_path / "a.pth", ContractOptions())
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for actual, expected in zip(loaded.network(x), made.eval()(x), strict=True):
            torch.testing.assert_close(actual.conf, expected.conf)


def replaced(state: State, key: str, *shape: int) -> State:
    return {**state, key: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: without(s, ("refined_contexts.4.",)), r"resnet18 cascade mesh keys.*missing refined_contexts\.4\."),
        (lambda s: without(s, ("first_box_heads.0.bias",)), r"missing first_box_heads\.0\.bias —"),
        (lambda s: without(s, ("mesh_heads.2.",)), r"missing mesh_heads\.2\.bias, mesh_heads\.2\.weight —"),
        (lambda s: without(s, ("coarsest.bn.running_var",)), r"missing coarsest\.bn\.running_var —"),
        (lambda s: {**s, "mesh_heads.5.weight": s["mesh_heads.4.weight"]}, r"unexpected mesh_heads\.5\.weight —"),
        (lambda s: replaced(s, "mesh_heads.1.weight", 3, WIDTH, 1, 1), r"mesh_heads\.1\.weight is \[3, 16, 1, 1\]"),
        (lambda s: replaced(s, "pyramid.laterals.0.conv.weight", 18, 64, 1, 1), r"laterals\.0\.conv\.weight is \[18"),
        (lambda s: replaced(s, "first_box_heads.0.weight", 4, WIDTH, 1, 1), r"expected \[12, 16, 1, 1\]"),
    ],
)
def test_refusals(state: State, damage: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"closest is retinaface_full .*{words}"):
        checkpoint.recognise(Path("given.pth"), damage(state))


def test_a_width_that_context_modules_cannot_halve_twice_is_refused() -> None:
    with torch.device("meta"):
        made = network(width=18)
    found = retinaface_full.recognise(made.state_dict())
    assert isinstance(found, families.Mismatch)
    assert found.shapes
