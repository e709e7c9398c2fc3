"""Channel order, mean and scale: from the first batch norm alone, and from how sure photographs make the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facex.reference.probe.evidence import Judgement, Reading
from facex.types import ChannelOrder

if TYPE_CHECKING:
    from torch import Tensor

    from facex.reference.families import LevelOutput
    from facex.reference.probe.subject import FirstLayer

FIELDS = ("channel_order", "mean", "scale")
TYPICAL_RGB = (118.0, 108.0, 101.0)
"""Mean colour, 0-255, of the photographs that detectors are trained on: within 3 of it in eight checkpoints."""
TYPICAL_DEVIATION = 65.0
"""Of their pixels, 0-255, with a correlation of 0.95 between neighbours and 0.9 between channels."""
NEIGHBOURS, CHANNELS = 0.95, 0.9
CONTRAST = 1.14
"""Deviation after the first convolution over what the three figures above give: 1.09 to 1.18 in eight checkpoints."""
COLOUR_STEP = 8.0
"""Levels of mean colour that make a difference of one decision; red and blue of photographs differ by twice that."""
SCALE_STEP = 0.3
"""The same for the logarithm of the scale; scales in use are a factor of 2 apart."""
MAX_COST = 2.0
"""Farther off, no known preprocessing explains the first batch norm."""
MAX_RESIDUAL = 0.25
"""Share of the stored means that no mean colour explains. Up to 0.05 in trained networks: they are linear in it."""
MIN_SURE, MIN_LOGIT = 50, 0.25
"""Priors that score above 0.5, and the gain of logit a prior, from which photographs tell two preprocessings apart."""
MAX_CONTENDERS = 4
MIN_WARMTH = 4.0
"""Levels by which photographs must be redder than blue to tell the order; those of people are by 10 to 20. Grey ones,
and those with a cast, look as natural with red and blue exchanged."""
_SURE, _LOW, _HIGH = 0.5, 0.2, 1 - 1e-5
_PRIOR_COUNT = 10
ALIKE_LEVELS = 1.5
"""Preprocessings that differ by less than this at every pixel value, 0-255, behave alike."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to RGB pixels before the network; mean and scale in its own channel order.

    Attributes:
        usual: whether mean and order are used together in published code.
    """

    channel_order: ChannelOrder
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]
    usual: bool = True

    @property
    def values(self) -> dict[str, Any]:
        """As fields of a contract."""
        return {name: getattr(self, name) for name in FIELDS}

    def alike(self, other: Preprocessing) -> bool:
        """Whether no pixel of either is more than `ALIKE_LEVELS` off in the other."""
        if self.channel_order is not other.channel_order:
            return False
        ends = np.array([[0.0], [255.0]])
        a, b = ((ends - p.mean) * p.scale for p in (self, other))
        return bool((np.abs(a - b) <= ALIKE_LEVELS * np.asarray(self.scale)).all())


def known(stated: Mapping[str, Any]) -> list[Preprocessing]:
    """What detectors are trained with in both channel orders, and what the user states.

    Args:
        stated: of `FIELDS`, those that the user states.
    """
    inception, unit = (1 / 127.5,) * 3, (1 / 255,) * 3
    caffe, imagenet = (104.0, 117.0, 123.0), (123.675, 116.28, 103.53)
    deviations = (1 / 58.395, 1 / 57.12, 1 / 57.375)
    one = (1.0, 1.0, 1.0)
    bgr, rgb = ChannelOrder.BGR, ChannelOrder.RGB
    found = [
        Preprocessing(channel_order=bgr, mean=caffe, scale=one),
        Preprocessing(channel_order=rgb, mean=caffe, scale=one),
        Preprocessing(channel_order=rgb, mean=caffe[::-1], scale=one, usual=False),
        Preprocessing(channel_order=bgr, mean=caffe[::-1], scale=one, usual=False),
        Preprocessing(channel_order=rgb, mean=imagenet, scale=deviations),
        Preprocessing(channel_order=bgr, mean=imagenet, scale=deviations),
        Preprocessing(channel_order=bgr, mean=imagenet[::-1], scale=deviations[::-1], usual=False),
    ]
    for mean, scale in (
        ((0.0,) * 3, one), ((127.5,) * 3, one), ((127.5,) * 3, inception), ((127.5,) * 3, (1 / 128,) * 3),
        ((127.0,) * 3, (1 / 128,) * 3), ((0.0,) * 3, unit),
    ):  # fmt: skip
        found += [Preprocessing(channel_order=order, mean=mean, scale=scale) for order in (bgr, rgb)]
    if stated:
        found += [Preprocessing(**{**p.values, **stated}, usual=False) for p in found]
    return list({tuple(p.values.values()): p for p in reversed(found)}.values())[::-1]


@dataclass(frozen=True, kw_only=True)
class FromWeights:
    """What the first batch norm says of the images of the training.

    Attributes:
        mean: float, 3, of the network's input.
        contrast: of its input over that of photographs of 0-255.
        residual: share of the stored means that `mean` leaves unexplained.
    """

    mean: tuple[float, float, float]
    contrast: float
    residual: float

    def cost(self, preprocessing: Preprocessing) -> tuple[float, float]:
        """Levels of mean colour, 0-255, and logarithm of the scale, between this preprocessing and the training's."""
        colour = np.asarray(self.mean) / preprocessing.scale + preprocessing.mean
        typical = TYPICAL_RGB if preprocessing.channel_order is ChannelOrder.RGB else TYPICAL_RGB[::-1]
        levels = float(np.sqrt(np.mean((colour - typical) ** 2)))
        return levels, abs(math.log(self.contrast / (CONTRAST * float(np.mean(preprocessing.scale)))))


