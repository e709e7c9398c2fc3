"""The largest faces of the photographs, brought closer: for prior sizes that are larger than any face at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from facex.reference.photographs import letterbox
from facex.reference.probe.anchors import SPREAD, SURER
from facex.types import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facex.reference.families import LevelOutput, Structure
    from facex.reference.probe.anchors import Slot

SIDE_PX = 640
FACES = 8
MARGINS = (1.15, 1.6)
"""Sides of the crops, in sides of the face: in the network's input it is 560 and 400 pixels large."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face in a letterboxed photograph.

    Attributes:
        photograph: its number.
        centre: x, y, input pixels.
        side: of its box, input pixels.
    """

    photograph: int
    centre: tuple[float, float]
    side: float


def largest(levels: Sequence[LevelOutput], structure: Structure, slots: Sequence[Slot]) -> list[Face]:
    """The largest face of each photograph, the largest first.

    Neither the prior sizes nor the variances are needed: their product places a face, and the spread of its points
    tells how large it is.
    """
    found: dict[int, Face] = {}
    measured = iter(slots)
    for level, stride, count in zip(levels, structure.strides, structure.anchors_per_cell, strict=True):
        batch, _, rows, columns = level.conf.shape
        conf = level.conf.view(batch, count, 2, rows, columns)
        loc = level.loc.view(batch, count, 4, rows, columns)
        landm = level.landm.view(batch, count, -1, 2, rows, columns)
        for i in range(count):
            product = next(measured).product
            if not np.isfinite(product):
                continue
            score = torch.sigmoid(conf[:, i, 1] - conf[:, i, 0])
            for n, y, x in (score > SURER).nonzero().tolist():
                points = landm[n, i, :, :, y, x].numpy()
                dx, dy = (product * loc[n, i, :2, y, x]).tolist()
                side = float(np.sqrt(points.var(0).sum())) * product / SPREAD
                if n not in found or side > found[n].side:
                    centre = ((x + 0.5) * stride + dx, (y + 0.5) * stride + dy)
                    found[n] = Face(photograph=n, centre=centre, side=side)
    return sorted(found.values(), key=lambda f: -f.side)


def crop(rgb: NDArray[np.uint8], face: Face, scale: float, margin: float, fill: Sequence[float]) -> NDArray[np.uint8]:
    """A face brought closer.

    Args:
        rgb: uint8 [h, w, 3], the whole photograph.
        face: in the letterboxed one.
        scale: input pixels per pixel of the photograph.
        margin: see `MARGINS`.
        fill: colour beyond the photograph.

    Returns:
        uint8 [`SIDE_PX`, `SIDE_PX`, 3].
    """
    side = max(16, round(face.side * margin / scale))
    left, top = (round(c / scale - side / 2) for c in face.centre)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = np.asarray(fill, np.uint8)
    height, width = rgb.shape[:2]
    y0, y1, x0, x1 = max(0, top), min(height, top + side), max(0, left), min(width, left + side)
    if y1 > y0 and x1 > x0:
        canvas[y0 - top : y1 - top, x0 - left : x1 - left] = rgb[y0:y1, x0:x1]
    return letterbox(canvas, Size(height=SIDE_PX, width=SIDE_PX), (fill[0], fill[1], fill[2])).pixels
