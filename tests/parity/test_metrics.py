from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facex.errors import ArtifactError
from facex.parity.metrics import Accumulator
from facex.types import Detections

FACE_METRICS = (
    "matched_f1", "lost_faces", "box_iou_mean", "box_iou_p5", "score_shift_mean", "score_shift_max",
    "landmark_nme_mean", "landmark_nme_p95", "landmark_error_max_px",
)  # fmt: skip
OVER_MATCHES = FACE_METRICS[2:]


def measured(*photographs, outputs=({}, {})):
    accumulator = Accumulator()
    for reference, candidate in photographs:
        accumulator.add(reference, candidate, *outputs)
    return accumulator.metrics()


def test_f1_counts_over_all_photographs(detections):
    a, b, far = [0, 0, 10, 10], [20, 0, 30, 10], [80, 80, 90, 90]
    values = measured(
        (detections([a, b]), detections([a])),  # one matched, one missed
        (detections([a]), detections([a, far])),  # one matched, one invented
        (detections([]), detections([far])),  # one invented
    )
    # TP 2, FP 2, FN 1
    assert values["matched_f1"] == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))


def test_lost_faces_are_sure_ones_without_a_match(detections):
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
    reference = detections(boxes, scores=[0.9, 0.7, 0.69, 0.95])
    candidate = detections([boxes[0], boxes[3]], scores=[0.5, 0.5])
    # of the three at or above 0.7 only the second is lost; the third is not sure
    assert measured((reference, candidate))["lost_faces"] == pytest.approx(1 / 3)


def test_one_candidate_cannot_save_two_faces(detections):
    reference = detections([[0, 0, 10, 10], [0, 0, 10, 9]])
    assert measured((reference, detections([[0, 0, 10, 9.5]])))["lost_faces"] == 0.5


def test_box_iou_and_score_shift(detections):
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10]]
    reference = detections(boxes, scores=[0.9, 0.8])
    candidate = detections([[0, 0, 10, 8], boxes[1]], scores=[0.6, 0.85])
    values = measured((reference, candidate))
    assert values["box_iou_mean"] == pytest.approx(0.9)
    assert values["box_iou_p5"] == pytest.approx(0.8 + 0.05 * 0.2)  # between the two
    assert values["score_shift_mean"] == pytest.approx((0.3 + 0.05) / 2, rel=1e-5)
    assert values["score_shift_max"] == pytest.approx(0.3, rel=1e-5)


def test_landmark_error_is_relative_to_the_reference_box(detections):
    box = [0, 0, 40, 10]  # sqrt(area) = 20
    points = np.array([[[5, 5], [10, 5]]], float)
    moved = points + np.array([[[3, 4], [0, 0]]])  # 5 px and 0 px
    values = measured((detections([box], landmarks=points), detections([[0, 0, 40, 9]], landmarks=moved)))
    assert values["landmark_nme_mean"] == pytest.approx(2.5 / 20)
    assert values["landmark_error_max_px"] == pytest.approx(5)


def test_nme_percentile_is_over_faces(detections):
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(21)]
    points = np.zeros((21, 2, 2))
    moved = points.copy()
    moved[:, :, 0] = np.arange(21)[:, None]
    values = measured((detections(boxes, landmarks=points), detections(boxes, landmarks=moved)))
    assert values["landmark_nme_p95"] == pytest.approx(1.9)
    assert values["landmark_nme_mean"] == pytest.approx(1.0)


def test_identical_detections_are_perfect(detections):
    faces = detections([[0, 0, 10, 10], [20, 0, 30, 10]])
    values = measured((faces, faces))
    assert values == {
        "matched_f1": 1, "lost_faces": 0, "box_iou_mean": 1, "box_iou_p5": 1, "score_shift_mean": 0,
        "score_shift_max": 0, "landmark_nme_mean": 0, "landmark_nme_p95": 0, "landmark_error_max_px": 0,
    }  # fmt: skip


def test_no_face_anywhere_is_nothing_measured(detections):
    values = measured((detections([]), detections([])))
    assert values == dict.fromkeys(FACE_METRICS)
    assert measured() == dict.fromkeys(FACE_METRICS)


def test_invented_faces_alone_fail_f1(detections):
    values = measured((detections([]), detections([[0, 0, 10, 10]])))
    assert values["matched_f1"] == 0
    assert all(values[name] is None for name in FACE_METRICS[1:])


def test_faces_without_any_match_are_not_a_number(detections):
    values = measured((detections([[0, 0, 10, 10]]), detections([])))
    assert values["matched_f1"] == 0
    assert values["lost_faces"] == 1
    assert all(math.isnan(values[name]) for name in OVER_MATCHES)


def test_unsure_faces_alone_leave_lost_faces_unmeasured(detections):
    faces = detections([[0, 0, 10, 10]], scores=[0.6])
    assert measured((faces, faces))["lost_faces"] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_landmarks_and_scores_that_are_not_finite_are_not_a_number(detections, bad):
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10]]
    points = np.zeros((2, 2, 2))
    points[1, 1, 0] = bad
    values = measured((detections(boxes), detections(boxes, landmarks=points)))
    for name in ("landmark_nme_mean", "landmark_nme_p95", "landmark_error_max_px"):
        assert math.isnan(values[name]), name
    values = measured((detections(boxes), detections(boxes, scores=[0.9, bad])))
    assert math.isnan(values["score_shift_max"])
    assert math.isnan(values["score_shift_mean"])