def from_weights(first: FirstLayer | None) -> FromWeights | None:
    """Read mean and scale of the network's input without running anything.

    The means that the batch norm stores are linear in the mean colour, by the sums of the first convolution's weights:
    least squares gives the colour. The variances follow from the weights and how pixels of photographs correlate.

    Returns:
        None where there is no batch norm, or no mean colour explains what it stores.
    """
    if first is None or first.norm is None or first.norm.running_mean is None or first.norm.running_var is None:
        return None
    weight, variance = first.convolution.weight.double(), first.norm.running_var.double()
    deviation = (variance + first.norm.eps).sqrt()
    bias = 0.0 if first.convolution.bias is None else first.convolution.bias.double()
    sums, means = weight.sum((2, 3)) / deviation[:, None], (first.norm.running_mean.double() - bias) / deviation
    if len(sums) < 4 or not bool(first.norm.running_mean.any()):
        return None
    mean = torch.linalg.lstsq(sums, means[:, None]).solution[:, 0]
    expected = _expected_variance(weight)
    live = (expected > expected.max() * 1e-3) & (variance > 0)
    residual = float((sums @ mean - means).norm() / means.norm().clamp_min(1e-12))
    if not bool(live.any()) or residual > MAX_RESIDUAL or not bool(torch.isfinite(mean).all()):
        return None
    a, b, c = mean.tolist()
    return FromWeights(mean=(a, b, c), contrast=float((variance / expected)[live].sqrt().median()), residual=residual)


def _expected_variance(weight: Tensor) -> Tensor:
    """Float64 [C] after a convolution, for images of the typical deviation and correlations."""
    side = torch.arange(weight.shape[2] * weight.shape[3])
    rows, columns = side // weight.shape[3], side % weight.shape[3]
    apart = torch.hypot(*((x[:, None] - x[None]).double() for x in (rows, columns)))
    colours = torch.full((3, 3), CHANNELS, dtype=torch.float64).fill_diagonal_(1.0)
    flat = weight.flatten(2)
    covariance = torch.einsum("oci,cd,ij,odj->o", flat, colours, NEIGHBOURS**apart, flat)
    return TYPICAL_DEVIATION**2 * covariance


