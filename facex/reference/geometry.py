"""Priors, box and landmark coding, IoU and non-maximum suppression, in vectorised NumPy.

Coding follows SSD (Liu et al. 2016, eq. 2) with variances, as RetinaFace uses it; frames and units are those of
`facex.types`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.types import Contract, Detections, Size

if TYPE_CHECKING:
    from facex.types import FloatArray

NMS_IOU = 0.4
SATURATED = 0.99999
"""Score from which float32 tells scores too little apart to say which of two boxes of a face is the better.

At 1 - 1e-5 its step of 6e-8 is 0.006 of the logit, and the sigmoids of runtimes differ by several steps; beyond, which
box survives would be chance, and two correct files would give landmarks of different boxes.
"""


def cells(contract: Contract, size: Size) -> list[tuple[int, int]]:
    """Rows and columns of the map of every level; a coarse cell may reach beyond the input."""
    return [(-(-size.height // stride), -(-size.width // stride)) for stride in contract.strides]


def priors(contract: Contract, size: Size) -> FloatArray:
    """Anchor boxes of every cell.

    Returns:
        float32 [N, 4]: centre x, centre y, width, height, input pixels; by level, row, column, min size.
    """
    levels = []
    grids = zip(contract.strides, contract.min_sizes, cells(contract, size), strict=True)
    for stride, sides, (rows, columns) in grids:
        y, x, side = np.meshgrid(
            (np.arange(rows) + 0.5) * stride,
            (np.arange(columns) + 0.5) * stride,
            np.asarray(sides, float),
            indexing="ij",
        )
        levels.append(np.stack([x, y, side, side], axis=-1).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def decode(
    loc: FloatArray, landm: FloatArray, anchors: FloatArray, variances: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    """Offsets to boxes and points.

    Args:
        loc: float32 [N, 4], offsets of centre and log size.
        landm: float32 [N, 2K], offsets of the points.
        anchors: float32 [N, 4] of `priors`.
        variances: the contract's.

    Returns:
        boxes float32 [N, 4] xyxy and landmarks float32 [N, K, 2], both in input pixels.
    """
    centre = anchors[:, :2] + loc[:, :2] * variances[0] * anchors[:, 2:]
    half = anchors[:, 2:] * np.exp(loc[:, 2:] * variances[1]) / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    points = anchors[:, None, :2] + landm.reshape(len(anchors), -1, 2) * variances[0] * anchors[:, None, 2:]
    return boxes.astype(np.float32), points.astype(np.float32)


def encode(
    boxes: FloatArray, points: FloatArray, anchors: FloatArray, variances: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    """The inverse of `decode`: boxes xyxy [N, 4] and points [N, K, 2] to loc [N, 4] and landm [N, 2K]."""
    centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offset = (centre - anchors[:, :2]) / (variances[0] * anchors[:, 2:])
    loc = np.concatenate([offset, np.log(side / anchors[:, 2:]) / variances[1]], axis=1)
    landm = (points - anchors[:, None, :2]) / (variances[0] * anchors[:, None, 2:])
    return loc.astype(np.float32), landm.reshape(len(anchors), -1).astype(np.float32)


def iou_matrix(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes.

    Args:
        a: [M, 4] xyxy.
        b: [N, 4] xyxy, same frame.

    Returns:
        float64 [M, N]; 0 where either box is empty, inverted or not finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    area_a = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(axis=1)
    area_b = np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=1)
    union = area_a[:, None] + area_b[None] - intersection
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, intersection / union, 0.0)
    return np.nan_to_num(iou, nan=0.0, posinf=0.0, neginf=0.0)


def nms(boxes: FloatArray, scores: FloatArray, iou_threshold: float = NMS_IOU) -> NDArray[np.intp]:
    """Greedy non-maximum suppression.

    Args:
        boxes: float32 [N, 4] xyxy.
        scores: float32 [N]; ties keep the earlier box, and all scores from `SATURATED` on are ties.
        iou_threshold: a box that overlaps a kept one by more than this is dropped.

    Returns:
        Indices of the kept boxes, best score first.
    """
    order = np.argsort(-np.minimum(scores, SATURATED), kind="stable")
    keep: list[int] = []
    while order.size:
        best = order[0]
        keep.append(int(best))
        overlap = iou_matrix(boxes[best][None], boxes[order[1:]])[0]
        order = order[1:][overlap <= iou_threshold]
    return np.asarray(keep, dtype=np.intp)


def detect(boxes: FloatArray, scores: FloatArray, landmarks: FloatArray, *, score: float) -> Detections:
    """Threshold, then NMS, over the decoded outputs of one photograph.

    Args:
        boxes: float32 [N, 4] xyxy, input pixels.
        scores: float32 [N].
        landmarks: float32 [N, 2K] or [N, K, 2], input pixels.
        score: lowest score that is kept. Greedy NMS runs from the best score down, so a later, higher
            threshold (`Detections.above`) gives what that threshold would have given here.
    """
    points = landmarks.reshape(len(landmarks), int(np.prod(landmarks.shape[1:])) // 2, 2)
    kept = chosen(boxes, scores, score)
    return Detections(boxes=boxes[kept], scores=scores[kept], landmarks=points[kept])


def chosen(boxes: FloatArray, scores: FloatArray, score: float, iou_threshold: float = NMS_IOU) -> NDArray[np.intp]:
    """Indices of what scores at least `score` and survives NMS, best first; see `nms`."""
    candidates = np.flatnonzero(scores >= score)
    return candidates[nms(boxes[candidates], scores[candidates], iou_threshold)]
