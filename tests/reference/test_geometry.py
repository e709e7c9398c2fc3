"""Priors, coding, IoU and NMS against slow textbook versions and by their properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facex.reference import geometry
from facex.types import ChannelOrder, Contract, Detections, Size

Array = np.ndarray[Any, Any]


def contract(strides: tuple[int, ...], min_sizes: tuple[tuple[float, ...], ...]) -> Contract:
    return Contract(
        family="retinaface",
        backbone="none",
        activation_slope=0.0,
        strides=strides,
        min_sizes=min_sizes,
        variances=(0.1, 0.2),
        landmarks=5,
        channel_order=ChannelOrder.BGR,
        mean=(0, 0, 0),
        scale=(1, 1, 1),
    )


# --- priors


def slow_priors(strides: tuple[int, ...], min_sizes: tuple[tuple[float, ...], ...], size: Size) -> Array:
    rows = []
    for stride, sides in zip(strides, min_sizes, strict=True):
        for i in range(math.ceil(size.height / stride)):
            for j in range(math.ceil(size.width / stride)):
                for side in sides:
                    rows.append([(j + 0.5) * stride, (i + 0.5) * stride, side, side])
    return np.array(rows, np.float32)


@pytest.mark.parametrize("size", [Size(height=32, width=32), Size(height=64, width=160), Size(height=96, width=32)])
@pytest.mark.parametrize(
    ("strides", "min_sizes"),
    [
        ((8, 16, 32), ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))),
        ((8, 16, 32, 64), ((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0))),
        ((4,), ((7.5,),)),
    ],
)
def test_priors(strides: tuple[int, ...], min_sizes: tuple[tuple[float, ...], ...], size: Size) -> None:
    priors = geometry.priors(contract(strides, min_sizes), size)
    assert priors.dtype == np.float32
    np.testing.assert_array_equal(priors, slow_priors(strides, min_sizes, size))


def test_priors_need_a_size_group_for_every_stride() -> None:
    with pytest.raises(ValueError, match="zip"):
        geometry.priors(contract((8, 16), ((16.0,),)), Size(height=32, width=32))


# --- coding


ANCHORS = geometry.priors(
    contract((8, 16, 32), ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))), Size(height=96, width=64)
)
variance = st.floats(0.05, 0.5)


@given(data=st.data(), variances=st.tuples(variance, variance), points=st.integers(1, 10))
def test_decode_undoes_encode(data: st.DataObject, variances: tuple[float, float], points: int) -> None:
    n = 6
    anchors = ANCHORS[data.draw(st.lists(st.integers(0, len(ANCHORS) - 1), min_size=n, max_size=n))]
    centre = data.draw(hnp.arrays(np.float32, (n, 2), elements=st.floats(-100, 200, width=32)))
    side = data.draw(hnp.arrays(np.float32, (n, 2), elements=st.floats(1, 600, width=32)))
    marks = data.draw(hnp.arrays(np.float32, (n, points, 2), elements=st.floats(-400, 500, width=32)))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1)

    loc, landm = geometry.encode(boxes, marks, anchors, variances)
    decoded_boxes, decoded_marks = geometry.decode(loc, landm, anchors, variances)

    assert (loc.shape, landm.shape) == ((n, 4), (n, 2 * points))
    assert {a.dtype for a in (loc, landm, decoded_boxes, decoded_marks)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(decoded_boxes, boxes, atol=0.01)
    np.testing.assert_allclose(decoded_marks, marks, atol=0.01)


@given(data=st.data())
def test_encode_undoes_decode(data: st.DataObject) -> None:
    n = 5
    anchors = ANCHORS[data.draw(st.lists(st.integers(0, len(ANCHORS) - 1), min_size=n, max_size=n))]
    loc = data.draw(hnp.arrays(np.float32, (n, 4), elements=st.floats(-4, 4, width=32)))
    landm = data.draw(hnp.arrays(np.float32, (n, 10), elements=st.floats(-8, 8, width=32)))
    again = geometry.encode(*geometry.decode(loc, landm, anchors, (0.1, 0.2)), anchors, (0.1, 0.2))
    np.testing.assert_allclose(again[0], loc, atol=2e-3)
    np.testing.assert_allclose(again[1], landm, atol=2e-3)


def test_zero_offsets_give_the_prior_itself() -> None:
    n = len(ANCHORS)
    boxes, points = geometry.decode(np.zeros((n, 4), np.float32), np.zeros((n, 10), np.float32), ANCHORS, (0.1, 0.2))
    np.testing.assert_array_equal((boxes[:, :2] + boxes[:, 2:]) / 2, ANCHORS[:, :2])
    np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], ANCHORS[:, 2:])
    np.testing.assert_array_equal(points, np.repeat(ANCHORS[:, None, :2], 5, axis=1))


def test_each_variance_scales_its_own_offsets() -> None:
    anchor = np.array([[50, 60, 20, 20]], np.float32)
    loc, landm = np.array([[1, -2, 0.5, -1]], np.float32), np.array([[3, -4]], np.float32)
    boxes, points = geometry.decode(loc, landm, anchor, (0.1, 0.2))
    width, height = 20 * math.exp(0.1), 20 * math.exp(-0.2)
    expected = [52 - width / 2, 56 - height / 2, 52 + width / 2, 56 + height / 2]
    np.testing.assert_allclose(boxes[0], expected, rtol=1e-6)
    np.testing.assert_allclose(points[0, 0], [56, 52], rtol=1e-6)


# --- IoU


coordinate = st.one_of(st.integers(0, 12).map(float), st.floats(-50, 50, width=32))
any_number = st.one_of(coordinate, st.sampled_from([math.nan, math.inf, -math.inf]))


def boxes_of(element: st.SearchStrategy[float], *, largest: int = 8) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.float32, st.tuples(st.integers(0, largest), st.just(4)), elements=element)


def sound_boxes(*, largest: int = 12) -> st.SearchStrategy[Array]:
    """Boxes that have an area, on a coarse grid, so that overlaps and equal overlaps are common."""
    side = st.integers(1, 8)
    box = st.tuples(st.integers(0, 10), st.integers(0, 10), side, side)
    return st.lists(box, max_size=largest).map(
        lambda rows: np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32).reshape(-1, 4)
    )


def slow_iou(a: Array, b: Array) -> float:
    ax, ay, ar, ab, bx, by, br, bb = (float(v) for v in (*a, *b))
    if not all(map(math.isfinite, (ax, ay, ar, ab, bx, by, br, bb))):
        return 0.0
    if ar <= ax or ab <= ay or br <= bx or bb <= by:
        return 0.0
    shared = max(0.0, min(ar, br) - max(ax, bx)) * max(0.0, min(ab, bb) - max(ay, by))
    return shared / ((ar - ax) * (ab - ay) + (br - bx) * (bb - by) - shared)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@given(a=boxes_of(any_number), b=boxes_of(any_number))
def test_iou_of_any_numbers(a: Array, b: Array) -> None:
    iou = geometry.iou_matrix(a, b)
    assert iou.shape == (len(a), len(b))
    assert iou.dtype == np.float64
    expected = np.array([[slow_iou(p, q) for q in b] for p in a]).reshape(len(a), len(b))
    np.testing.assert_allclose(iou, expected, rtol=1e-12, atol=1e-300)


@given(boxes=sound_boxes())
def test_iou_is_symmetric_reflexive_and_a_fraction(boxes: Array) -> None:
    iou = geometry.iou_matrix(boxes, boxes)
    np.testing.assert_array_equal(iou, iou.T)
    np.testing.assert_array_equal(np.diag(iou), 1.0)
    assert ((iou >= 0) & (iou <= 1)).all()


@given(boxes=sound_boxes(), factor=st.sampled_from([0.25, 2.0, 16.0]), shift=st.integers(-20, 20))
def test_iou_does_not_depend_on_unit_or_origin(boxes: Array, factor: float, shift: int) -> None:
    moved = boxes * factor + shift
    np.testing.assert_allclose(geometry.iou_matrix(moved, moved), geometry.iou_matrix(boxes, boxes), atol=1e-12)


@pytest.mark.parametrize(
    "bad",
    [
        [5, 5, 5, 9], [5, 5, 9, 5], [5, 5, 5, 5], [9, 9, 1, 1], [9, 1, 1, 9], [math.nan, 0, 10, 10],
        [0, 0, math.nan, 10], [0, 0, math.inf, 10], [-math.inf, -math.inf, math.inf, math.inf],
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_iou_with_an_impossible_box_is_zero(bad: list[float]) -> None:
    boxes = np.array([bad, [0, 0, 10, 10]], np.float32)
    np.testing.assert_array_equal(geometry.iou_matrix(boxes, boxes), [[0, 0], [0, 1]])


# --- non-maximum suppression


def slow_nms(boxes: Array, scores: Array, threshold: float) -> list[int]:
    """Textbook greedy NMS: take the best that is left, drop what overlaps it."""
    left, kept = list(range(len(scores))), []
    while left:
        best = max(left, key=lambda i: (float(scores[i]), -i))
        kept.append(best)
        left = [i for i in left if i != best and slow_iou(boxes[best], boxes[i]) <= threshold]
    return kept


# few distinct scores, so that ties are common
tied_score = st.sampled_from([0.1, 0.25, 0.5, 0.5, 0.75, 0.9]).map(np.float32)


@st.composite
def scored_boxes(draw: st.DrawFn) -> tuple[Array, Array]:
    boxes = draw(sound_boxes())
    scores = draw(st.lists(tied_score, min_size=len(boxes), max_size=len(boxes)))
    return boxes, np.array(scores, np.float32)


@given(found=scored_boxes(), threshold=st.sampled_from([0.0, 0.2, 0.25, 0.4, 0.5, 1.0]))
def test_nms_is_the_textbooks(found: tuple[Array, Array], threshold: float) -> None:
    boxes, scores = found
    kept = geometry.nms(boxes, scores, threshold)
    assert kept.dtype == np.intp
    assert kept.tolist() == slow_nms(boxes, scores, threshold)


@given(found=scored_boxes())
def test_nms_leaves_no_overlap_and_drops_only_overlaps(found: tuple[Array, Array]) -> None:
    boxes, scores = found
    kept = geometry.nms(boxes, scores)
    overlap = geometry.iou_matrix(boxes[kept], boxes)
    assert (overlap[:, kept] - np.eye(len(kept)) <= geometry.NMS_IOU).all()
    for dropped in set(range(len(scores))) - set(kept.tolist()):
        better = scores[kept] >= scores[dropped]
        assert (overlap[better, dropped] > geometry.NMS_IOU).any()
    assert (np.diff(scores[kept]) <= 0).all()


def test_nms_keeps_a_box_at_exactly_the_threshold() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 4, 10], [0, 0, 5, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert geometry.nms(boxes, scores, 0.4).tolist() == [0, 1]


def test_nms_keeps_the_earlier_of_equal_scores() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]], np.float32)
    assert geometry.nms(boxes, np.array([0.5, 0.5, 0.9], np.float32)).tolist() == [2, 0]


def test_nms_does_not_tell_saturated_scores_apart() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10]], np.float32)
    for second in (0.999995, 0.999999, 1.0):  # float32 neighbours of what a runtime's sigmoid may give
        assert geometry.nms(boxes, np.array([0.999993, second], np.float32)).tolist() == [0]
    assert geometry.nms(boxes, np.array([0.99998, 0.999999], np.float32)).tolist() == [1]


def test_nms_of_nothing() -> None:
    assert geometry.nms(np.empty((0, 4), np.float32), np.empty(0, np.float32)).tolist() == []


# --- detect


def assert_equal(a: Detections, b: Detections) -> None:
    for name in ("boxes", "scores", "landmarks"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@given(found=scored_boxes(), low=tied_score, high=tied_score)
def test_a_later_threshold_equals_an_earlier_one(found: tuple[Array, Array], low: np.float32, high: np.float32) -> None:
    assume(low <= high)
    boxes, scores = found
    points = np.arange(len(scores) * 10, dtype=np.float32).reshape(-1, 10)
    early = geometry.detect(boxes, scores, points, score=float(high))
    late = geometry.detect(boxes, scores, points, score=float(low)).above(float(high))
    assert_equal(late, early)


def test_detect_keeps_rows_together_and_takes_either_landmark_shape() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60], [80, 0, 90, 9]], np.float32)
    scores = np.array([0.6, 0.8, 0.5, 0.49], np.float32)
    points = np.arange(40, dtype=np.float32).reshape(4, 10)
    for landmarks in (points, points.reshape(4, 5, 2)):
        found = geometry.detect(boxes, scores, landmarks, score=0.5)
        assert len(found) == 2
        np.testing.assert_array_equal(found.boxes, boxes[[1, 2]])
        np.testing.assert_array_equal(found.scores, scores[[1, 2]])
        np.testing.assert_array_equal(found.landmarks, points.reshape(4, 5, 2)[[1, 2]])


def test_detect_finds_nothing_below_the_score_or_in_nan() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    points = np.zeros((2, 10), np.float32)
    found = geometry.detect(boxes, np.array([0.49, np.nan], np.float32), points, score=0.5)
    assert (found.boxes.shape, found.scores.shape, found.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
