from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facex.parity.average_precision import ApAccumulator, average_precision, count_hits
from facex.parity.ground_truth import Entry, FaceBoxes
from facex.reference.photographs import Letterboxed

FULL_SCALE = Letterboxed(pixels=np.zeros((100, 100, 3), np.uint8), scale=1.0, content=(100, 100))
HALF_SCALE = Letterboxed(pixels=np.zeros((100, 100, 3), np.uint8), scale=0.5, content=(100, 100))


def curve(scores, hits, faces):
    return average_precision(np.asarray(scores, np.float32), np.asarray(hits, bool), faces)


def entry(boxes, **flags):
    faces = FaceBoxes(
        boxes=np.asarray(boxes, float).reshape(-1, 4),
        flags={k: np.asarray(v, bool) for k, v in flags.items()},
    )
    return Entry(file="a.jpg", sha256=None, width=None, height=None, faces=faces)


def scored(*photographs, scale=FULL_SCALE):
    accumulator = ApAccumulator([e for e, _ in photographs])
    for e, d in photographs:
        accumulator.add(e, d, scale)
    return accumulator.metrics()


@pytest.mark.parametrize(
    ("scores", "hits", "faces", "area"),
    [
        ([0.9], [True], 1, 1.0),
        ([0.9], [False], 1, 0.0),
        ([], [], 3, 0.0),
        ([0.9, 0.8], [False, True], 1, 0.5),
        ([0.9, 0.8], [True, False], 1, 1.0),  # false positives after full recall cost nothing
        ([0.9], [True], 4, 0.25),
        # precision 1, 1/2, 2/3, 3/4, 3/5; from the right its maximum is 1, 3/4, 3/4, 3/4, 3/5
        ([0.9, 0.8, 0.7, 0.6, 0.5], [True, False, True, True, False], 4, (1 + 0.75 + 0.75) / 4),
        ([0.5, 0.9, 0.6, 0.8, 0.7], [False, True, True, False, True], 4, (1 + 0.75 + 0.75) / 4),
        # equal scores enter together: one point at precision 1/2, whichever is listed first
        ([0.9, 0.9], [True, False], 1, 0.5),
        ([0.9, 0.9], [False, True], 1, 0.5),
    ],
)
def test_area_by_hand(scores, hits, faces, area):
    assert curve(scores, hits, faces) == pytest.approx(area)


def test_no_face_is_no_average_precision():
    assert curve([0.9], [False], 0) is None


def hits_of(detections, boxes, ignored):
    return count_hits(detections, np.asarray(boxes, float).reshape(-1, 4), np.asarray(ignored, bool))


def test_a_duplicate_is_a_false_positive_and_the_best_score_is_the_hit(detections):
    found = detections([[0, 0, 10, 9], [0, 0, 10, 10], [0, 0, 9, 10]], scores=[0.6, 0.8, 0.7])
    scores, hits = hits_of(found, [[0, 0, 10, 10]], [False])
    np.testing.assert_allclose(scores, [0.8, 0.7, 0.6])
    assert hits.tolist() == [True, False, False]


def test_detections_of_an_ignored_face_are_neither_right_nor_wrong(detections):
    found = detections([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], scores=[0.9, 0.8, 0.7])
    scores, hits = hits_of(found, [[0, 0, 10, 10]], [True])
    np.testing.assert_allclose(scores, [0.7])
    assert hits.tolist() == [False]


def test_the_best_overlap_alone_decides_the_face(detections):
    # it overlaps the ignored face more, so it does not count for the other one, which it would match too
    found = detections([[0, 0, 10, 10]])
    scores, _ = hits_of(found, [[0, 0, 10, 8], [0, 0, 10, 9]], [False, True])
    assert len(scores) == 0
    # its best face is taken: it is a duplicate, even though another face would match
    found = detections([[0, 0, 10, 10], [0, 0, 10, 9.5]], scores=[0.9, 0.8])
    _, hits = hits_of(found, [[0, 0, 10, 10], [0, 0, 10, 6]], [False, False])
    assert hits.tolist() == [True, False]


