"""What is kept of a comparison, counted again one by one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from facex.parity.metrics import Accumulator
from facex.parity.witness import SCENES, Witness
from facex.types import Selection

HERE = [0, 0, 10, 10]
THERE = [50, 50, 90, 80]
FAR = [200, 200, 220, 230]


@pytest.fixture
def told():
    """`told(pairs)` gives what a witness says of (reference, candidate) photographs named 0, 1, …"""

    def tell(pairs):
        accumulator, witness = Accumulator(), Witness()
        for i, (reference, candidate) in enumerate(pairs):
            measured = accumulator.add(reference, candidate, {}, {})
            witness.add(Path(f"{i}.jpg"), 0.5, reference, candidate, measured)
        return accumulator, witness.sightings()

    return tell


def test_lost_and_extra_faces_are_told_apart(told, detections):
    reference = detections([HERE, THERE], [0.9, 0.6])
    candidate = detections([THERE, FAR], [0.7, 0.55])
    _, seen = told([(reference, candidate)])
    (scene,) = seen.scenes
    assert (scene.lost.tolist(), scene.extra.tolist()) == ([0], [1])
    assert seen.lost_scores.tolist() == pytest.approx([0.9])
    assert seen.extra_scores.tolist() == pytest.approx([0.55])
    assert seen.reference_scores.tolist() == pytest.approx([0.6])
    assert seen.candidate_scores.tolist() == pytest.approx([0.7])
    assert seen.side_px.tolist() == pytest.approx([math.sqrt(40 * 30)])
    assert (seen.photographs, seen.differing) == (1, 1)


def test_figures_of_faces_agree_with_the_metrics(told, detections):
    random = np.random.default_rng(3)
    pairs = []
    for _ in range(5):
        corner = random.uniform(0, 400, (6, 2))
        boxes = np.hstack([corner, corner + random.uniform(20, 60, (6, 2))])
        points = corner[:, None] + random.uniform(0, 20, (6, 5, 2))
        moved = points + random.normal(0, 1, points.shape)
        scores = random.uniform(0.5, 1, 6)
        pairs.append((detections(boxes, scores, points), detections(boxes, scores[::-1], moved)))
    accumulator, seen = told(pairs)
    values = accumulator.metrics()
    assert len(seen.nme) == accumulator.counts.matched
    assert float(seen.nme.mean()) == pytest.approx(values["landmark_nme_mean"], rel=1e-5)
    shift = np.abs(seen.candidate_scores - seen.reference_scores)
    assert float(shift.max()) == pytest.approx(values["score_shift_max"], rel=1e-5)


def test_the_worst_photographs_are_kept_and_no_others(told, detections):
    none = detections([])
    alike = detections([HERE, THERE])
    sure, unsure = detections([HERE], [0.8]), detections([HERE], [0.6])
    moved = detections([HERE, THERE], landmarks=alike.landmarks + np.float32(3))
    pairs = [
        (alike, alike),  # 0: nothing
        (none, none),  # 1: no face at all, never shown
        (unsure, none),  # 2: a face lost that the reference is not sure of
        (none, unsure),  # 3: an extra face
        (alike, moved),  # 4: landmarks
        (sure, none),  # 5: a sure face lost
        (alike, alike),  # 6: nothing
    ]
    _, seen = told(pairs)
    assert [scene.path.stem for scene in seen.scenes] == ["5", "2", "3", "4"]
    assert len(seen.scenes) == SCENES
    assert (seen.photographs, seen.differing) == (7, 3)
    _, few = told(pairs[:2])
    assert [scene.path.stem for scene in few.scenes] == ["0"]


def test_a_face_near_the_threshold_of_a_file_is_not_sure(detections):
    """One lost face that the reference would be sure of elsewhere goes behind two, as in `lost_faces`."""
    one, two, none = detections([HERE], [0.8]), detections([HERE, THERE], [0.55, 0.55]), detections([])
    seen = {}
    for threshold in (0.5, 0.7):
        accumulator, witness = Accumulator(Selection(score_threshold=threshold)), Witness()
        for name, reference in (("one", one), ("two", two)):
            outputs = {
                "boxes": np.zeros((1, 1, 4), np.float32),
                "scores": np.zeros((1, 1), np.float32),
                "count": np.zeros(1, np.int32),
            }
            witness.add(Path(name), 1.0, reference, none, accumulator.add(reference, none, outputs, outputs))
        seen[threshold] = [scene.path.name for scene in witness.sightings().scenes], accumulator.counts.lost
    assert seen == {0.5: (["one", "two"], 1), 0.7: (["two", "one"], 0)}


def test_of_photographs_alike_the_first_stay(told, detections):
    _, seen = told([(detections([HERE]), detections([HERE]))] * 9)
    assert [scene.path.stem for scene in seen.scenes] == ["0", "1", "2", "3"]


def test_landmarks_that_are_not_finite_are_the_worst(told, detections):
    alike = detections([HERE])
    broken = detections([HERE], landmarks=np.full((1, 2, 2), np.nan))
    _, seen = told([(alike, alike), (alike, broken)])
    assert seen.scenes[0].path.stem == "1"
    assert seen.scenes[0].nme == math.inf


def test_nothing_seen_is_nothing(told):
    _, seen = told([])
    assert (seen.photographs, len(seen.nme), seen.scenes) == (0, 0, ())
