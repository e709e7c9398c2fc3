"""The slope of activations from batch norms around depthwise convolutions, and how it is weighed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from facex.reference.probe import slope
from facex.reference.probe.slope import FromWeights
from facex.reference.probe.subject import Link, Subject

NAME = "activation_slope"


def link(negative_slope: float, seed: int, *, tails: bool = False) -> Link:
    """Batch norms that hold what a million samples have before and after an activation of this slope."""
    generator = torch.Generator().manual_seed(seed)
    channels, count = 48, 10_000
    before, after = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
    convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    with torch.no_grad():
        before.bias.normal_(0.0, 0.7, generator=generator)
        before.weight.uniform_(0.5, 1.5, generator=generator)
        convolution.weight.normal_(0.1, 0.3, generator=generator)
        samples = torch.randn(count, channels, generator=generator)
        if tails:  # mostly off, and far out where it is on
            share = torch.linspace(0.02, 0.4, channels)
            on = (torch.rand(count, channels, generator=generator) < share).float()
            samples = (on - share) / (share * (1 - share)).sqrt()
        passed = nn.functional.leaky_relu(samples * before.weight + before.bias, negative_slope)
        total = convolution.weight.sum((1, 2, 3))
        after.running_mean.copy_(passed.mean(0) * total)
        after.running_var.copy_(passed.var(0) * total**2 + 0.05)
    for module in (before, convolution, after):
        module.requires_grad_(False)
    return Link(before=before, activation=nn.LeakyReLU(negative_slope), convolution=convolution, after=after)


def subject(links: list[Link]) -> Subject:
    made: Any = {"structure": None, "network": nn.Identity(), "norms": (), "own_norms": {}, "first": None}
    return Subject(activations={NAME: tuple(x.activation for x in links)}, links=tuple(links), **made)


@pytest.mark.parametrize("true", [0.0, 0.05, 0.1, 0.2, 0.3])
def test_slope_is_read_from_weights_alone(true: float) -> None:
    found = slope.from_weights(subject([link(true, seed) for seed in range(4)]), NAME)
    assert found is not None
    assert found.reliable
    assert found.slope == pytest.approx(true, abs=0.01)
    assert found.value == true
    # a slope that nobody uses must be confirmed by photographs
    assert slope.judge(NAME, found, {})[0].decided is (true in slope.CONVENTIONAL)
    assert slope.judge(NAME, found, {0.4: 3.0, true: 0.03})[0].decided


def test_channels_that_are_not_gaussian_are_not_relied_on() -> None:
    found = slope.from_weights(subject([link(0.1, seed, tails=True) for seed in range(4)]), NAME)
    assert found is not None
    assert not found.reliable
    assert not slope.judge(NAME, found, {})[0].decided


def test_batch_norms_that_were_never_trained_say_nothing() -> None:
    links = [link(0.1, seed) for seed in range(4)]
    for each in links:
        each.after.reset_running_stats()
    assert slope.from_weights(subject(links), NAME) is None


def test_one_depthwise_convolution_is_too_little() -> None:
    assert slope.from_weights(subject([link(0.1, 0)]), NAME) is None
    assert slope.from_weights(subject([]), NAME) is None


SURE = FromWeights(slope=0.101, spread=0.01, channels=900)
UNSURE = FromWeights(slope=0.13, spread=0.16, channels=900)


@pytest.mark.parametrize(
    ("measured", "divergences", "value", "decided"),
    [
        (SURE, {}, 0.1, True),
        (SURE, {0.0: 0.3, 0.1: 0.04, 0.2: 1.0}, 0.1, True),
        (SURE, {0.0: 0.041, 0.1: 0.04, 0.2: 0.05}, 0.1, True),  # photographs that tell nothing
        (SURE, {0.0: 0.04, 0.1: 0.4, 0.2: 1.0}, 0.1, False),  # they contradict the weights
        (UNSURE, {0.0: 0.03, 0.1: 0.2, 0.2: 1.0}, 0.0, True),
        (UNSURE, {0.0: 0.03, 0.1: 0.035, 0.2: 1.0}, 0.0, False),
        (None, {0.0: 0.03, 0.1: 0.2, 0.2: 1.0}, 0.0, True),
        (None, {0.0: 3.0, 0.1: 9.0, 0.2: 20.0}, 0.0, False),  # far from all of them
        (None, {}, None, False),
    ],
)
def test_weights_and_photographs_are_weighed(measured, divergences, value, decided) -> None:
    judgement, readings = slope.judge(NAME, measured, divergences)
    assert (judgement.value, judgement.decided) == (value, decided)
    assert judgement.text
    assert (judgement.confidence >= 0.5) is decided
    assert [r.cost for r in readings] == sorted(r.cost for r in readings)


def test_a_measured_slope_between_the_usual_ones_is_tried() -> None:
    between = FromWeights(slope=0.151, spread=0.01, channels=900)
    assert slope.candidates(between, None) == (*slope.SLOPES, 0.15)
    assert slope.candidates(None, 0.45) == (*slope.SLOPES, 0.45)
    assert slope.candidates(UNSURE, 0.01) == slope.SLOPES