def test_overlap_below_half_is_a_false_positive(detections):
    _, hits = hits_of(detections([[0, 0, 10, 5], [20, 0, 30, 4.9]]), [[0, 0, 10, 10], [20, 0, 30, 10]], [False] * 2)
    assert hits.tolist() == [True, False]


def test_no_detection_and_no_face(detections):
    assert [len(x) for x in hits_of(detections([]), [[0, 0, 1, 1]], [False])] == [0, 0]
    assert hits_of(detections([[0, 0, 10, 10]]), [], [])[1].tolist() == [False]


def test_flags_make_three_subsets_that_ignore_the_other_faces(detections):
    a, b, c = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
    truth = entry([a, b, c], easy=[1, 0, 0], medium=[1, 1, 0], hard=[1, 1, 1])
    found = detections([b, a], scores=[0.9, 0.8])
    assert scored((truth, found)) == pytest.approx({"ap_easy": 1.0, "ap_medium": 1.0, "ap_hard": 2 / 3})


def test_small_flagged_faces_count(detections):
    truth = entry([[0, 0, 5, 5]], easy=[0], medium=[0], hard=[1])
    values = scored((truth, detections([[0, 0, 5, 5]])))
    assert values == {"ap_easy": None, "ap_medium": None, "ap_hard": 1.0}


def test_unflagged_faces_lower_than_16_input_pixels_are_ignored(detections):
    truth = entry([[0, 0, 30, 32], [50, 0, 90, 31]])
    found = detections([[0, 0, 15, 16], [25, 0, 45, 15.5]], scores=[0.8, 0.9])
    # at half scale the first face is 16 px high and counts, the second is 15.5 px
    assert scored((truth, found), scale=HALF_SCALE) == {"ap_all": 1.0}
    assert scored((truth, detections([])), scale=HALF_SCALE) == {"ap_all": 0.0}
    assert scored((truth, detections([[0, 0, 30, 32]]))) == {"ap_all": 0.5}


def test_backgrounds_cost_precision_in_a_plain_ground_truth(detections):
    box = [0, 0, 20, 20]
    found, invented = detections([box], scores=[0.6]), detections([box, box], scores=[0.9, 0.4])
    values = scored((entry([box]), found), (entry([]), invented))
    assert values == {"ap_all": 0.5, "background_false_positives": 1.0}


def test_backgrounds_are_their_own_where_flags_are(detections):
    box = [0, 0, 20, 20]
    found, invented = detections([box], scores=[0.6]), detections([box], scores=[0.9])
    flagged = entry([box], easy=[1], medium=[1], hard=[1])
    values = scored((entry([box]), found), (entry([]), invented), (flagged, found))
    assert values == {
        "ap_easy": 1.0, "ap_medium": 1.0, "ap_hard": 1.0, "ap_all": 1.0, "background_false_positives": 1.0,
    }  # fmt: skip


def test_background_counts_from_half_on(detections):
    boxes = [[0, 0, 9, 9]] * 3
    assert scored((entry([]), detections(boxes, scores=[0.5, 0.49, 0.7]))) == {"background_false_positives": 2.0}


def test_photographs_without_ground_truth_are_unused(detections):
    nobody_looked = Entry(file="b.jpg", sha256=None, width=None, height=None, faces=None)
    invented = detections([[50, 50, 90, 90]], scores=[0.99])
    found = detections([[0, 0, 20, 20]])
    assert scored((None, invented), (nobody_looked, invented), (entry([[0, 0, 20, 20]]), found)) == {"ap_all": 1.0}
    assert scored((None, invented), (nobody_looked, invented)) == {}


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=30), st.integers(0, 5), st.randoms())
def test_area_is_a_ratio_and_ignores_order(rows, missed, random):
    faces = sum(hit for _, hit in rows) + missed
    area = curve([s / 8 for s, _ in rows], [hit for _, hit in rows], faces)
    assert area is None if faces == 0 else 0 <= area <= 1
    random.shuffle(rows)
    assert curve([s / 8 for s, _ in rows], [hit for _, hit in rows], faces) == pytest.approx(area)


@given(st.integers(1, 6), st.integers(0, 6))
def test_perfect_ranking_is_recall(found, missed):
    assert curve(np.linspace(0.9, 0.5, found), [True] * found, found + missed) == pytest.approx(
        found / (found + missed)
    )
