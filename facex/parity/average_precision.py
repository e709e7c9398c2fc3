"""Average precision of detections against ground truth, by the protocol of WIDER FACE (Yang et al. 2016).

Subsets, each over the photographs named:

    easy, medium, hard  whose faces carry flags; a face whose flag is false is ignored
    all                 whose faces carry no flags; a face lower than 16 px in the network's input is ignored.
                        Where no photograph has flags, those checked to hold no face belong to it too: with a
                        plain ground truth, a detection on an empty photograph costs precision

Photographs checked to hold no face are also *background*: their detections that score at least 0.5 count as
`background_false_positives`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facex.parity.ground_truth import Entry, FaceBoxes
from facex.parity.limits import ALL, FLAGS
from facex.parity.match import MATCH_IOU
from facex.parity.metrics import FACE_SCORE
from facex.reference.geometry import iou_matrix
from facex.reference.photographs import Letterboxed
from facex.types import Detections

AP_SCORE = 0.02
"""Detections that score at least this make the curve."""

MIN_HEIGHT_PX = 16.0
"""Unflagged faces lower than this, in input pixels, are ignored."""


def count_hits(
    detections: Detections, boxes: NDArray[np.float64], ignored: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Say of each detection in one photograph whether it is a true positive.

    From the best score down, a detection belongs to the face that it overlaps most. It is a true positive
    when that overlap reaches `MATCH_IOU` and the face is not taken yet, neither right nor wrong when the face
    is ignored, and a false positive otherwise.

    Args:
        detections: any order.
        boxes: float64 [F, 4], xyxy, same frame.
        ignored: bool [F].

    Returns:
        scores float32 [D] and hits bool [D] of the detections that are right or wrong.
    """
    order = np.argsort(-detections.scores, kind="stable")
    scores = detections.scores[order]
    if not len(boxes):
        return scores, np.zeros(len(scores), bool)
    with np.errstate(over="ignore", invalid="ignore"):  # boxes that are not finite overlap nothing
        iou = iou_matrix(detections.boxes[order], boxes)
    nearest = iou.argmax(axis=1)
    touching = iou[np.arange(len(iou)), nearest] >= MATCH_IOU
    first_of_face = np.zeros(len(iou), bool)
    rows = np.flatnonzero(touching)
    first_of_face[rows[np.unique(nearest[rows], return_index=True)[1]]] = True
    counted = ~(touching & ignored[nearest])
    return scores[counted], first_of_face[counted]


def average_precision(scores: NDArray[np.float32], hits: NDArray[np.bool_], faces: int) -> float | None:
    """Area under the precision-recall curve, interpolated at every point.

    Detections with equal scores enter together, for no threshold can part them.

    Args:
        scores: float32 [D], of all photographs.
        hits: bool [D], whether the detection is a true positive.
        faces: number of faces that count.

    Returns:
        0-1; None without faces.
    """
    if not faces:
        return None
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_score = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    found = np.cumsum(hits[order])[last_of_score]
    precision = found / (last_of_score + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(found, prepend=0) * best_from_here).sum() / faces)


class ApAccumulator:
    """Average precision of one detector, fed photograph by photograph.

    Args:
        entries: ground truth of every photograph that will come, None where there is none; they decide the
            subsets.
    """

    def __init__(self, entries: Sequence[Entry | None]) -> None:
        looked_at = [entry.faces for entry in entries if entry and entry.faces is not None]
        flagged = any(faces.flags for faces in looked_at)
        plain = any(len(faces) and not faces.flags for faces in looked_at)
        self._background_in_all = not flagged
        self._subsets = {name: _Curve() for name in (FLAGS if flagged else ()) + ((ALL,) if plain else ())}
        background = any(not len(faces) for faces in looked_at)
        self._background_false_positives: int | None = 0 if background else None

    def add(self, entry: Entry | None, detections: Detections, photograph: Letterboxed) -> None:
        """Score the detections of one photograph.

        Args:
            entry: its ground truth; without one, or where nobody looked, the photograph is unused.
            detections: score >= `AP_SCORE`, after NMS, input pixels.
            photograph: gives the scale from its own pixels to input pixels.
        """
        faces = entry.faces if entry else None
        if faces is None:
            return
        # padding is at the bottom and right: the origin stays where it is
        boxes = faces.boxes * photograph.scale
        if not len(faces) and self._background_false_positives is not None:
            self._background_false_positives += len(detections.above(FACE_SCORE))
        for name, curve in self._subsets.items():
            ignored = self._ignored(name, faces, boxes)
            if ignored is not None:
                curve.add(*count_hits(detections, boxes, ignored), int((~ignored).sum()))

    def _ignored(self, subset: str, faces: FaceBoxes, boxes: NDArray[np.float64]) -> NDArray[np.bool_] | None:
        """Which faces the subset ignores; None when the photograph is not in it."""
        if subset != ALL:
            return ~faces.flags[subset] if faces.flags else None
        if faces.flags or not (len(faces) or self._background_in_all):
            return None
        lower: NDArray[np.bool_] = boxes[:, 3] - boxes[:, 1] < MIN_HEIGHT_PX
        return lower

    def metrics(self) -> dict[str, float | None]:
        """`ap_<subset>`, None where no face counts, and `background_false_positives` of any background."""
        values = {f"ap_{name}": curve.average_precision() for name, curve in self._subsets.items()}
        if self._background_false_positives is not None:
            values["background_false_positives"] = float(self._background_false_positives)
        return values


class _Curve:
    """The detections that make one precision-recall curve."""

    def __init__(self) -> None:
        self._scores: list[NDArray[np.float32]] = []
        self._hits: list[NDArray[np.bool_]] = []
        self._faces = 0

    def add(self, scores: NDArray[np.float32], hits: NDArray[np.bool_], faces: int) -> None:
        self._scores.append(scores)
        self._hits.append(hits)
        self._faces += faces

    def average_precision(self) -> float | None:
        if not self._scores:
            return None
        return average_precision(np.concatenate(self._scores), np.concatenate(self._hits), self._faces)
