"""The end of a TFLite model that chooses faces itself, in operators that the runtime has built in.

Before: boxes, scores, landmarks [1, N, ...]. After: priors sorted by min(score, `SATURATED`) with TOPK_V2, which keeps
the earlier of equal ones first; NON_MAX_SUPPRESSION_V4 over ranks in place of scores, for its own order of equal scores
is that of a heap; the rows of the faces gathered, zero from `count` on. The operator drops boxes from its IoU threshold
on, not above it, so that it gets the next larger number. Boxes without an area, which no network gives, are no faces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from facex.exporters._rewrites import COUNT
from facex.reference.geometry import SATURATED
from facex.types import Selection

SIGNIFICAND = 24
"""Bits of it in a float32."""


def chosen(by_prior: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    """Outputs of a decoded head as those of one that chooses faces, see `reference.detector.selected`."""
    boxes = by_prior["boxes"][0]
    # 0 or 1: which of them, only the running file knows
    small = tf.cast(boxes[0, 0] > boxes[0, 2], tf.int32)
    # by 1, of which the converter knows no range: it would give what follows a sigmoid the sigmoid's 8-bit grid
    all_scores = by_prior["scores"] * tf.cast(tf.maximum(small, 1), tf.float32)
    scores = all_scores[0]
    count, rows = int(scores.shape[0]), selection.max_faces
    capped = tf.minimum(scores, _number(np.float32(SATURATED), small))
    sorted_scores, order = tf.math.top_k(capped, k=count, sorted=True)
    enough = sorted_scores >= _number(np.float32(selection.score_threshold), small)
    sorted_boxes = tf.gather(boxes, order)
    enough = tf.logical_and(enough, _has_area(sorted_boxes))
    place = tf.cumsum(tf.cast(enough, tf.int32))  # 1, 2, 3, …
    rank = tf.cast(tf.where(enough, count + 1 - place, 0), tf.float32)
    iou = np.nextafter(np.float32(selection.nms_iou), np.float32(1))
    kept, found = tf.raw_ops.NonMaxSuppressionV4(
        boxes=sorted_boxes, scores=rank, max_output_size=rows, iou_threshold=_number(iou, small),
        score_threshold=np.float32(0.5), pad_to_max_output_size=True,
    )  # fmt: skip
    priors = tf.gather(order, kept)
    filled = tf.range(rows) < found
    outputs = {name: _rows(values, priors, filled) for name, values in {**by_prior, "scores": all_scores}.items()}
    return {**outputs, COUNT: tf.reshape(found, [1])}


def _has_area(boxes: Any) -> Any:
    """Whether a box overlaps itself: the operator gives one that does not again and again, until its rows are full."""
    side = boxes[:, 2:] - boxes[:, :2]
    twice = 2.0 * side[:, 0] * side[:, 1]
    finite = tf.equal(twice - twice, 0.0)
    return tf.logical_and(twice > 0.0, finite)


def _rows(values: Any, priors: Any, filled: Any) -> Any:
    """[1, N, ...] -> [1, K, ...] of the faces, and zero."""
    taken = tf.gather(values[0], priors)
    mask = tf.reshape(filled, [-1, *(1 for _ in taken.shape[1:])])
    return tf.where(mask, taken, tf.zeros_like(taken))[None]


def _number(value: np.float32, small: Any) -> Any:
    """A positive float32 number that no converter rounds.

    Before: a constant, which a half-precision file stores in half precision. After: the quotient of two integers, a
    24-bit one and a power of two, which float32 gives exactly; each is the larger of itself and what only the running
    file knows, or else the converter would compute the constant.
    """
    fraction, exponent = math.frexp(float(value))
    shift = SIGNIFICAND - exponent
    if not 0 < shift < 31:
        raise ValueError(f"{value} is no quotient of two int32")
    above, below = int(fraction * 2**SIGNIFICAND), 2**shift
    return tf.cast(tf.maximum(small, above), tf.float32) / tf.cast(tf.maximum(small, below), tf.float32)
