"""Detections: of boxes that overlap, the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from facex.exporters._mil.registry import operator

if TYPE_CHECKING:
    from torch import Tensor


@operator
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> tuple[Tensor, ...]:
    """Boxes from the best score down, without those that overlap a better one, of their class or of any, by more IoU.

    Boxes are (center x, center y, width, height); a box's score is its best class's. Gives boxes, scores, indices,
    padded with 0, 0 and -1. With a score threshold (iOS15): [n, B, ...], without boxes of less, but the best one if
    there is none else; and how many. Without (iOS17): [n, ..., B], and not how many.
    """
    newer = score_threshold is None
    if newer:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.shape[:2] != boxes.shape[:2] or not scores.numel():
        raise ValueError(f"boxes and scores do not fit: {list(boxes.shape)}, {list(scores.shape)}")
    lowest = -torch.inf if score_threshold is None else score_threshold
    chosen = [
        _chosen(b, s, iou_threshold, lowest, max_boxes, per_class_suppression)
        for b, s in zip(boxes, scores, strict=True)
    ]
    found_boxes = torch.stack([_padded(b[i], max_boxes, 0) for b, i in zip(boxes, chosen, strict=True)])
    found_scores = torch.stack([_padded(s[i], max_boxes, 0) for s, i in zip(scores, chosen, strict=True)])
    indices = torch.stack([_padded(i, max_boxes, -1) for i in chosen])
    if newer:
        return found_boxes.transpose(1, 2), found_scores.transpose(1, 2), indices
    return found_boxes, found_scores, indices, torch.tensor([len(i) for i in chosen])


def _chosen(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, count: int, per_class: bool
) -> Tensor:
    """Indices of the boxes that are kept, the best first, the first of equal ones first."""
    best, classes = scores.amax(dim=1), scores.argmax(dim=1)
    order = torch.argsort(best, descending=True, stable=True)
    enough = best[order] >= score_threshold
    # Never no box at all: MIL's documentation is silent on it, NeuralNetwork.proto is not, and Core ML does so.
    order = order[enough] if bool(enough.any()) else order[:1]
    kept: list[Tensor] = []
    while len(order) and len(kept) < count:
        first, order = order[0], order[1:]
        kept.append(first)
        suppressed = _overlap(boxes[first], boxes[order]) > iou_threshold
        if per_class:
            suppressed &= classes[order] == classes[first]
        order = order[~suppressed]
    return torch.stack(kept) if kept else order[:0]


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of a box with others; 0 where neither has an area."""
    start, end = (box[:2] + sign * box[2:] / 2 for sign in (-1, 1))
    starts, ends = (others[:, :2] + sign * others[:, 2:] / 2 for sign in (-1, 1))
    common = (torch.minimum(end, ends) - torch.maximum(start, starts)).clamp(min=0).prod(dim=1)
    union = box[2:].prod() + others[:, 2:].prod(dim=1) - common
    return torch.where(union > 0, common / union, 0.0)


def _padded(values: Tensor, count: int, value: int) -> Tensor:
    """The first dimension filled up to a count."""
    rest = torch.full((count - len(values), *values.shape[1:]), value, dtype=values.dtype)
    return torch.cat([values, rest])