def gain(levels: Sequence[LevelOutput], other: Sequence[LevelOutput]) -> tuple[float, int]:
    """How much surer one preprocessing makes the network than another, over priors that either makes sure.

    Returns:
        Mean difference of their logits, drawn to 0 where there are few, and their number.
    """
    total, count = 0.0, 0
    for one, two in zip(levels, other, strict=True):
        a, b = _scores(one), _scores(two)
        sure = (a > _SURE) | (b > _SURE)
        total += float((_logit(a) - _logit(b))[sure].sum())
        count += int(sure.sum())
    return total / (count + _PRIOR_COUNT), count


def _scores(level: LevelOutput) -> Tensor:
    """Float64 of the same shape as half the channels of `conf`: the probability of a face."""
    return torch.sigmoid((level.conf[:, 1::2] - level.conf[:, 0::2]).double())


def _logit(scores: Tensor) -> Tensor:
    return torch.logit(scores.clamp(_LOW, _HIGH))


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Preprocessings by what the weights say of them, best first.

    Attributes:
        measured: None where the weights say nothing.
        costs: of each, in units of the margin that a decision needs.
        close: those that the weights cannot tell from the best.
    """

    measured: FromWeights | None
    costs: Mapping[Preprocessing, float]
    close: tuple[Preprocessing, ...]


def rank(measured: FromWeights | None, stated: Mapping[str, Any], assumed: Preprocessing) -> Ranked:
    """Order what is known by how well it explains the first batch norm; without one, all is open."""
    if measured is None:
        swapped = ChannelOrder.RGB if assumed.channel_order is ChannelOrder.BGR else ChannelOrder.BGR
        both = (assumed, Preprocessing(channel_order=swapped, mean=assumed.mean, scale=assumed.scale))
        return Ranked(measured=None, costs=dict.fromkeys(both, 0.0), close=both)
    costs = {}
    for each in known(stated):
        levels, log_scale = measured.cost(each)
        costs[each] = math.hypot(levels / COLOUR_STEP, log_scale / SCALE_STEP)
    least = min(costs.values())
    ordered = dict(sorted(costs.items(), key=lambda item: (item[1] - least >= 1.0, not item[0].usual, item[1])))
    close = [p for p, cost in ordered.items() if cost - least < 1.0]
    distinct: list[Preprocessing] = []
    for each in close:
        if not any(each.alike(other) for other in distinct):
            distinct.append(each)
    return Ranked(measured=measured, costs=ordered, close=tuple(distinct))


def contenders(ranked: Ranked) -> list[Preprocessing]:
    """Those that photographs should decide between: what the weights exclude least, and red and blue exchanged."""
    least = min(ranked.costs.values())
    found: list[Preprocessing] = []
    for each, cost in ranked.costs.items():
        if cost - least < MAX_COST and not any(each.alike(other) for other in found):
            found.append(each)
    first = found[0]
    order = ChannelOrder.RGB if first.channel_order is ChannelOrder.BGR else ChannelOrder.BGR
    swapped = Preprocessing(channel_order=order, mean=first.mean[::-1], scale=first.scale[::-1], usual=False)
    kept = found[:MAX_CONTENDERS]
    return kept if any(swapped.alike(other) for other in kept) else [*kept, swapped]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The preprocessings that photographs were run with.

    Attributes:
        best: the one that makes the network surest.
        gains: each other one -> mean logit that `best` gains over it.
        sure: priors that score above 0.5 in the least of the comparisons.
    """

    best: Preprocessing
    gains: Mapping[Preprocessing, float]
    sure: int


def compare(
    contenders: Sequence[Preprocessing], levels_of: Callable[[Preprocessing], Sequence[LevelOutput]]
) -> Compared:
    """Run each contender and see which makes the network surest."""
    outputs = {each: levels_of(each) for each in contenders}
    best = contenders[0]
    for each in contenders[1:]:
        logit, count = gain(outputs[each], outputs[best])
        if logit >= MIN_LOGIT and count >= MIN_SURE:
            best = each
    found = {each: gain(outputs[best], outputs[each]) for each in contenders if each != best}
    return Compared(
        best=best,
        gains={each: g for each, (g, _) in found.items()},
        sure=min((n for _, n in found.values()), default=0),
    )


