"""Channel order, mean and scale from the first batch norm, and from the sureness of a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from facex.reference.families import LevelOutput
from facex.reference.probe import colour
from facex.reference.probe.colour import Compared, Preprocessing
from facex.reference.probe.subject import FirstLayer
from facex.types import ChannelOrder

BGR, RGB = ChannelOrder.BGR, ChannelOrder.RGB
CAFFE, ONE = (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)
IMAGENET, DEVIATIONS = (123.675, 116.28, 103.53), (1 / 58.395, 1 / 57.12, 1 / 57.375)


def pictures() -> torch.Tensor:
    """float32 [8, 3, 96, 96], RGB, 0-255: smooth random fields of the mean colour and contrast of photographs."""
    random = np.random.default_rng(5)
    smooth = [
        nn.functional.avg_pool2d(torch.from_numpy(random.normal(size=(8, 1, 160, 160))), k, 1) for k in (3, 9, 33)
    ]
    noise = sum(s[..., :96, :96] / s.std() for s in smooth)
    own = torch.from_numpy(random.normal(size=(8, 3, 1, 1)))
    field = noise / noise.std() * 0.93 + own / own.std() * 0.35
    field = (field - field.mean((0, 2, 3), keepdim=True)) / field.std()
    return (torch.tensor([119.0, 107.0, 102.0]).view(1, 3, 1, 1) + 70 * field).float()


def trained(preprocessing: Preprocessing, *, bias: bool = False) -> FirstLayer:
    """A first layer whose batch norm has seen those pictures."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        convolution, norm = nn.Conv2d(3, 16, 3, 2, bias=bias), nn.BatchNorm2d(16, momentum=None)
        images = pictures() if preprocessing.channel_order is RGB else pictures().flip(1)
        mean, scale = (torch.tensor(x).view(1, 3, 1, 1) for x in (preprocessing.mean, preprocessing.scale))
        norm.train()(convolution((images - mean) * scale))
    return FirstLayer(convolution=convolution.requires_grad_(False), norm=norm.requires_grad_(False))


TRUE = [
    Preprocessing(channel_order=BGR, mean=CAFFE, scale=ONE),
    Preprocessing(channel_order=RGB, mean=CAFFE, scale=ONE),
    Preprocessing(channel_order=RGB, mean=IMAGENET, scale=DEVIATIONS),
    Preprocessing(channel_order=BGR, mean=(0.0,) * 3, scale=ONE),
    Preprocessing(channel_order=RGB, mean=(0.0,) * 3, scale=(1 / 255,) * 3),
    Preprocessing(channel_order=RGB, mean=(127.5,) * 3, scale=(1 / 127.5,) * 3),
]
ASSUMED = TRUE[0]


@pytest.mark.parametrize("true", TRUE, ids=lambda p: f"{p.channel_order}-{p.mean[0]:g}-{p.scale[0]:.3g}")
@pytest.mark.parametrize("bias", [False, True])
def test_preprocessing_is_read_from_the_first_batch_norm(true: Preprocessing, bias: bool) -> None:
    measured = colour.from_weights(trained(true, bias=bias))
    assert measured is not None
    best, judgements, readings = colour.judge(colour.rank(measured, {}, ASSUMED), None)
    assert best.alike(true)
    assert [j.decided for j in judgements] == [True] * 3
    assert readings[0].cost == 0.0


def test_mean_of_the_pictures_is_recovered() -> None:
    measured = colour.from_weights(trained(TRUE[1]))
    assert measured is not None
    assert np.asarray(measured.mean) + CAFFE == pytest.approx([119.0, 107.0, 102.0], abs=1.0)


def test_a_mean_that_nobody_uses_is_undecided() -> None:
    odd = Preprocessing(channel_order=BGR, mean=(60.0, 60.0, 60.0), scale=ONE)
    _, judgements, _ = colour.judge(colour.rank(colour.from_weights(trained(odd)), {}, ASSUMED), None)
    assert not any(j.decided for j in judgements)
    assert "no known preprocessing" in judgements[0].text


def test_a_mean_that_is_stated_is_known() -> None:
    odd = Preprocessing(channel_order=BGR, mean=(60.0, 60.0, 60.0), scale=ONE)
    ranked = colour.rank(colour.from_weights(trained(odd)), {"mean": odd.mean}, ASSUMED)
    best, _, _ = colour.judge(ranked, None)
    assert best.alike(odd)


