"""What the rows of a file that chooses faces promise, whatever is in the photograph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from facex.reference.geometry import SATURATED, iou_matrix
from facex.types import Selection

if TYPE_CHECKING:
    from facex.types import FloatArray

ROUNDING = 1e-4
"""By how much the IoU of two rows may exceed the limit: each runtime computes it in its own float32 arithmetic."""


def malformed(outputs: Mapping[str, FloatArray], selection: Selection) -> int:
    """How many rows of one photograph are not what they should be.

    Up to `count`, a row holds finite numbers, a score from the threshold on and none above the row before it (but for
    those too high to tell apart), and a box that overlaps no row before it by more than `nms_iou`. From `count` on it
    is zero. A `count` that is no number of rows makes all of them malformed.

    Args:
        outputs: of a `detections` head.
        selection: how the file says that it chooses faces.
    """
    rows = int(outputs["scores"].shape[1])
    counted = np.asarray(outputs["count"]).reshape(-1)
    if len(counted) != 1 or not 0 <= counted[0] <= rows or counted[0] != np.floor(counted[0]):
        return rows
    count = int(counted[0])
    by_row = [value[0].reshape(rows, -1) for name, value in outputs.items() if name != "count"]
    values = np.concatenate(by_row, axis=1)
    wrong = np.zeros(rows, bool)
    wrong[count:] = (values[count:] != 0).any(axis=1)  # NaN differs from zero too
    scores, boxes = outputs["scores"][0, :count], outputs["boxes"][0, :count]
    wrong[:count] = ~np.isfinite(values[:count]).all(axis=1) | ~(scores >= np.float32(selection.score_threshold))
    wrong[1:count] |= np.diff(np.minimum(scores, SATURATED)) > 0
    overlaps = np.tril(iou_matrix(boxes, boxes), -1)
    wrong[:count] |= (overlaps > selection.nms_iou + ROUNDING).any(axis=1)
    return int(wrong.sum())
