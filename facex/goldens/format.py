"""The values that goldens are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from facex.types import Size

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far what a file finds may be from what the reference found, derived from the file's own parity.

    Attributes:
        score: largest difference of scores.
        box: largest difference of a coordinate of the box, as a share of sqrt(area of the expected box).
        landmark: largest distance of a landmark point, as a share of the same.
    """

    score: float
    box: float
    landmark: float


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face that the reference found.

    Attributes:
        score: 0-1.
        box: x1, y1, x2, y2, input pixels.
        landmarks: x, y of every point in turn, input pixels.
    """

    score: float
    box: tuple[float, float, float, float]
    landmarks: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One photograph, letterboxed, with its faces.

    Attributes:
        file: name of a PNG in the folder of the goldens: the very input pixels, RGB, height x width of the set.
        sha256: of the PNG's bytes.
        source_height, source_width: of the photograph before it was letterboxed.
        scale: input pixels per pixel of the photograph.
        faces: best score first; those of the float reference at score >= 0.5 after NMS.
    """

    file: str
    sha256: str
    source_height: int
    source_width: int
    scale: float
    faces: tuple[Face, ...]


@dataclass(frozen=True, kw_only=True)
class GoldenSet:
    """Goldens of one input size.

    Attributes:
        folder: that holds the PNGs.
    """

    folder: Path
    size: Size
    goldens: tuple[Golden, ...]
