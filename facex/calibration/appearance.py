"""What one calibration photograph looks like, in a few numbers: is it a picture at all, which one, how exposed.

Everything is measured on reduced copies, a few milliseconds a photograph; nothing is decoded a second time.
"""

from __future__ import annotations

import enum
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 64
"""Longest side of the reduced copy that the measures below see: fine noise averages out, what a face needs stays."""

MIN_CONTRAST = 2.0
"""Standard deviation of 8-bit values of the reduced copy below which a picture is of one colour. The least among
288 real photographs was 21."""

MIN_EDGE = 6.0
"""The strongest half percent of its second differences (8-bit grey values) must reach this, or the picture is a
gradient. Real photographs: 59 or more even at the strongest whole percent; smooth gradients: 2 or less."""

EDGE_PERCENTILE = 99.5

MIN_CORRELATION = 0.15
"""Correlation of neighbouring pixels of the reduced copy below which a picture is noise. Real photographs: 0.36 or
more; white noise: within 0.06 of 0, at any scale."""

HASH_SIDE = 8
HASH_BITS = 2 * HASH_SIDE * HASH_SIDE
COARSE_PX = 16

_GREY = np.asarray([0.299, 0.587, 0.114])
_EXIF_MAKE, _EXIF_MODEL = 271, 272
_EXIF_FAILURES = (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error, Image.DecompressionBombError)


class Fault(str, enum.Enum):
    """Why a picture says nothing about photographs."""

    ONE_COLOUR = "of one colour"
    NO_EDGES = "a gradient without edges"
    NOISE = "noise"


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """One photograph in a few numbers.

    Attributes:
        fault: why it is no picture; None for a picture.
        bits: bool [HASH_BITS], its difference hash.
        coarse: float32 [COARSE_PX ** 2], a coarse grey copy less its mean, of length 1: the dot product of two is
            their correlation. Zeros for a picture of one colour.
        size: width and height, pixels of the upright photograph.
        colour: mean brightness (0-255), and mean of red and of blue minus brightness.
    """

    fault: Fault | None
    bits: NDArray[np.bool_]
    coarse: NDArray[np.float32]
    size: tuple[int, int]
    colour: tuple[float, float, float]


def of(rgb: NDArray[np.uint8]) -> Appearance:
    """Measure a photograph.

    Args:
        rgb: uint8 [h, w, 3], the decoded, upright photograph without padding.
    """
    height, width = rgb.shape[:2]
    picture = Image.fromarray(rgb)
    box = (min(width, THUMBNAIL_PX), min(height, THUMBNAIL_PX))
    small = np.asarray(picture.resize(box, Image.Resampling.BOX), np.float64)
    grey = small @ _GREY
    red, _, blue = (float((small[..., channel] - grey).mean()) for channel in range(3))
    luma = picture.convert("L")
    return Appearance(
        fault=_fault(small, grey),
        bits=difference_hash(luma),
        coarse=_coarse(luma),
        size=(width, height),
        colour=(float(grey.mean()), red, blue),
    )


def _fault(small: NDArray[np.float64], grey: NDArray[np.float64]) -> Fault | None:
    if small.std() < MIN_CONTRAST:
        return Fault.ONE_COLOUR
    second = [np.abs(np.diff(small, 2, axis=axis)).max(axis=2).ravel() for axis in (0, 1)]
    if np.percentile(np.concatenate(second), EDGE_PERCENTILE) < MIN_EDGE:
        return Fault.NO_EDGES
    centred = grey - grey.mean()
    variance = float((centred**2).mean())
    along = float((centred[:, 1:] * centred[:, :-1]).mean())
    down = float((centred[1:] * centred[:-1]).mean())
    return Fault.NOISE if max(along, down) < MIN_CORRELATION * variance else None


def difference_hash(grey: Image.Image) -> NDArray[np.bool_]:
    """Whether each cell of a coarse grey copy is brighter than its left and than its upper neighbour.

    Scaling, recompression and brightness hardly change the answers, other photographs change a third or more. (The
    dHash of N. Krawetz, 2013, taken along both axes.)

    Args:
        grey: 8-bit grey.

    Returns:
        bool [HASH_BITS].
    """
    along = np.asarray(grey.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    down = np.asarray(grey.resize((HASH_SIDE, HASH_SIDE + 1), Image.Resampling.BOX), np.int16)
    return np.concatenate([(np.diff(along, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])


def _coarse(grey: Image.Image) -> NDArray[np.float32]:
    cells = np.asarray(grey.resize((COARSE_PX, COARSE_PX), Image.Resampling.BOX), np.float32).ravel()
    centred: NDArray[np.float32] = cells - cells.mean()
    length = np.float32(np.linalg.norm(centred))
    return centred / length if length > 0 else centred


def camera(path: Path) -> str:
    """Make and model that the file's EXIF names; empty without them. Reads the header, not the pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged metadata, which is as good as none
            with Image.open(path) as image:
                exif = image.getexif()
                make, model = (_words(exif.get(tag)) for tag in (_EXIF_MAKE, _EXIF_MODEL))
    except _EXIF_FAILURES:
        return ""
    if not model:
        return ""  # a make alone is no camera
    return model if model.lower().startswith(make.lower()) else f"{make} {model}"


def _words(value: object) -> str:
    """An EXIF text without padding and control characters; empty when it is no text."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())[:60]
