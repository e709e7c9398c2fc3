"""Charts as SVG that stands in the page itself: its text is text, its colours are those of the page, light or dark."""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from facex.sightings import Sightings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from facex.calibration.insight import Insight, TensorInsight

INK, FAINT, LINE, BLUE, RED = "#010101", "#020202", "#030303", "#040404", "#050505"
VIOLET, BAND = "#060606", "#070707"
_VARIABLES = {
    INK: "ink", FAINT: "faint", LINE: "line", BLUE: "accent", RED: "fail", VIOLET: "extra", BAND: "band",
}  # fmt: skip
"""Colours that the page puts its own in place of."""

DOT, LOST_DOT, EXTRA_DOT = "#3d85d9", "#e0554d", "#9a6fe0"
"""Of dots, which are drawn as pixels lest thousands of faces fill the page; seen on white and on black."""

NARROW, WIDE = (4.2, 3.2), (8.4, 2.7)
DOTS_PER_INCH = 150
SCORE_FLOOR = 0.5
ROW_OF_UNMATCHED = 0.47
ZERO_NME = 1e-8
"""Stands for no error at all on a logarithmic axis."""

_NUMBER = re.compile(r"-?\d+\.\d+")
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


def scores(name: str, seen: Sightings) -> Markup:
    """The artifact's score of every face against the reference's, and those that only one side found at the edges."""

    def draw(axes: Axes) -> None:
        axes.plot([SCORE_FLOOR, 1], [SCORE_FLOOR, 1], color=FAINT, linewidth=0.8)
        dots: dict[str, Any] = {"s": 9, "alpha": 0.55, "linewidths": 0, "rasterized": True}
        axes.scatter(seen.reference_scores, seen.candidate_scores, color=DOT, **dots)
        edge: dict[str, Any] = {"s": 26, "linewidths": 0, "rasterized": True, "clip_on": False}
        lost, extra = seen.lost_scores, seen.extra_scores
        axes.scatter(lost, np.full(len(lost), ROW_OF_UNMATCHED), color=LOST_DOT, marker="v", **edge)
        axes.scatter(np.full(len(extra), ROW_OF_UNMATCHED), extra, color=EXTRA_DOT, marker="<", **edge)
        axes.set(xlim=(0.45, 1.01), ylim=(0.45, 1.01), xlabel="score of the reference", ylabel="score of the artifact")
        ticks = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
        _ticks(axes.xaxis, ticks, [f"{t:.1f}" for t in ticks])
        _ticks(axes.yaxis, ticks, [f"{t:.1f}" for t in ticks])

    shift = np.abs(seen.candidate_scores.astype(np.float64) - seen.reference_scores)
    largest = f"{shift.max():.3g}" if len(shift) and np.isfinite(shift).all() else "not known"

    text = (
        f"Scores of {len(shift)} faces that both sides found, largest shift {largest}; "
        f"{len(seen.lost_scores)} lost, {len(seen.extra_scores)} extra."
    )
    return _drawn(f"{name}-scores", text, NARROW, draw)


def landmarks(name: str, seen: Sightings, limit: float | None) -> Markup:
    """The landmark error of every face against its size, with the mean and the limit that the mean is held to."""
    finite = np.isfinite(seen.nme) & np.isfinite(seen.side_px) & (seen.side_px > 0)
    sides, errors = seen.side_px[finite], np.maximum(seen.nme[finite].astype(np.float64), ZERO_NME)
    mean = float(seen.nme[finite].mean()) if finite.any() else math.nan

    def draw(axes: Axes) -> None:
        axes.set(xscale="log", yscale="log", xlabel="side of the face, input pixels", ylabel="landmark error")
        axes.scatter(sides, errors, s=9, alpha=0.55, linewidths=0, rasterized=True, color=DOT)
        levels = [value for value in (mean, limit) if value is not None and value > 0]
        low, high = _span([*errors.tolist(), *levels], 1.5)
        left, right = _span(sides.tolist(), 1.15)
        axes.set(xlim=(left, right), ylim=(low, high))
        sizes = [side for side in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if left <= side <= right]
        _ticks(axes.xaxis, sizes or [left, right], [f"{side:g}" for side in sizes] or [f"{left:.3g}", f"{right:.3g}"])
        steps = _decades(low, high)
        _ticks(axes.yaxis, steps, [f"{100 * step:.3g}%" if step >= 1e-5 else f"{100 * step:.0e}%" for step in steps])
        for value, colour, words in ((mean, BLUE, "mean"), (limit, RED, "limit of the mean")):
            if value is not None and value > 0:
                axes.axhline(value, color=colour, linewidth=1.2, linestyle="-" if words == "mean" else (0, (4, 3)))
                side, at = ("left", left * 1.03) if words == "mean" else ("right", right / 1.03)
                axes.text(at, value * 1.04, words, color=colour, ha=side, va="bottom", fontsize=8)

    told = f"mean {mean:.2%}" if mean >= 1e-4 else f"mean {100 * mean:.1e}%"
    bound = "" if limit is None else f", limit of the mean {limit:.2%}" if limit >= 1e-4 else f", limit {limit:g}"
    text = f"Landmark error of {int(finite.sum())} faces over the side of the face: {told}{bound}."
    return _drawn(f"{name}-landmarks", text, NARROW, draw)


