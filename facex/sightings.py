"""What a run of an artifact saw beside the reference, small enough to keep: figures of faces, the worst photographs.

`facex.parity.witness` collects it in the pass over the photographs, the page of a run draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facex.types import Detections, FloatArray


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One photograph as both sides saw it.

    Attributes:
        path: of the photograph.
        scale: input pixels per pixel of the upright photograph.
        reference: faces of the reference, input pixels.
        candidate: faces of the candidate, likewise.
        lost: intp [L], the reference faces that no candidate face matches.
        extra: intp [E], the candidate faces that no reference face matches.
        nme: the largest landmark error of a matched face over the square root of its box's area; None without one,
            infinite where it is not finite.
    """

    path: Path
    scale: float
    reference: Detections
    candidate: Detections
    lost: NDArray[np.intp]
    extra: NDArray[np.intp]
    nme: float | None


@dataclass(frozen=True, kw_only=True)
class Sightings:
    """What one run saw in all photographs.

    Attributes:
        reference_scores: float32 [P], of the faces that both sides found.
        candidate_scores: float32 [P], of the same faces.
        side_px: float32 [P], square root of the area of the reference box, input pixels.
        nme: float32 [P], mean distance of the landmarks over `side_px`.
        lost_scores: float32 [L], the reference's scores of the faces that only it found.
        extra_scores: float32 [E], the candidate's scores of the faces that only it found.
        photographs: how many there were.
        differing: those of them in which a face was lost or is extra.
        scenes: of the photographs with faces those that differ most, the worst first: by faces lost that the reference
            is sure of, faces lost, extra faces and landmark error.
    """

    reference_scores: FloatArray
    candidate_scores: FloatArray
    side_px: FloatArray
    nme: FloatArray
    lost_scores: FloatArray
    extra_scores: FloatArray
    photographs: int
    differing: int
    scenes: tuple[Scene, ...]
