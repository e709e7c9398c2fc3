"""Drawings of matplotlib as SVG that stands in the page itself: its text is text, its colours are those of the page."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

INK, FAINT, LINE, BLUE, RED = "#010101", "#020202", "#030303", "#040404", "#050505"
VIOLET, BAND = "#060606", "#070707"
_VARIABLES = {
    INK: "ink", FAINT: "faint", LINE: "line", BLUE: "accent", RED: "fail", VIOLET: "extra", BAND: "band",
}  # fmt: skip
"""Colours that the page puts its own in place of."""

_DOTS_ID = "dots-"
_NUMBER = re.compile(r"-?\d+\.\d+")
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


def drawn(name: str, text: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> Markup:
    """The chart as an `<svg>` element.

    Args:
        name: unique on the page.
        text: what it shows, for those who do not see it.
        size: inches, width and height.
        draw: onto the axes.
    """
    buffer = io.StringIO()
    with _settings():
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        margins = (0.8, 0.12, 0.5, 0.12)  # inches: left, right, bottom, top
        width, height = size
        left, bottom = margins[0] / width, margins[2] / height
        axes = figure.add_axes((left, bottom, 1 - left - margins[1] / width, 1 - bottom - margins[3] / height))
        draw(axes)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(name, text, buffer.getvalue())


def dots(axes: Axes, x: NDArray[Any], y: NDArray[Any], colour: str, diameter: int) -> None:
    """Dots that `_inlined` makes one path of, at a dozen bytes a dot."""
    axes.plot(x, y, color=colour, marker="o", linestyle="none", clip_on=False, gid=f"{_DOTS_ID}{diameter}")


@contextmanager
def _settings() -> Iterator[None]:
    """Matplotlib as it is without anybody's settings, and quiet about its font cache."""
    import matplotlib

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
    for group in root.iter(f"{_SVG}g"):
        if group.get("id", "").startswith(_DOTS_ID):
            _join_dots(group)
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


def _join_dots(group: ElementTree.Element) -> None:
    """One path of zero-length lines with round ends in place of an element a dot."""
    dots = list(group.iter(f"{_SVG}use"))
    diameter = group.get("id", "").removeprefix(_DOTS_ID)
    style = dict(rule.split(":", 1) for rule in dots[0].get("style", "").split(";")) if dots else {}
    places = (f"M{float(d.get('x', 0)):.1f} {float(d.get('y', 0)):.1f}h0" for d in dots)
    group.clear()
    path = {
        "d": "".join(dict.fromkeys(places)),
        "style": f"fill: none; stroke: {style.get('fill', INK).strip()}; stroke-width: {diameter}; "
        "stroke-linecap: round; stroke-opacity: 0.6",
    }
    ElementTree.SubElement(group, f"{_SVG}path", path)


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
