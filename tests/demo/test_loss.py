"""Matching and the multi-task loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facex.demo import loss
from facex.reference import geometry

VARIANCES = (0.1, 0.2)
ANCHORS = np.array([[x, y, s, s] for y in (8, 24, 40, 56) for x in (8, 24, 40, 56) for s in (16, 32)], np.float32)
FACE = np.array([[2, 2, 16, 18]], np.float32)
POINTS = np.array([[[5, 6], [12, 6], [9, 10], [6, 14], [12, 14]]], np.float32)
ALL = np.array([True])


def _overlap(box: np.ndarray, anchor: np.ndarray) -> float:
    """Intersection over union, one pair at a time."""
    ax0, ay0, ax1, ay1 = (
        anchor[0] - anchor[2] / 2,
        anchor[1] - anchor[3] / 2,
        anchor[0] + anchor[2] / 2,
        anchor[1] + anchor[3] / 2,
    )
    w, h = min(box[2], ax1) - max(box[0], ax0), min(box[3], ay1) - max(box[1], ay0)
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((box[2] - box[0]) * (box[3] - box[1]) + anchor[2] * anchor[3] - w * h)


def test_priors_get_the_label_of_their_overlap() -> None:
    targets = loss.match(FACE, POINTS, ALL, ANCHORS, VARIANCES)
    for label, anchor in zip(targets.label, ANCHORS, strict=True):
        iou = _overlap(FACE[0], anchor)
        expected = 1 if iou >= loss.POSITIVE_IOU else loss.IGNORED if iou >= loss.NEGATIVE_IOU else 0
        assert label == expected
    assert (targets.label == 1).any()


def test_what_positive_priors_learn_decodes_to_the_face() -> None:
    targets = loss.match(FACE, POINTS, ALL, ANCHORS, VARIANCES)
    boxes, points = geometry.decode(targets.loc, targets.landm, ANCHORS, VARIANCES)
    mine = targets.label == 1
    assert boxes[mine] == pytest.approx(np.repeat(FACE, mine.sum(), 0), abs=1e-3)
    assert points[mine] == pytest.approx(np.repeat(POINTS, mine.sum(), 0), abs=1e-3)


def test_a_face_that_fits_no_prior_still_gets_the_best_one() -> None:
    tiny = np.array([[30, 30, 33, 33]], np.float32)
    targets = loss.match(tiny, POINTS, ALL, ANCHORS, VARIANCES)
    best = max(range(len(ANCHORS)), key=lambda i: _overlap(tiny[0], ANCHORS[i]))
    assert np.flatnonzero(targets.label == 1).tolist() == [best]


def test_two_faces_that_want_one_prior_leave_it_to_the_one_that_fits_better() -> None:
    faces = np.array([[4, 4, 12, 12], [1, 1, 15, 15]], np.float32)
    points = np.concatenate([POINTS, POINTS])
    targets = loss.match(faces, points, np.array([True, True]), ANCHORS, VARIANCES)
    boxes, _ = geometry.decode(targets.loc, targets.landm, ANCHORS, VARIANCES)
    assert boxes[0] == pytest.approx(faces[1], abs=1e-3)


def test_priors_on_a_face_that_does_not_count_teach_nothing() -> None:
    targets = loss.match(FACE, POINTS, np.array([False]), ANCHORS, VARIANCES)
    counted = loss.match(FACE, POINTS, ALL, ANCHORS, VARIANCES)
    assert not (targets.label == 1).any()
    assert (targets.label[counted.label == 1] == loss.IGNORED).all()


def test_without_faces_everything_is_background() -> None:
    none = loss.match(FACE[:0], POINTS[:0], ALL[:0], ANCHORS, VARIANCES)
    assert not none.label.any()


def _outputs(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    n = len(ANCHORS)
    return tuple(torch.from_numpy(rng.standard_normal((2, n, k)).astype(np.float32)) for k in (4, 2, 10))  # type: ignore[return-value]


@pytest.mark.parametrize("emphasis", [loss.FACES, loss.LANDMARKS, loss.LARGE])
def test_the_loss_is_that_of_its_definition(monkeypatch: pytest.MonkeyPatch, emphasis: loss.Emphasis) -> None:
    monkeypatch.setattr(loss, "MIN_NEGATIVES", 3)
    faces = np.array([[2, 2, 16, 18], [20, 4, 60, 62]], np.float32)  # below and above what LARGE weighs in full
    targets = [
        loss.match(faces, np.concatenate([POINTS, POINTS + 20]), np.array([True, True]), ANCHORS, VARIANCES),
        loss.match(FACE[:0], POINTS[:0], ALL[:0], ANCHORS, VARIANCES),
    ]
    outputs = _outputs(1)
    found = loss.multitask(outputs, targets, emphasis)
    loc, logits, landm = (o.numpy().astype(np.float64) for o in outputs)
    positives = sum(int((t.label == 1).sum()) for t in targets)
    entropy = box = mark = shares = 0.0
    for b, t in enumerate(targets):
        wrong = []
        for i, label in enumerate(t.label):
            z = logits[b, i]
            cost = np.log(np.exp(z).sum()) - z[max(label, 0)]
            if label == 1:
                entropy += cost
                box += sum(_smooth(d, 1.0) for d in loc[b, i] - t.loc[i])
                face = max(faces, key=lambda f: _overlap(f, ANCHORS[i]))
                share = min(1.0, (face[3] - face[1]) / emphasis.full) if emphasis.full else 1.0
                mark += share * sum(_smooth(d, emphasis.turn) for d in landm[b, i] - t.landm[i])
                shares += share
            elif label == 0:
                wrong.append(cost)
        kept = max(3, loss.NEGATIVES * int((t.label == 1).sum()))
        entropy += sum(sorted(wrong, reverse=True)[:kept])
    assert float(found["class"]) == pytest.approx(entropy / positives, rel=1e-5)
    assert float(found["box"]) == pytest.approx(loss.BOX_WEIGHT * box / positives, rel=1e-5)
    assert float(found["landmark"]) == pytest.approx(emphasis.weight * mark / shares, rel=1e-5)


def _smooth(d: float, turn: float) -> float:
    return 0.5 * d * d / turn if abs(d) < turn else abs(d) - 0.5 * turn


def test_a_batch_without_faces_has_a_loss_that_is_finite() -> None:
    none = loss.match(FACE[:0], POINTS[:0], ALL[:0], ANCHORS, VARIANCES)
    parts = loss.multitask(_outputs(2), [none, none])
    assert float(parts["class"]) > 0
    assert float(parts["box"]) == float(parts["landmark"]) == 0
