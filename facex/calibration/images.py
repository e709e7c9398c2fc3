"""Calibration photographs: the same pixels that inference sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facex.calibration.hygiene import Watch
from facex.reference.photographs import Photograph, letterbox, load
from facex.types import Size


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A photograph on its way into calibration.

    Attributes:
        photograph: where it came from.
        rgb: uint8 [h, w, 3], the upright photograph as loaded.
        pixels: uint8 [1, H, W, 3], RGB, letterboxed.
    """

    photograph: Photograph
    rgb: NDArray[np.uint8]
    pixels: NDArray[np.uint8]


def frames(photographs: Sequence[Photograph], size: Size, fill_rgb: tuple[float, float, float]) -> Iterator[Frame]:
    """Photographs one by one, each decoded once; for callers that watch the set themselves (`hygiene.Watch`).

    Raises:
        PhotographError: one cannot be decoded.
    """
    for photograph in photographs:
        rgb = load(photograph.path)
        yield Frame(photograph=photograph, rgb=rgb, pixels=letterbox(rgb, size, fill_rgb).pixels[None])


def pixels(
    photographs: Sequence[Photograph], size: Size, fill_rgb: tuple[float, float, float]
) -> Iterator[NDArray[np.uint8]]:
    """Letterboxed photographs one by one, uint8 [1, H, W, 3], RGB.

    Raises:
        PhotographError: one cannot be decoded; or, after the last, more than half of them turned out blank.
    """
    watch = Watch()
    for frame in frames(photographs, size, fill_rgb):
        watch.add(frame.photograph, frame.rgb, None)
        yield frame.pixels
    watch.result()
