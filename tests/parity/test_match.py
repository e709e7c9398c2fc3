from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facex.parity.match import match
from facex.types import Detections

coordinate = st.integers(0, 12)  # few values: overlaps and ties are common


@st.composite
def faces(draw, max_size=7):
    rows = draw(
        st.lists(
            st.tuples(coordinate, coordinate, st.integers(0, 8), st.integers(0, 8), st.sampled_from([0.5, 0.75])),
            max_size=max_size,
        )
    )
    values = np.asarray(rows, np.float32).reshape(-1, 5)
    boxes = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:4]], axis=1)
    return Detections(boxes=boxes, scores=values[:, 4], landmarks=boxes.reshape(-1, 2, 2))


def pairs(matches):
    return list(zip(matches.reference.tolist(), matches.candidate.tolist(), strict=True))


def test_best_overlap_goes_first_even_when_it_leaves_a_face_alone(detections):
    # candidate 0 overlaps both references; its better partner is reference 1, at 0.9
    reference = detections([[0, 0, 10, 10], [0, 1, 10, 11]])
    candidate = detections([[0, 1, 10, 10]])
    matched = match(reference, candidate)
    assert pairs(matched) == [(0, 0)]
    np.testing.assert_allclose(matched.iou, [0.9])

    shifted = detections([[0, 1.5, 10, 11]])
    assert pairs(match(reference, shifted)) == [(1, 0)]


def test_pairs_are_listed_best_first(detections):
    reference = detections([[0, 0, 10, 10], [50, 50, 60, 60]])
    candidate = detections([[50, 50, 60, 60], [0, 0, 10, 8]])
    matched = match(reference, candidate)
    assert pairs(matched) == [(1, 0), (0, 1)]
    np.testing.assert_allclose(matched.iou, [1.0, 0.8])


def test_the_threshold_itself_is_a_match(detections):
    reference = detections([[0, 0, 10, 10]])
    assert len(match(reference, detections([[0, 0, 10, 5]]))) == 1
    assert len(match(reference, detections([[0, 0, 10, 4.99]]))) == 0
    assert len(match(reference, detections([[0, 0, 10, 4]]), iou_threshold=0.4)) == 1


def test_ties_go_to_the_better_score(detections):
    reference = detections([[0, 0, 10, 10]])
    twins = detections([[0, 0, 10, 8], [0, 0, 10, 8]], scores=[0.6, 0.8])
    assert pairs(match(reference, twins)) == [(0, 1)]


def test_nothing_matches_nothing(detections):
    none, some = detections([]), detections([[0, 0, 10, 10]])
    for reference, candidate in ((none, none), (none, some), (some, none)):
        assert len(match(reference, candidate)) == 0


def test_boxes_that_are_not_finite_or_empty_match_nothing(detections):
    bad = detections([[np.nan, 0, 10, 10], [0, 0, np.inf, 10], [5, 5, 5, 5], [10, 10, 0, 0]])
    assert len(match(detections([[0, 0, 10, 10]]), bad)) == 0
    assert len(match(bad, bad)) == 0


@given(faces(), faces())
def test_matching_is_one_to_one_and_maximal(reference, candidate):
    from facex.reference.geometry import iou_matrix

    matched = match(reference, candidate)
    assert len(set(matched.reference.tolist())) == len(set(matched.candidate.tolist())) == len(matched)
    iou = iou_matrix(reference.boxes, candidate.boxes)
    np.testing.assert_array_equal(matched.iou, iou[matched.reference, matched.candidate])
    assert (matched.iou >= 0.5).all()
    iou[matched.reference] = iou[:, matched.candidate] = 0
    assert (iou < 0.5).all()


@given(faces(), faces(), st.randoms(use_true_random=False))
def test_order_of_the_detections_changes_nothing(reference, candidate, random):
    def shuffled(d):
        order = list(range(len(d)))
        random.shuffle(order)
        return Detections(boxes=d.boxes[order], scores=d.scores[order], landmarks=d.landmarks[order])

    def content(a, b):
        m = match(a, b)
        rows = np.column_stack([a.boxes[m.reference], b.boxes[m.candidate], m.iou, b.scores[m.candidate]])
        return rows[np.lexsort(rows.T)]

    expected = content(reference, candidate)
    np.testing.assert_array_equal(content(shuffled(reference), shuffled(candidate)), expected)


@given(faces())
def test_a_set_matches_itself_completely_where_boxes_have_an_area(d):
    areas = (d.boxes[:, 2:] - d.boxes[:, :2]).prod(axis=1)
    matched = match(d, d)
    assert len(matched) == (areas > 0).sum()
    assert (matched.iou == 1).all()
