"""Which candidate face is which reference face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facex.reference.geometry import iou_matrix
from facex.types import Detections

MATCH_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Pairs of faces, best overlap first; no face is in two pairs.

    Attributes:
        reference: intp [P], indices into the reference detections.
        candidate: intp [P], indices into the candidate detections.
        iou: float64 [P], overlap of the pair, descending.
    """

    reference: NDArray[np.intp]
    candidate: NDArray[np.intp]
    iou: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.iou)


def match(reference: Detections, candidate: Detections, *, iou_threshold: float = MATCH_IOU) -> Matches:
    """Pair faces greedily by overlap, one to one.

    Equal overlaps are settled by what the detections hold, never by their order: the better score goes first,
    then the smaller coordinates.

    Args:
        reference: thresholded, any order.
        candidate: thresholded, any order, same frame.
        iou_threshold: lowest overlap of a pair.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # boxes that are not finite overlap nothing
        iou = iou_matrix(reference.boxes, candidate.boxes)
    rows, columns = np.nonzero(iou >= iou_threshold)
    order = np.lexsort((_rank(candidate)[columns], _rank(reference)[rows], -iou[rows, columns]))
    free_rows, free_columns = np.ones(len(reference), bool), np.ones(len(candidate), bool)
    pairs: list[tuple[int, int]] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    matched = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    return Matches(reference=matched[:, 0], candidate=matched[:, 1], iou=iou[matched[:, 0], matched[:, 1]])


def _rank(detections: Detections) -> NDArray[np.intp]:
    """The place of each detection in an order that depends on content alone, intp [M]."""
    points = detections.landmarks.reshape(len(detections), 2 * detections.landmarks.shape[1])
    content = np.column_stack([-detections.scores, detections.boxes, points])
    rank = np.empty(len(detections), np.intp)
    rank[np.lexsort(content.T[::-1])] = np.arange(len(detections))
    return rank