def ranges(name: str, seen: Insight) -> Markup:
    """How much of its 8-bit grid every tensor uses: the values that were seen, as shares of the grid."""
    spans = [(t, *_shares(t)) for t in seen.tensors]

    def draw(axes: Axes) -> None:
        axes.axhspan(0, 1, color=BAND, linewidth=0)
        for i, (tensor, low, high) in enumerate(spans):
            colour = RED if tensor.clipped_fraction > 0 else BLUE
            axes.plot([i, i], [max(low, -0.45), min(high, 1.45)], color=colour, linewidth=2, solid_capstyle="butt")
        axes.set(xlim=(-1, len(spans)), ylim=(-0.5, 1.5), ylabel="values, share of the grid")
        axes.set_xlabel("quantized tensors, in the order of the network")
        _ticks(axes.yaxis, [0, 0.5, 1], ["lowest", "middle", "highest"])
        _ticks(axes.xaxis, *_indices(len(spans)))

    clipped = sum(t.clipped_fraction > 0 for t in seen.tensors)
    text = f"Values of {len(spans)} tensors on their 8-bit grids; {clipped} have values beyond it, which are clipped."
    return _drawn(f"{name}-ranges", text, WIDE, draw)


def noise(name: str, seen: Insight) -> Markup:
    """Signal over noise of every tensor in the whole file, and of the head when that tensor alone is quantized."""
    own = _finite([t.sqnr_db for t in seen.tensors])
    head = _finite([t.head_sqnr_db for t in seen.tensors])

    def draw(axes: Axes) -> None:
        for values, colour, marker in ((own, BLUE, "-"), (head, VIOLET, "o")):
            places = [i for i, value in enumerate(values) if value is not None]
            levels = [value for value in values if value is not None]
            if marker == "o":
                axes.plot(places, levels, color=colour, marker="o", markersize=2.6, linestyle="none", markeredgewidth=0)
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
    return _drawn(f"{name}-noise", text, WIDE, draw)


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


@contextmanager
def _settings() -> Iterator[None]:
    """Matplotlib as it is without anybody's settings, and quiet about its font cache."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(
                {
                    "svg.fonttype": "none", "svg.hashsalt": "facex", "font.size": 9,
                    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "axes.linewidth": 0.8,
                    "axes.spines.top": False, "axes.spines.right": False,
                    "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
                    "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 0.7,
                }
            )  # fmt: skip
            yield
    finally:
        logger.setLevel(level)


def _drawn(name: str, text: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> Markup:
    """The chart as an `<svg>` element; `text` says what it shows to those who do not see it."""
    buffer = io.StringIO()
    with _settings():
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        margins = (0.62, 0.12, 0.5, 0.12)  # inches: left, right, bottom, top
        width, height = size
        left, bottom = margins[0] / width, margins[2] / height
        axes = figure.add_axes((left, bottom, 1 - left - margins[1] / width, 1 - bottom - margins[3] / height))
        draw(axes)
        figure.savefig(buffer, format="svg", dpi=DOTS_PER_INCH, transparent=True, metadata={"Date": None})
    return _inlined(name, text, buffer.getvalue())


def _inlined(name: str, text: str, svg: str) -> Markup:
    """Matplotlib's document as an element: without what would leak into the page, and in the page's colours."""
    root = ElementTree.fromstring(svg)  # noqa: S314 - matplotlib's own
    kept = {link[1:] for element in root.iter() if (link := element.get(f"{_XLINK}href", "")).startswith("#")}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.removeprefix(_SVG) in ("metadata", "style", "clipPath") or child.tag.startswith(
                "{http://www.w3.org/1999/02"
            ):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = dict(_attributes(name, element.attrib, kept))
        element.tail = None
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": text}
    title = ElementTree.Element("title")
    title.text = text
    root.insert(0, title)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - escaped by ElementTree


def _attributes(name: str, attributes: dict[str, str], kept: set[str]) -> Iterator[tuple[str, str]]:
    for key, value in attributes.items():
        if key == "clip-path" or (key == "id" and value not in kept):
            continue
        if key == "id":
            yield "id", f"{name}-{value}"
        elif key == f"{_XLINK}href":
            yield "href", f"#{name}-{value[1:]}" if value.startswith("#") else "".join(value.split())
        elif key == "style":
            yield "style", _styled(value)
        else:
            yield key, _NUMBER.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), " ".join(value.split()))


def _styled(style: str) -> str:
    rules = [rule.strip() for rule in style.split(";") if not rule.strip().startswith("font-family")]
    text = ";".join(rule for rule in rules if rule)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
