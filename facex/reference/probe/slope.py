"""The negative slope of the activations: from batch norms alone, and from photographs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facex.reference.probe.evidence import Judgement, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facex.reference.probe.subject import Link, Subject

SLOPES = (0.0, 0.1, 0.2, 0.3)
"""ReLU, and what LeakyReLU is trained with; 0.01 behaves like 0 and cannot be told from it by photographs."""
CONVENTIONAL = (0.0, 0.01, 0.1, 0.2, 0.25, 0.3)
ALIKE = 0.03
"""Slopes closer than this behave alike, and photographs do not tell them apart."""
SNAP = 0.02
STRONG = 0.2
"""Channels take part whose convolution passes on at least this much of what the batch norm before it lets through, in
units of the deviation after it: below, rounding and the borders of the image drown the mean."""
MAX_SPREAD = 0.05
"""Highest distance between the quartiles of the channels' slopes. It is up to 0.01 where the Gaussian assumption holds
and 0.16 and more where it does not (separable networks whose channels are mostly off)."""
MIN_CHANNELS, MIN_LINKS = 50, 2
MIN_LOG_RATIO = 0.3
"""Between the divergences of two slopes."""
MAX_DIVERGENCE = 0.5
"""Mean over the layers, nats. 0.02 to 0.15 under the right contract; a network on which no slope comes near has
statistics of another origin than photographs of people."""
MIN_NORMS = 3


@dataclass(frozen=True, kw_only=True)
class FromWeights:
    """The slope as the batch norms around depthwise convolutions have it.

    Attributes:
        slope: weighted median over the channels.
        spread: distance between their quartiles.
        channels: how many took part.
    """

    slope: float
    spread: float
    channels: int

    @property
    def reliable(self) -> bool:
        """Whether the channels agree, on a slope that an activation can have."""
        return self.spread <= MAX_SPREAD and -SNAP <= self.slope <= 0.5

    @property
    def value(self) -> float:
        """The slope that was meant: a conventional one close by, else two digits."""
        nearest = min(CONVENTIONAL, key=lambda s: abs(s - self.slope))
        return nearest if abs(nearest - self.slope) <= SNAP else round(self.slope, 2)


def from_weights(subject: Subject, name: str) -> FromWeights | None:
    """Read the slope without running anything.

    The mean that goes into a depthwise convolution is that of a Gaussian after the activation. With the batch norm's
    beta, gamma before it, LeakyReLU of slope a has the mean r + a (beta - r), where r = beta Phi(t) + gamma phi(t),
    t = beta / gamma, is that of ReLU; the batch norm behind the convolution stores that mean times the sum S of the
    channel's weights. Each channel gives one a, weighted by the square of what a unit of it changes.

    Returns:
        None where too few depthwise convolutions stand between batch norms.
    """
    governed = set(subject.activations.get(name, ()))
    links = [x for x in subject.links if x.activation in governed and _is_depthwise(x)]
    found = [pair for link in links if (pair := _slopes(link)) is not None]
    if len(found) < MIN_LINKS:
        return None
    slopes, weights = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    if len(slopes) < MIN_CHANNELS:
        return None
    low, median, high = _quantiles(slopes, weights, (0.25, 0.5, 0.75))
    return FromWeights(slope=median, spread=high - low, channels=len(slopes))


def _is_depthwise(link: Link) -> bool:
    return link.convolution.groups == link.convolution.in_channels == link.convolution.out_channels


def _slopes(link: Link) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """float64 [C] of slopes and of their weights, for the channels that say anything."""
    mean, variance = link.after.running_mean, link.after.running_var
    if mean is None or variance is None or not bool(mean.any()):  # never trained
        return None
    beta, gamma = link.before.bias.double(), link.before.weight.double().abs().clamp_min(1e-9)
    t = beta / gamma
    phi = torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    rectified = beta * 0.5 * (1 + torch.erf(t / math.sqrt(2))) + gamma * phi
    total = link.convolution.weight.double().sum((1, 2, 3))
    bias = 0.0 if link.convolution.bias is None else link.convolution.bias.double()
    deviation = (variance.double() + link.after.eps).sqrt()
    unit = total * (beta - rectified) / deviation
    excess = (mean.double() - bias - total * rectified) / deviation
    kept = (total.abs() / deviation * gamma > STRONG) & (unit.abs() > 1e-6)
    return (excess[kept] / unit[kept]).numpy(), (unit[kept] ** 2).numpy()


def _quantiles(values: NDArray[np.float64], weights: NDArray[np.float64], shares: Sequence[float]) -> tuple[float, ...]:
    order = np.argsort(values, kind="stable")
    weights = weights[order]
    position = (np.cumsum(weights) - weights / 2) / weights.sum()
    return tuple(float(np.interp(share, position, values[order])) for share in shares)


def judge(
    name: str, measured: FromWeights | None, divergences: Mapping[float, float]
) -> tuple[Judgement, list[Reading]]:
    """Weigh what the weights say and what photographs say.

    Args:
        name: field of the contract.
        measured: of `from_weights`.
        divergences: slope -> mean divergence over the field's own batch norms; empty without photographs.
    """
    weights = measured if measured is not None and measured.reliable else None
    seen = _seen(divergences)
    readings = _readings(name, weights, divergences)
    if weights is None and seen is None:
        text = "no photographs" if not divergences else "no slope's statistics fit the photographs clearly best"
        if measured is not None:
            text += f"; the weights' channels disagree (quartiles {measured.spread:.2f} apart)"
        best = min(divergences, key=lambda s: divergences[s], default=None)
        return Judgement(
            field=name, value=best, margin=_log_ratio(divergences) if best is not None else 0.0, text=text
        ), readings
    texts = []
    if weights:
        texts.append(f"{weights.slope:.3f} from {weights.channels} channels' batch norms")
    if seen:
        texts.append(f"divergence {seen.divergence:.3g}, next {seen.other:.3g}")
    value, margin = _agreed(weights, seen)
    if margin == 0.0:
        texts.insert(0, "weights and photographs disagree")
    elif margin < 1.0:
        texts.append("which is no usual slope, and no photographs confirm it")
    return Judgement(field=name, value=value, margin=margin, text="; ".join(texts)), readings


@dataclass(frozen=True, kw_only=True)
class _Seen:
    slope: float
    divergence: float
    other: float
    margin: float


def _seen(divergences: Mapping[float, float]) -> _Seen | None:
    """The slope under which photographs look like the training, where that is clear."""
    if len(divergences) < 2:
        return None
    best = min(divergences, key=lambda s: divergences[s])
    others = [d for s, d in divergences.items() if abs(s - best) >= ALIKE]
    margin = _log_ratio(divergences)
    if not others or margin < 1.0 or divergences[best] > MAX_DIVERGENCE:
        return None
    return _Seen(slope=best, divergence=divergences[best], other=min(others), margin=margin)


def _log_ratio(divergences: Mapping[float, float]) -> float:
    """ln(next / best) among slopes that do not behave alike, in units of `MIN_LOG_RATIO`."""
    if not divergences:
        return 0.0
    best = min(divergences, key=lambda s: divergences[s])
    others = [d for s, d in divergences.items() if abs(s - best) >= ALIKE]
    if not others or not divergences[best] > 0 or divergences[best] > MAX_DIVERGENCE:
        return 0.0
    return math.log(min(others) / divergences[best]) / MIN_LOG_RATIO


def _agreed(weights: FromWeights | None, seen: _Seen | None) -> tuple[float, float]:
    """The slope and its margin; 0 where the two contradict each other."""
    if weights is None:
        assert seen is not None
        return seen.slope, seen.margin
    by_weights = MAX_SPREAD / max(weights.spread, MAX_SPREAD / 10)
    if seen is None:  # alone, it must be a slope that is in use
        return weights.value, by_weights if weights.value in CONVENTIONAL else 0.5
    if abs(weights.value - seen.slope) >= ALIKE:
        return weights.value, 0.0
    return weights.value, max(by_weights, seen.margin)


def _readings(name: str, weights: FromWeights | None, divergences: Mapping[float, float]) -> list[Reading]:
    values = dict.fromkeys([*divergences, *([weights.value] if weights else [])])
    least = min(divergences.values(), default=0.0)
    readings = []
    for slope in values:
        signals: dict[str, float] = {}
        costs = [0.0]
        if slope in divergences:
            signals[f"{_short(name)}_divergence"] = divergences[slope]
            if least > 0 and math.isfinite(divergences[slope]):
                costs.append(math.log(divergences[slope] / least) / MIN_LOG_RATIO)
        if weights:
            signals[f"{_short(name)}_slope_error"] = abs(slope - weights.slope)
            costs.append(max(0.0, abs(slope - weights.slope) - SNAP) / MAX_SPREAD)
        readings.append(Reading(values={name: slope}, cost=max(costs), signals=signals))
    return sorted(readings, key=lambda r: r.cost)


def _short(name: str) -> str:
    return name.removesuffix("_slope")


def candidates(measured: FromWeights | None, stated: Any) -> tuple[float, ...]:
    """The slopes to try on photographs: the usual ones, the measured one, and the one that the user states."""
    extra = [measured.value] if measured is not None and measured.reliable else []
    extra += [stated] if stated is not None else []
    found = list(SLOPES)
    found += [s for s in dict.fromkeys(extra) if all(abs(s - known) >= ALIKE for known in SLOPES)]
    return tuple(found)
