"""Charts of faces and of quantized tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from facex.report.page import svg
from facex.report.page.svg import BAND, BLUE, FAINT, INK, RED, VIOLET
from facex.sightings import Sightings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from facex.calibration.insight import Insight, TensorInsight

NARROW, WIDE = (4.2, 3.2), (8.4, 2.7)
DOTS = 1000
"""The most that a chart draws of one kind."""
SCORE_FLOOR = 0.5
ROW_OF_UNMATCHED = 0.47
CLIPPED = 0.001
"""Share of a tensor's values beyond its grid from which on it is marked; calibration clips a few on purpose."""
ZERO_NME = 1e-8
"""Stands for no error at all on a logarithmic axis."""


def scores(name: str, seen: Sightings, dots: int = DOTS) -> Markup:
    """The artifact's score of every face against the reference's, and those that only one side found at the edges.

    Args:
        name: unique on the page.
        seen: of one run.
        dots: the most of a kind; of more, the half that shifts most and an even sample of the others.
    """
    shift = np.abs(seen.candidate_scores.astype(np.float64) - seen.reference_scores)
    drawn = _sample(shift, dots)

    def draw(axes: Axes) -> None:
        axes.plot([SCORE_FLOOR, 1], [SCORE_FLOOR, 1], color=FAINT, linewidth=0.8)
        svg.dots(axes, seen.reference_scores[drawn], seen.candidate_scores[drawn], BLUE, 3)
        lost = seen.lost_scores[_sample(seen.lost_scores, dots)]
        extra = seen.extra_scores[_sample(seen.extra_scores, dots)]
        svg.dots(axes, lost, np.full(len(lost), ROW_OF_UNMATCHED), RED, 5)
        svg.dots(axes, np.full(len(extra), ROW_OF_UNMATCHED), extra, VIOLET, 5)
        axes.set(xlim=(0.45, 1.01), ylim=(0.45, 1.01), xlabel="score of the reference", ylabel="score of the artifact")
        ticks = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
        _ticks(axes.xaxis, ticks, [f"{t:.1f}" for t in ticks])
        _ticks(axes.yaxis, ticks, [f"{t:.1f}" for t in ticks])

    largest = f"{shift.max():.3g}" if len(shift) and np.isfinite(shift).all() else "not known"
    text = (
        f"Scores of {_of(drawn, shift)} that both sides found, largest shift {largest}; "
        f"{len(seen.lost_scores)} lost, {len(seen.extra_scores)} extra."
    )
    return svg.drawn(f"{name}-scores", text, NARROW, draw)


def landmarks(name: str, seen: Sightings, limit: float | None, dots: int = DOTS) -> Markup:
    """The landmark error of every face against its size, with the mean and the limit that the mean is held to.

    Args:
        name: unique on the page.
        seen: of one run.
        limit: of the mean; None where it has none.
        dots: the most; of more, the half with the largest errors and an even sample of the others.
    """
    finite = np.isfinite(seen.nme) & np.isfinite(seen.side_px) & (seen.side_px > 0)
    sides, errors = seen.side_px[finite], np.maximum(seen.nme[finite].astype(np.float64), ZERO_NME)
    # of errors some of which are not finite there is no mean, as in the metrics
    mean = float(seen.nme.mean(dtype=np.float64)) if finite.all() and len(finite) else None
    drawn = _sample(errors, dots)

    def draw(axes: Axes) -> None:
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="side of the face, input pixels",
            ylabel="landmark error, share of the side",
        )
        svg.dots(axes, sides[drawn], errors[drawn], BLUE, 3)
        levels = [value for value in (mean, limit) if value]
        low, high = _span([*errors.tolist(), *levels], 1.5)
        left, right = _span(sides.tolist(), 1.15)
        axes.set(xlim=(left, right), ylim=(low, high))
        sizes = [side for side in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if left <= side <= right]
        _ticks(axes.xaxis, sizes or [left, right], [f"{side:g}" for side in sizes] or [f"{left:.3g}", f"{right:.3g}"])
        steps = _decades(low, high)
        _ticks(axes.yaxis, steps, [f"{100 * step:.3g}%" if step >= 1e-5 else f"{100 * step:.0e}%" for step in steps])
        for value, colour, words in ((mean, INK, "mean"), (limit, RED, "limit of the mean")):
            if value:
                axes.axhline(value, color=colour, linewidth=1.2, linestyle="-" if words == "mean" else (0, (4, 3)))
                side, at = ("left", left * 1.03) if words == "mean" else ("right", right / 1.03)
                axes.text(at, value * 1.04, words, color=colour, ha=side, va="bottom", fontsize=8)

    told = "mean not known" if mean is None else f"mean {_share(mean)}"
    bound = "" if limit is None else f", limit of the mean {_share(limit)}"
    text = f"Landmark error of {_of(drawn, errors)} over the side of the face: {told}{bound}."
    return svg.drawn(f"{name}-landmarks", text, NARROW, draw)