def test_snr_accumulates_energy_over_photographs(detections):
    none, accumulator = detections([]), Accumulator()
    accumulator.add(none, none, {"loc": np.float32([3, 4])}, {"loc": np.float32([3, 3.5])})
    accumulator.add(none, none, {"loc": np.float32([0, 5])}, {"loc": np.float32([0.5, 5])})
    values = accumulator.metrics()
    assert values["snr_db.loc"] == pytest.approx(10 * math.log10((25 + 25) / (0.25 + 0.25)))
    assert values["max_abs.loc"] == 0.5
    assert values["matched_f1"] is None


@pytest.mark.parametrize(
    ("reference", "candidate", "snr_db"),
    [
        ([1, 2], [1, 2], 200.0),
        ([0, 0], [0, 0], 200.0),
        ([1, 2], [0, 0], 0.0),
        ([0, 0], [1, 2], -200.0),
        ([1e19, 0], [1e19, 0], 200.0),  # the square leaves float32
    ],
)
def test_snr_at_its_ends(detections, reference, candidate, snr_db):
    none = detections([])
    values = measured((none, none), outputs=({"conf": np.float32(reference)}, {"conf": np.float32(candidate)}))
    assert values["snr_db.conf"] == snr_db


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reference", [1.0, np.inf])
def test_an_output_that_is_not_finite_is_never_a_number_again(detections, bad, reference):
    none, accumulator = detections([]), Accumulator()
    accumulator.add(none, none, {"loc": np.float32([reference, 1])}, {"loc": np.float32([bad, 1])})
    accumulator.add(none, none, {"loc": np.float32([1, 1])}, {"loc": np.float32([1, 1])})
    values = accumulator.metrics()
    assert math.isnan(values["snr_db.loc"])
    assert math.isnan(values["max_abs.loc"])


def test_empty_tensors_are_identical(detections):
    none, empty = detections([]), np.zeros((1, 0, 4), np.float32)
    values = measured((none, none), outputs=({"loc": empty}, {"loc": empty}))
    assert (values["snr_db.loc"], values["max_abs.loc"]) == (200.0, 0.0)


def test_other_outputs_cannot_be_compared(detections):
    none, accumulator = detections([]), Accumulator()
    loc = np.zeros((1, 8, 4), np.float32)
    with pytest.raises(ArtifactError, match=r"no output conf, landm .*it has loc"):
        accumulator.add(none, none, {"loc": loc, "conf": loc, "landm": loc}, {"loc": loc})
    with pytest.raises(ArtifactError, match=r"output loc has shape \[1, 6, 4\], the reference has \[1, 8, 4\]"):
        accumulator.add(none, none, {"loc": loc}, {"loc": loc[:, :6]})
    assert accumulator.counts.photographs == 0


def test_counts(detections):
    accumulator = Accumulator()
    a, b = [0, 0, 10, 10], [20, 0, 30, 10]
    accumulator.add(detections([a, b], scores=[0.9, 0.6]), detections([a]), {}, {})
    accumulator.add(detections([]), detections([b]), {}, {})
    counts = accumulator.counts
    assert (counts.photographs, counts.reference_faces, counts.candidate_faces, counts.matched) == (
        2,
        2,
        2,
        1,
    )
    assert (counts.sure_faces, counts.lost) == (1, 0)


finite = st.floats(0, 1, width=32)


@st.composite
def scenes(draw):
    count = draw(st.integers(0, 5))
    x = draw(st.lists(st.integers(0, 20), min_size=4 * count, max_size=4 * count))
    values = np.asarray(x, np.float32).reshape(-1, 4)
    boxes = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:] + 1], axis=1)
    scores = draw(st.lists(finite, min_size=count, max_size=count))
    return Detections(boxes=boxes, scores=np.asarray(scores, np.float32), landmarks=boxes.reshape(-1, 2, 2))


@given(scenes())
def test_f1_of_identical_detections_is_one(scene):
    values = measured((scene, scene))
    assert values["matched_f1"] == (1.0 if len(scene) else None)


@given(scenes(), scenes(), st.randoms(use_true_random=False))
def test_order_of_the_detections_changes_nothing(reference, candidate, random):
    order = list(range(len(candidate)))
    random.shuffle(order)
    shuffled = Detections(
        boxes=candidate.boxes[order], scores=candidate.scores[order], landmarks=candidate.landmarks[order]
    )
    values, again = measured((reference, candidate)), measured((reference, shuffled))
    assert again == pytest.approx(values, nan_ok=True)


@given(scenes(), scenes())
def test_ratios_stay_in_range(reference, candidate):
    values = measured((reference, candidate))
    for name in ("matched_f1", "lost_faces", "box_iou_mean", "box_iou_p5"):
        assert values[name] is None or math.isnan(values[name]) or 0 <= values[name] <= 1
