"""Which photographs make good goldens: those whose faces no rounding error can change.

A face whose score is about the threshold comes and goes; where two boxes of a face score alike, chance decides which
survives suppression. Both are told by the reference alone, so the files that will be held to the goldens have no say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from facex.parity.metrics import FACE_SCORE
from facex.reference import geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facex.types import FloatArray

MARGIN_LOGITS = 0.5
"""How far 8-bit arithmetic may move the score of a face, as the logarithm of its odds."""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """How a photograph stands in the eyes of the reference.

    Attributes:
        sure: faces beyond doubt.
        doubtful: faces that the margin could add or take away.
        sway: how far a box or a point could jump, as a share of the face's side: to that of a box which is suppressed
            now and might not be.
    """

    sure: int
    doubtful: int
    sway: float


def rate(boxes: FloatArray, scores: FloatArray, landmarks: FloatArray, *, sure: float) -> Rating:
    """Rate the decoded outputs of the reference for one photograph.

    Args:
        boxes: float32 [N, 4] xyxy, input pixels.
        scores: float32 [N].
        landmarks: float32 [N, 2K], input pixels.
        sure: score of a face that counts as sure.
    """
    least = 1 / (1 + math.exp(MARGIN_LOGITS))
    found = geometry.detect(boxes, scores, landmarks, score=least)
    candidates = np.flatnonzero(scores >= least)
    points = landmarks[candidates].reshape(len(candidates), landmarks.shape[1] // 2, 2)
    rivals_odds, odds = _log_odds(scores[candidates]), _log_odds(found.scores)
    sway = 0.0
    for i in np.flatnonzero(found.scores >= FACE_SCORE):
        overlap = geometry.iou_matrix(found.boxes[i][None], boxes[candidates])[0]
        rivals = (overlap > geometry.NMS_IOU) & (rivals_odds >= odds[i] - MARGIN_LOGITS)
        side = math.sqrt(float(np.prod(found.boxes[i][2:] - found.boxes[i][:2])))
        box = np.abs(boxes[candidates][rivals] - found.boxes[i]).max(initial=0.0) / side
        point = np.linalg.norm(points[rivals] - found.landmarks[i], axis=-1).max(initial=0.0) / side
        sway = max(sway, float(box), float(point))
    return Rating(sure=int((found.scores >= sure).sum()), doubtful=int((np.abs(odds) < MARGIN_LOGITS).sum()), sway=sway)


def _log_odds(scores: FloatArray) -> NDArray[np.float64]:
    inside = np.clip(scores.astype(np.float64), 1 - geometry.SATURATED, geometry.SATURATED)
    odds: NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def best(ratings: Sequence[Rating], count: int) -> list[int]:
    """At most `count` of them, in order: those with a sure face first, of these the least doubtful, the least swaying.

    Args:
        ratings: one a photograph.
        count: how many are wanted.
    """
    order = sorted(range(len(ratings)), key=lambda i: (not ratings[i].sure, ratings[i].doubtful, ratings[i].sway, i))
    return sorted(order[:count])