def ranges(name: str, seen: Insight) -> Markup:
    """How much of its 8-bit grid every tensor uses: the values that were seen, as shares of the grid."""
    spans = [(t, *_shares(t)) for t in seen.tensors]

    def draw(axes: Axes) -> None:
        axes.axhspan(0, 1, color=BAND, linewidth=0)
        for i, (tensor, low, high) in enumerate(spans):
            colour = RED if tensor.clipped_fraction > CLIPPED else BLUE
            axes.plot([i, i], [max(low, -0.45), min(high, 1.45)], color=colour, linewidth=2, solid_capstyle="butt")
        axes.set(xlim=(-1, len(spans)), ylim=(-0.5, 1.5), ylabel="values, share of the grid")
        axes.set_xlabel("quantized tensors, in the order of the network")
        _ticks(axes.yaxis, [0, 0.5, 1], ["lowest", "middle", "highest"])
        _ticks(axes.xaxis, *_indices(len(spans)))

    clipped = sum(t.clipped_fraction > CLIPPED for t in seen.tensors)
    text = (
        f"Values of {len(spans)} tensors on their 8-bit grids; of {clipped} more than 0.1% of the values are clipped."
    )
    return svg.drawn(f"{name}-ranges", text, WIDE, draw)


def noise(name: str, seen: Insight) -> Markup:
    """Signal over noise of every tensor in the whole file, and of the head when that tensor alone is quantized."""
    own = _finite([t.sqnr_db for t in seen.tensors])
    head = _finite([t.head_sqnr_db for t in seen.tensors])

    def draw(axes: Axes) -> None:
        for values, colour, marker in ((own, BLUE, "-"), (head, VIOLET, "o")):
            places = [i for i, value in enumerate(values) if value is not None]
            levels = [value for value in values if value is not None]
            if marker == "o":
                svg.dots(axes, np.asarray(places), np.asarray(levels), colour, 3)
            else:
                axes.plot(places, levels, color=colour, linewidth=1.2)
        known = [value for value in (*own, *head) if value is not None] or [0.0]
        low, high = 10 * math.floor(min(known) / 10), 10 * math.ceil((max(known) + 1) / 10)
        axes.set(xlim=(-1, len(own)), ylim=(low, high), ylabel="signal over noise, dB")
        axes.set_xlabel("quantized tensors, in the order of the network")
        step = max(10, 10 * round((high - low) / 50))
        levels = list(range(low, high + 1, step))
        _ticks(axes.yaxis, levels, [str(level) for level in levels])
        _ticks(axes.xaxis, *_indices(len(own)))

    lowest = min((value for value in head if value is not None), default=math.nan)
    text = (
        f"Signal over noise of {len(own)} tensors (line), and of the head with that tensor alone quantized (dots), "
        f"at least {lowest:.1f} dB."
    )
    return svg.drawn(f"{name}-noise", text, WIDE, draw)


def _share(value: float) -> str:
    return f"{value:.2%}" if value >= 1e-4 or value == 0 else f"{100 * value:.1e}%"


def _sample(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Indices of at most `count` values: half of them the largest, the others evenly spaced."""
    if len(values) <= count:
        return np.arange(len(values))
    order = np.argsort(-values, kind="stable")
    largest, rest = order[: count // 2], np.sort(order[count // 2 :])
    spaced = rest[np.arange(count - len(largest)) * len(rest) // (count - len(largest))]
    return np.concatenate([largest, spaced])


def _of(drawn: NDArray[np.intp], values: NDArray[Any]) -> str:
    """How many faces there are, and of how many there is a dot."""
    return f"{len(values)} faces" if len(drawn) == len(values) else f"{len(values)} faces, {len(drawn)} of them drawn,"


def _finite(values: Sequence[float | None]) -> list[float | None]:
    """Decibels within what a chart needs; a tensor without any noise says nothing."""
    return [value if value is not None and value < 150 else None for value in values]


def _shares(tensor: TensorInsight) -> tuple[float, float]:
    span = tensor.grid_high - tensor.grid_low
    return (tensor.seen_low - tensor.grid_low) / span, (tensor.seen_high - tensor.grid_low) / span


def _indices(count: int) -> tuple[list[int], list[str]]:
    places = list(range(0, count, 20))
    return places, [str(place + 1) for place in places]


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Ends of a logarithmic axis that holds all values."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    return low / margin, high * margin


def _decades(low: float, high: float) -> list[float]:
    """Ticks between two positive numbers: powers of ten, thinned where many, with 2s and 5s where few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
    return found[:: max(1, math.ceil(len(found) / 7))]


def _ticks(axis: Any, places: Sequence[float], labels: Sequence[str]) -> None:
    axis.set_ticks(list(places), labels=list(labels))
    axis.set_ticks([], minor=True)