def judge(
    ranked: Ranked, compared: Compared | None, *, cast: bool = False
) -> tuple[Preprocessing, list[Judgement], list[Reading]]:
    """Weigh what the weights say and what photographs say.

    A rival is excluded by the first batch norm, or by photographs with faces in which it makes the network less sure.
    Between a mean in the network's channel order and the same one reversed only photographs can tell; without faces
    in them it is the one in common use.
    """
    seen = compared if compared is not None and compared.sure >= MIN_SURE else None
    best = next(iter(ranked.costs))
    if seen is not None and seen.best in ranked.close:
        best = seen.best
    text = _text(ranked, compared, best, cast=cast)
    judgements = [
        Judgement(field=name, value=getattr(best, name), margin=_margin(ranked, seen, best, name), text=text)
        for name in FIELDS
    ]
    return best, judgements, list(_readings(ranked, compared, best))


def _margin(ranked: Ranked, seen: Compared | None, best: Preprocessing, name: str) -> float:
    """How clearly the weakest excluded rival that differs in the field is excluded; 0 where signals contradict."""
    least = min(ranked.costs.values())
    if least > MAX_COST or (seen is not None and seen.best != best):
        return 0.0
    if ranked.measured is None and (seen is None or name != "channel_order"):
        return 0.0
    gains = seen.gains if seen is not None else {}
    excluded = []
    for rival in dict.fromkeys([*ranked.costs, *gains]):
        if getattr(rival, name) == getattr(best, name) or rival.alike(best):
            continue
        strength = max(ranked.costs.get(rival, 0.0) - least, gains.get(rival, 0.0) / MIN_LOGIT)
        if rival.usual or not best.usual or strength >= 1.0:
            excluded.append(strength)
    return min(excluded, default=0.0)


def _text(ranked: Ranked, compared: Compared | None, best: Preprocessing, *, cast: bool) -> str:
    texts = []
    if ranked.measured is None:
        texts.append("the first layer has no batch norm that tells colours")
    else:
        levels, log_scale = ranked.measured.cost(best)
        texts.append(
            f"first batch norm within {levels:.0f} levels of a usual mean colour, scale x{math.exp(log_scale):.2f}"
        )
        if min(ranked.costs.values()) > MAX_COST:
            texts.append("which no known preprocessing explains")
    if compared is None:
        texts.append("photographs that are grey or have a colour cast" if cast else "no photographs")
    elif compared.sure < MIN_SURE:
        texts.append(f"{compared.sure} sure detections in the photographs, {MIN_SURE} are needed")
    elif compared.gains:
        rival = min(compared.gains, key=lambda p: compared.gains[p])
        who = "" if compared.best == best else f"{compared.best.channel_order} with mean {compared.best.mean[0]:g},… "
        texts.append(f"{who}gains {compared.gains[rival]:.2f} logit over the next in {compared.sure} detections")
    return ", ".join(texts)


def _readings(ranked: Ranked, compared: Compared | None, best: Preprocessing) -> Iterator[Reading]:
    least = min(ranked.costs.values())
    everything = dict.fromkeys([*ranked.costs, *(compared.gains if compared else ())])
    found = []
    for each in everything:
        signals, cost = {}, 0.0
        if ranked.measured is not None:
            levels, log_scale = ranked.measured.cost(each)
            signals = {"mean_colour_error": levels, "log_scale_error": log_scale}
            cost = math.hypot(levels / COLOUR_STEP, log_scale / SCALE_STEP) - least
        if compared is not None:
            signals |= {"sure_detections": float(compared.sure)}
            if each in compared.gains:
                signals["logit_gain"] = -compared.gains[each]
                cost = max(cost, compared.gains[each] / MIN_LOGIT if compared.sure >= MIN_SURE else 0.0)
        found.append(Reading(values=each.values, cost=0.0 if each == best else cost, signals=signals))
    yield from sorted(found, key=lambda r: r.cost)
