"""Calibration photographs: the same pixels that inference sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from facex.errors import PhotographError
from facex.reference.photographs import Photograph, letterbox, load
from facex.types import Size

MIN_CONTRAST = 2.0
"""Standard deviation of 8-bit pixels below which a picture is a blank, not a photograph."""


def pixels(
    photographs: Sequence[Photograph], size: Size, fill_rgb: tuple[float, float, float]
) -> Iterator[NDArray[np.uint8]]:
    """Letterboxed photographs one by one, uint8 [1, H, W, 3], RGB.

    Raises:
        PhotographError: one cannot be decoded, or every one of them is blank.
    """
    blank = 0
    for photograph in photographs:
        rgb = load(photograph.path)
        blank += bool(rgb.std() < MIN_CONTRAST)
        yield letterbox(rgb, size, fill_rgb).pixels[None]
    if photographs and blank == len(photographs):
        raise PhotographError(
            f"{photographs[0].path.parent}: all {blank} calibration photographs are blank",
            hint="ranges need real photographs with faces in them",
        )
