"""Prior sizes and variances from heads that are encoded, here, by the definition of the coding."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from facex.reference import geometry
from facex.reference.families import LevelOutput, Structure
from facex.reference.probe import anchors
from facex.types import ChannelOrder, Contract, Size

SIZE = Size(height=320, width=320)
A1 = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
SMALL = ((10.0, 20.0), (32.0, 64.0), (128.0, 256.0))
FIVE = np.array([(0.3, 0.38), (0.7, 0.38), (0.5, 0.58), (0.34, 0.76), (0.66, 0.76)])
FIVE = (FIVE - FIVE.mean(0)) * anchors.SPREAD / np.sqrt(FIVE.var(0).sum())
"""Points of a face about its centre, in sides of its box, as far apart as those of real annotations."""


def structure(landmarks: int = 5) -> Structure:
    made: Any = {"family": "retinaface", "backbone": "", "layout": "", "renamed": {}, "channels": {}}
    return Structure(strides=(8, 16, 32), anchors_per_cell=(2, 2, 2), landmarks=landmarks, **made)


def contract(sizes: Any, variances: tuple[float, float], landmarks: int) -> Contract:
    return Contract(
        family="retinaface", backbone="", activation_slope=0.0, strides=(8, 16, 32), min_sizes=sizes,
        variances=variances, landmarks=landmarks, channel_order=ChannelOrder.BGR, mean=(0.0,) * 3, scale=(1.0,) * 3,
    )  # fmt: skip


def heads(
    sizes: Any = A1, variances: tuple[float, float] = (0.1, 0.2), *, landmarks: int = 5, count: int = 24, seed: int = 0
) -> list[LevelOutput]:
    """Raw maps of a perfect detector of faces of 12 to 300 px: each prior within 0.35 IoU of a face is sure of it."""
    random = np.random.default_rng(seed)
    truth = contract(sizes, variances, landmarks)
    priors = geometry.priors(truth, SIZE)
    corners = np.concatenate([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], axis=1)
    layout = FIVE if landmarks == 5 else np.concatenate([FIVE, FIVE * 0.4])
    conf = np.full((count, len(priors), 2), (3.0, -3.0), np.float32)
    loc, landm = (np.zeros((count, len(priors), n), np.float32) for n in (4, 2 * landmarks))
    for i in range(count):
        side = np.exp(random.uniform(np.log(12), np.log(300), 40))
        centre = random.uniform(0, 320, (40, 2))
        boxes = np.concatenate([centre - side[:, None] / 2, centre + side[:, None] / 2], axis=1).astype(np.float32)
        scale = side * np.exp(random.normal(0, 0.05, 40))
        points = (centre[:, None] + layout * scale[:, None, None]).astype(np.float32)
        iou = geometry.iou_matrix(corners, boxes)
        best = iou.argmax(1)
        hit = iou.max(1) >= 0.35
        loc[i], landm[i] = geometry.encode(boxes[best], points[best], priors, variances)
        loc[i] += random.normal(0, 0.05, loc[i].shape)
        conf[i, hit] = (-3.0, 3.0)
    return maps(conf, loc, landm)


def maps(*flat: Any) -> list[LevelOutput]:
    """[B, N, C] in the order of the priors -> the maps of the levels."""
    levels, start = [], 0
    for stride in (8, 16, 32):
        side = 320 // stride
        stop = start + side * side * 2
        parts = [torch.from_numpy(x[:, start:stop]).reshape(len(x), side, side, -1).permute(0, 3, 1, 2) for x in flat]
        levels.append(LevelOutput(*(part.contiguous() for part in parts)))
        start = stop
    return levels


def judged(levels: list[LevelOutput], landmarks: int = 5, stated: float | None = None) -> Any:
    shape = structure(landmarks)
    (sizes, variances), readings = anchors.judge(anchors.measure(levels, shape), shape, [A1], stated, "")
    return sizes, variances, readings


@pytest.mark.parametrize("sizes", [A1, SMALL])
@pytest.mark.parametrize("variances", [(0.1, 0.2), (0.2, 0.2), (0.1, 0.1)])
def test_known_sets_and_variances_are_found(sizes: Any, variances: Any) -> None:
    found, variance, readings = judged(heads(sizes, variances))
    assert (found.value, found.decided) == (sizes, True)
    assert (variance.value, variance.decided) == (variances, True)
    assert readings[0].cost == 0.0
    assert readings[1].cost >= 1.0


@pytest.mark.parametrize("factor", [0.75, 1.25, 1.5])
def test_sizes_that_nobody_has_published_are_measured(factor: float) -> None:
    true = tuple(tuple(factor * size for size in level) for level in ((16, 32), (64, 128), (200, 280)))
    found, _, _ = judged(heads(true))
    assert found.decided
    for level, expected in zip(found.value, true, strict=True):
        assert level == pytest.approx(expected, rel=0.1)


def test_sizes_that_were_not_seen_are_not_made_up() -> None:
    true = ((24.0, 48.0), (96.0, 192.0), (384.0, 2000.0))
    found, variances, _ = judged(heads(true))
    assert not found.decided
    assert not variances.decided
    assert "24" in found.text or "25" in found.text


def test_ten_points_leave_the_factor_of_two_to_known_sets() -> None:
    found, variances, _ = judged(heads(landmarks=10), landmarks=10)
    assert (found.value, variances.value) == (A1, (0.1, 0.2))
    assert found.decided


@pytest.mark.parametrize("count", [1, 4])
def test_few_photographs_are_too_few(count: int) -> None:
    found, variances, readings = judged(heads(count=count))
    assert not found.decided
    assert not variances.decided
    assert readings == []


def test_photographs_brought_closer_fill_only_what_is_missing() -> None:
    slots = anchors.measure(heads(((24.0, 48.0), (96.0, 192.0), (384.0, 2000.0))), structure())
    assert anchors.unseen(slots)
    assert not anchors.unseen(anchors.measure(heads(), structure())[:3])
    other = anchors.measure(heads(seed=1), structure())
    merged = anchors.filled(slots, other)
    assert [a is b for a, b in zip(merged, slots, strict=True)] == [s.pairs >= anchors.MIN_SLOT_PAIRS for s in slots]
    few = anchors.measure(heads(((24.0, 48.0), (96.0, 192.0), (384.0, 2000.0)), count=4), structure())
    assert not anchors.unseen(few)  # nothing is measured closer where there is too little to begin with


def test_no_faces_say_nothing() -> None:
    levels = heads()
    empty = [LevelOutput(conf=torch.zeros_like(x.conf), loc=x.loc, landm=x.landm) for x in levels]
    found, variances, _ = judged(empty)
    assert not found.decided
    assert not variances.decided


def test_offsets_of_noise_say_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = [
        LevelOutput(
            conf=torch.randn(x.conf.shape, generator=generator),
            loc=torch.randn(x.loc.shape, generator=generator),
            landm=torch.randn(x.landm.shape, generator=generator),
        )
        for x in heads()
    ]
    found, variances, _ = judged(noise)
    assert not found.decided
    assert not variances.decided


def test_the_bias_of_the_smallest_priors_is_in_no_other_size() -> None:
    slots = anchors.measure(heads(), structure())
    far = [dataclasses.replace(s, product=s.product * 1.3) for s in slots]
    (found, _), _ = anchors.judge(far, structure(), [A1], None, "")
    assert found.value != A1


@pytest.mark.parametrize(
    ("name", "one", "other", "alike"),
    [
        ("min_sizes", A1, A1, True),
        ("min_sizes", A1, ((17.0, 33.0), (64.0, 128.0), (256.0, 512.0)), True),
        ("min_sizes", A1, SMALL, False),
        ("min_sizes", A1, ((16.0, 32.0, 64.0),), False),
        ("variances", (0.1, 0.2), (0.11, 0.2), True),
        ("variances", (0.1, 0.2), (0.2, 0.2), False),
    ],
)
def test_what_counts_as_the_same(name: str, one: Any, other: Any, alike: bool) -> None:
    assert anchors.agrees(name, one, other) is alike