def test_without_a_batch_norm_the_weights_say_nothing() -> None:
    first = trained(TRUE[0])
    assert colour.from_weights(FirstLayer(convolution=first.convolution, norm=None)) is None
    assert colour.from_weights(None) is None


def test_statistics_that_no_colour_explains_say_nothing() -> None:
    first = trained(TRUE[0])
    assert first.norm is not None
    first.norm.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    assert colour.from_weights(first) is None
    first.norm.reset_running_stats()
    assert colour.from_weights(first) is None


def levels(logits: list[float]) -> list[LevelOutput]:
    """One prior a cell with these logits of a face."""
    face = torch.tensor(logits).view(1, 1, 1, -1)
    return [LevelOutput(conf=torch.cat([torch.zeros_like(face), face], 1), loc=face, landm=face)]


def test_gain_is_a_mean_of_logits() -> None:
    gain, count = colour.gain(levels([3.0, 2.0, -1.0]), levels([1.0, 1.5, -2.0]))
    assert count == 2  # the third is below one half in both
    assert gain == pytest.approx((2.0 + 0.5) / (2 + 10), rel=1e-6)


def compared(best: Preprocessing, others: dict[Preprocessing, float], sure: int = 200) -> Compared:
    return Compared(best=best, gains=others, sure=sure)


REVERSED = Preprocessing(channel_order=RGB, mean=CAFFE[::-1], scale=ONE, usual=False)


@pytest.mark.parametrize(
    ("seen", "order", "decided"),
    [
        (compared(TRUE[0], {REVERSED: 1.5}), BGR, True),
        (compared(REVERSED, {TRUE[0]: 1.5}), RGB, True),  # the weights cannot tell the two apart
        (compared(TRUE[0], {REVERSED: 0.0}), BGR, True),  # grey photographs: as without any
        (compared(TRUE[0], {REVERSED: 1.5}, sure=12), BGR, True),  # no faces: likewise
        (compared(TRUE[1], {TRUE[0]: 1.5}), BGR, False),  # what the weights exclude is surer
    ],
)
def test_photographs_settle_what_weights_leave_open(seen: Compared, order: ChannelOrder, decided: bool) -> None:
    ranked = colour.rank(colour.from_weights(trained(TRUE[0])), {}, ASSUMED)
    best, (judgement, *_), _ = colour.judge(ranked, seen)
    assert (best.channel_order, judgement.decided) == (order, decided)


def test_without_a_batch_norm_photographs_settle_the_order_alone() -> None:
    ranked = colour.rank(None, {}, ASSUMED)
    assert [p.channel_order for p in colour.contenders(ranked)][:2] == [BGR, RGB]
    other = ranked.close[1]
    best, judgements, _ = colour.judge(ranked, compared(other, {ranked.close[0]: 1.0}))
    assert best.channel_order is RGB
    assert [j.decided for j in judgements] == [True, False, False]
    _, judgements, _ = colour.judge(ranked, None)
    assert not any(j.decided for j in judgements)


def test_the_surest_is_chosen_only_where_it_is_clear() -> None:
    weak = {TRUE[0]: levels([1.0] * 100), REVERSED: levels([1.1] * 100)}
    assert colour.compare([TRUE[0], REVERSED], lambda p: weak[p]).best is TRUE[0]
    strong = {TRUE[0]: levels([1.0] * 100), REVERSED: levels([3.0] * 100)}
    assert colour.compare([TRUE[0], REVERSED], lambda p: strong[p]).best is REVERSED
    few = {TRUE[0]: levels([1.0] * 20), REVERSED: levels([3.0] * 20)}
    assert colour.compare([TRUE[0], REVERSED], lambda p: few[p]).best is TRUE[0]


def test_half_a_level_makes_no_difference() -> None:
    one = Preprocessing(channel_order=RGB, mean=(127.5,) * 3, scale=(1 / 127.5,) * 3)
    other = Preprocessing(channel_order=RGB, mean=(127.0,) * 3, scale=(1 / 128,) * 3)
    assert one.alike(other)
    assert not one.alike(TRUE[4])
    assert not TRUE[0].alike(TRUE[1])
