"""Non-maximum suppression against one that compares every pair in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
Compute = Callable[..., Any]
Execute = Callable[..., list[Array]]


def overlap(first: Array, second: Array) -> float:
    """Intersection over union of (center x, center y, width, height)."""
    sides = []
    for place in (0, 1):
        (a, n), (b, m) = (first[place::2], second[place::2])
        sides.append(max(0.0, min(a + n / 2, b + m / 2) - max(a - n / 2, b - m / 2)))
    common = sides[0] * sides[1]
    union = first[2] * first[3] + second[2] * second[3] - common
    return float(common / union) if union > 0 else 0.0


def kept(
    boxes: Array, scores: Array, iou_threshold: float, score_threshold: float, count: int, per_class: bool
) -> list[int]:
    """Indices: a box stays if no box that stays is better, of its class and near."""
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    best = [max(row) for row in scores.tolist()]
    classes = [row.index(max(row)) for row in scores.tolist()]
    ranked = sorted(range(len(boxes)), key=lambda i: (-best[i], i))
    stay: list[int] = []
    for i in (i for i in ranked if best[i] >= score_threshold):
        rivals = [j for j in stay if not per_class or classes[i] == classes[j]]
        if all(overlap(boxes[i], boxes[j]) <= iou_threshold for j in rivals):
            stay.append(i)
    return (stay or ranked[:1])[:count]


def filled(rows: Array, count: int, value: float) -> Array:
    result = np.full((count, *rows.shape[1:]), value, rows.dtype)
    result[: len(rows)] = rows
    return result


def suppressed(
    boxes: Array, scores: Array, iou_threshold: float, score_threshold: float, count: int, per_class: bool
) -> tuple[Array, ...]:
    """The four results of iOS15."""
    images = list(zip(boxes, scores, strict=True))
    chosen = [kept(b, s, iou_threshold, score_threshold, count, per_class) for b, s in images]
    return (
        np.stack([filled(b[i], count, 0) for (b, _), i in zip(images, chosen, strict=True)]),
        np.stack([filled(s[i], count, 0) for (_, s), i in zip(images, chosen, strict=True)]),
        np.stack([filled(np.array(i, np.int32), count, -1) for i in chosen]),
        np.array([len(i) for i in chosen]),
    )


def some(random: np.random.Generator, images: int, count: int, classes: int) -> tuple[Array, Array]:
    """Boxes that overlap one another, and scores that are all different."""
    boxes = np.concatenate(
        [random.uniform(0, 20, (images, count, 2)), random.uniform(2, 12, (images, count, 2))], axis=2
    ).astype(np.float32)
    scores = random.permutation(images * count * classes).reshape(images, count, classes) / 100 - 0.3
    return boxes, scores.astype(np.float32)


def turned(values: Array) -> Array:
    return np.ascontiguousarray(values.transpose(0, 2, 1))


def same(found: Any, wanted: Any) -> None:
    assert len(found) == len(wanted)
    for f, w in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(f, w)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("count", [1, 7, 60])
@pytest.mark.parametrize("iou_threshold", [0.0, 0.2, 0.55, 1.0])
def test_suppresses_as_every_pair_compared(
    compute: Compute, random: np.random.Generator, iou_threshold: float, count: int, classes: int, per_class: bool
) -> None:
    boxes, scores = some(random, 2, 40, classes)
    for score_threshold in (-10.0, 0.1, 0.7):
        wanted = suppressed(boxes, scores, iou_threshold, score_threshold, count, per_class)
        found = compute(
            "non_maximum_suppression", boxes=boxes, scores=scores, iou_threshold=iou_threshold, max_boxes=count,
            score_threshold=score_threshold, per_class_suppression=per_class,
        )  # fmt: skip
        same(found, wanted)
    wanted = suppressed(boxes, scores, iou_threshold, -np.inf, count, per_class)
    found = compute(
        "non_maximum_suppression", boxes=turned(boxes), scores=turned(scores), iou_threshold=iou_threshold,
        max_boxes=count, per_class_suppression=per_class,
    )  # fmt: skip
    same(found, (turned(wanted[0]), turned(wanted[1]), wanted[2]))


def test_the_threshold_does_suppress(compute: Compute, random: np.random.Generator) -> None:
    boxes, scores = some(random, 1, 40, 3)

    def number(iou_threshold: float, **inputs: Any) -> int:
        result = compute(
            "non_maximum_suppression", boxes=boxes, scores=scores, iou_threshold=iou_threshold, max_boxes=40,
            score_threshold=-1.0, **inputs,
        )  # fmt: skip
        return int(result[3][0])

    assert number(0.1) < number(0.4) < number(1.0) == 40
    assert number(0.1) < number(0.1, per_class_suppression=True) < 40


def test_defaults_to_suppression_across_classes(compute: Compute) -> None:
    boxes = np.array([[[1, 1, 2, 2], [1, 1, 2, 2]]], np.float32)
    scores = np.array([[[0.9, 0.1], [0.2, 0.8]]], np.float32)
    found = compute("non_maximum_suppression", boxes=turned(boxes), scores=turned(scores), iou_threshold=0.5,
                    max_boxes=2)  # fmt: skip
    assert found[2].tolist() == [[0, -1]]


def test_at_a_threshold_a_box_stays(compute: Compute) -> None:
    # half of one box is the other: an overlap of a half; the third has exactly the score that is needed
    boxes = np.array([[[2, 1, 4, 2], [1, 1, 2, 2], [9, 9, 1, 1], [20, 20, 1, 1]]], np.float32)
    scores = np.array([[[0.75], [0.5], [0.25], [0.125]]], np.float32)
    inputs = {"boxes": boxes, "scores": scores, "max_boxes": 4, "score_threshold": 0.25}
    assert compute("non_maximum_suppression", iou_threshold=0.5, **inputs)[2].tolist() == [[0, 1, 2, -1]]
    assert compute("non_maximum_suppression", iou_threshold=0.4375, **inputs)[2].tolist() == [[0, 2, -1, -1]]


def test_one_box_stays_where_none_is_good_enough(compute: Compute, random: np.random.Generator) -> None:
    boxes, scores = some(random, 2, 9, 2)
    scores[0] -= 100
    found = compute("non_maximum_suppression", boxes=boxes, scores=scores, iou_threshold=0.3, max_boxes=3,
                    score_threshold=-5.0)  # fmt: skip
    assert found[3].tolist()[0] == 1
    assert found[2][0].tolist() == [int(scores[0].max(axis=1).argmax()), -1, -1]
    assert found[3].tolist()[1] > 1


def test_of_equal_scores_the_first_comes_first(compute: Compute) -> None:
    boxes = np.array([[[i // 2 * 10, 0, 4, 4] for i in range(200)]], np.float32)
    found = compute("non_maximum_suppression", boxes=boxes, scores=np.ones((1, 200, 2), np.float32), iou_threshold=0.5,
                    max_boxes=101, score_threshold=0.0, per_class_suppression=True)  # fmt: skip
    assert found[2].tolist() == [[*range(0, 200, 2), -1]]


def test_boxes_without_an_area_overlap_nothing(compute: Compute) -> None:
    boxes = np.zeros((1, 3, 4), np.float32)
    scores = np.array([[[0.5], [0.75], [0.25]]], np.float32)
    found = compute("non_maximum_suppression", boxes=boxes, scores=scores, iou_threshold=0.0, max_boxes=3,
                    score_threshold=0.0)  # fmt: skip
    assert found[2].tolist() == [[1, 0, 2]]


@pytest.mark.parametrize(("boxes", "scores"), [((1, 5, 3), (1, 5, 2)), ((1, 5, 4), (1, 4, 2)), ((1, 0, 4), (1, 0, 1))])
def test_shapes_that_do_not_fit_are_refused(compute: Compute, boxes: Any, scores: Any) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        compute("non_maximum_suppression", boxes=np.zeros(boxes, np.float32), scores=np.zeros(scores, np.float32),
                iou_threshold=0.5, max_boxes=2, score_threshold=0.0)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_form_of_ios15(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    boxes, scores = (v.astype(dtype) for v in some(random, 2, 30, 3))

    def body(mb: Any, boxes: Any, scores: Any) -> Any:
        given = {"boxes": boxes, "scores": scores, "score_threshold": dtype(0.125), "iou_threshold": dtype(0.25)}
        return (
            *mb.non_maximum_suppression(max_boxes=5, **given),
            *mb.non_maximum_suppression(max_boxes=40, per_class_suppression=True, **given),
        )

    found = execute(body, target="iOS16", boxes=boxes, scores=scores)
    wanted = (
        *suppressed(boxes, scores, 0.25, 0.125, 5, False),
        *suppressed(boxes, scores, 0.25, 0.125, 40, True),
    )
    same(found, wanted)
    assert len(np.unique(wanted[6])) > 10


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_form_of_ios17(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    boxes, scores = (v.astype(dtype) for v in some(random, 2, 30, 3))

    def body(mb: Any, boxes: Any, scores: Any) -> Any:
        given = {"boxes": boxes, "scores": scores, "iou_threshold": dtype(0.25)}
        return (
            *mb.non_maximum_suppression(max_boxes=5, **given),
            *mb.non_maximum_suppression(max_boxes=40, per_class_suppression=True, **given),
        )

    found = execute(body, target="iOS17", boxes=turned(boxes), scores=turned(scores))
    wanted = []
    for count, per_class in ((5, False), (40, True)):
        chosen, their_scores, indices, _ = suppressed(boxes, scores, 0.25, -np.inf, count, per_class)
        wanted += [turned(chosen), turned(their_scores), indices]
    same(found, wanted)


def test_what_coremltools_expects_of_core_ml(execute: Execute) -> None:
    """A case of coremltools' own tests, which compare with Core ML."""
    boxes = np.repeat(np.arange(4, dtype=np.float32)[:, None], 4, axis=1)[None]
    scores = np.array([[[-3.5], [9.4], [2.3], [0.7]]], np.float32)

    def body(mb: Any, boxes: Any, scores: Any) -> Any:
        return mb.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=0.2, score_threshold=0.4, max_boxes=2, per_class_suppression=True
        )

    found = execute(body, target="iOS15", boxes=boxes, scores=scores)
    same(found, (boxes[:, 1:3], scores[:, 1:3], [[1, 2]], [2]))
