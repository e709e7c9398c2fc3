"""Photographs made small enough for a page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from facex.report.page.exhibits import Thumbnail
from facex.sightings import Scene, Sightings

PHOTOGRAPHS = 24
"""The most that a page holds."""

TOTAL_BYTES = 1_000_000
"""What all of them may take; a page is to stay below 3 MB."""

MANY = 12
"""From more runs than this on, each shows fewer photographs and dots."""

_SETTINGS = ((512, 62), (416, 55), (320, 45), (200, 30))
"""Long side in pixels and WebP quality, tried in this order until all of them fit."""


def chosen(sightings: Mapping[str, Sightings]) -> tuple[Path, ...]:
    """The photographs that are worth showing: the worst of every run first, then the second of each, and so on."""
    scenes = [shown(seen, len(sightings)) for seen in sightings.values()]
    ranks = max(map(len, scenes), default=0)
    paths = (each[rank].path for rank in range(ranks) for each in scenes if rank < len(each))
    return tuple(dict.fromkeys(paths))[:PHOTOGRAPHS]


def shown(seen: Sightings, runs: int) -> Sequence[Scene]:
    """The scenes of a run that are worth showing: those that differ, else the one with the largest landmark error.

    Args:
        seen: of the run.
        runs: on the same page; of many, each shows less.
    """
    differing = [scene for scene in seen.scenes if len(scene.lost) or len(scene.extra)]
    return differing[: 4 if runs <= MANY else 2] or seen.scenes[:1]


def made(paths: Sequence[Path], load: Callable[[Path], NDArray[Any]]) -> dict[Path, Thumbnail]:
    """Thumbnails of photographs, all of one long side, within `TOTAL_BYTES`.

    Args:
        paths: of photographs.
        load: gives the upright uint8 [h, w, 3] RGB pixels of one.

    Raises:
        PhotographError: one cannot be decoded, as `load` finds.
    """
    small, scales = {}, {}
    for path in paths:
        pixels = Image.fromarray(load(path))  # one photograph at a time: a dozen would need gigabytes
        small[path] = _shrunk(pixels, _SETTINGS[0][0])
        scales[path] = pixels.width
    found: dict[Path, Thumbnail] = {}
    for side, quality in _SETTINGS:
        found = {}
        for path, image in small.items():
            fitted = _shrunk(image, side)
            found[path] = Thumbnail(
                webp=_webp(fitted, quality),
                width=fitted.width,
                height=fitted.height,
                scale=fitted.width / scales[path],
            )
        if sum(len(thumbnail.webp) for thumbnail in found.values()) <= TOTAL_BYTES:
            break
    return found


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    factor = side / max(image.size)
    if factor >= 1:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
