"""The comparison of goldens against one written with loops, and findings that follow from it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facex.goldens.format import Face, Golden, GoldenSet, Tolerances
from facex.goldens.replay import Replay, deviation
from facex.types import Detections, Size, Verdict

LOOSE = Tolerances(score=0.05, box=0.1, landmark=0.1)


def _detections(faces: list[Face]) -> Detections:
    return Detections(
        boxes=np.asarray([f.box for f in faces], np.float32).reshape(-1, 4),
        scores=np.asarray([f.score for f in faces], np.float32),
        landmarks=np.asarray([f.landmarks for f in faces], np.float32).reshape(len(faces), 3, 2),
    )


def _face(x: float, y: float, side: float, score: float, shift: float = 0.0) -> Face:
    return Face(
        score=score,
        box=(x, y, x + side, y + 1.25 * side),
        landmarks=(x + shift, y, x + side, y + shift, x + side / 2, y + side),
    )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _by_hand(
    expected: list[Face], found: list[Face]
) -> tuple[list[tuple[int, int]], list[int], list[int], tuple[float, float, float]]:
    """Pairs, expected and found faces without one, and the worst of every measure, one thing after the other."""
    pairs: list[tuple[int, int]] = []
    while True:
        best: tuple[float, int, int] | None = None
        for i, e in enumerate(expected):
            for j, f in enumerate(found):
                if any(i == a or j == b for a, b in pairs):
                    continue
                iou = _overlap(e.box, f.box)
                if iou >= 0.5 and (best is None or iou > best[0]):
                    best = (iou, i, j)
        if best is None:
            break
        pairs.append(best[1:])
    worst = [0.0, 0.0, 0.0]
    for i, j in pairs:
        e, f = expected[i], found[j]
        side = math.sqrt((e.box[2] - e.box[0]) * (e.box[3] - e.box[1]))
        worst[0] = max(worst[0], abs(e.score - f.score))
        for k in range(4):
            worst[1] = max(worst[1], abs(e.box[k] - f.box[k]) / side)
        for k in range(0, len(e.landmarks), 2):
            gone = math.hypot(e.landmarks[k] - f.landmarks[k], e.landmarks[k + 1] - f.landmarks[k + 1])
            worst[2] = max(worst[2], gone / side)
    lost = [i for i in range(len(expected)) if i not in {a for a, _ in pairs}]
    extra = [j for j in range(len(found)) if j not in {b for _, b in pairs}]
    return pairs, lost, extra, (worst[0], worst[1], worst[2])


# positions on a coarse grid, so that overlaps are often equal; all exact in float32
_faces = st.lists(
    st.builds(
        _face,
        x=st.integers(0, 6).map(lambda n: 8.0 * n),
        y=st.integers(0, 6).map(lambda n: 8.0 * n),
        side=st.sampled_from([16.0, 32.0, 48.0]),
        score=st.integers(64, 127).map(lambda n: n / 128),
        shift=st.integers(-4, 4).map(lambda n: n / 4),
    ),
    max_size=7,
)


@given(expected=_faces, found=_faces)
def test_it_is_the_same_as_by_hand(expected: list[Face], found: list[Face]) -> None:
    seen = deviation(expected, _detections(found))
    pairs, lost, extra, worst = _by_hand(expected, found)
    assert list(seen.pairs) == pairs
    assert list(seen.lost) == [expected[i].score for i in lost]
    assert list(seen.extra) == [found[j].score for j in extra]
    assert (seen.score, seen.box, seen.landmark) == pytest.approx(worst)


@given(expected=_faces)
def test_what_was_expected_has_no_deviation(expected: list[Face]) -> None:
    apart = [_face(200.0 * i, 0, 32, f.score) for i, f in enumerate(expected)]
    seen = deviation(apart, _detections(apart))
    assert (seen.lost, seen.extra, seen.score, seen.box, seen.landmark) == ((), (), 0, 0, 0)


def test_equal_overlaps_go_to_the_earlier_expected_then_to_the_earlier_found_face() -> None:
    one = _face(0, 0, 32, 0.9)
    assert deviation([one, one], _detections([one, one])).pairs == ((0, 0), (1, 1))
    # overlaps of 1, and of 3/5 with either neighbour
    left, right = _face(-8, 0, 32, 0.9), _face(8, 0, 32, 0.9)
    assert deviation([one, left], _detections([right, one])).pairs == ((0, 1),)
    assert deviation([left, right], _detections([one])).pairs == ((0, 0),)
    assert deviation([one], _detections([left, right])).pairs == ((0, 0),)


def _findings(
    expected: list[Face], found: list[Face] | Detections, tolerances: Tolerances = LOOSE
) -> dict[str, Verdict]:
    seen = found if isinstance(found, Detections) else _detections(found)
    golden = Golden(file="g.png", sha256="", source_height=1, source_width=1, scale=1.0, faces=tuple(expected))
    goldens = GoldenSet(folder=Path(), size=Size(height=64, width=64), goldens=(golden,))
    replayed = Replay(goldens=goldens, deviations=(deviation(expected, seen),))
    return {f.name.removeprefix("golden."): f.verdict for f in replayed.findings("a.onnx", tolerances)}


PASSED = dict.fromkeys(("lost", "extra", "score", "box", "landmark"), Verdict.PASS)
HERE = _face(0, 0, 32, 0.9)
FAR = 500.0


@pytest.mark.parametrize(
    ("expected", "found", "failing"),
    [
        ([HERE], [HERE], set()),
        ([HERE, _face(FAR, 0, 32, 0.549)], [HERE], set()),  # doubtful: the tolerance covers it
        ([HERE, _face(FAR, 0, 32, 0.55)], [HERE], {"lost"}),
        ([HERE], [HERE, _face(FAR, 0, 32, 0.549)], set()),
        ([HERE], [HERE, _face(FAR, 0, 32, 0.551)], {"extra"}),
        ([HERE], [_face(0, 0, 32, 0.84)], {"score"}),
        ([HERE], [_face(0, 0, 32, 0.86)], set()),
        ([HERE], [_face(5, 0, 32, 0.9)], {"box", "landmark"}),
        ([HERE], [_face(3, 0, 32, 0.9)], set()),
        ([HERE], [_face(0, 0, 32, 0.9, shift=4)], {"landmark"}),
    ],
)
def test_each_rule_fails_alone(expected: list[Face], found: list[Face], failing: set[str]) -> None:
    assert _findings(expected, found) == {**PASSED, **dict.fromkeys(failing, Verdict.FAIL)}


@pytest.mark.parametrize(("field", "failing"), [("scores", {"extra", "score"}), ("landmarks", {"landmark"})])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_fails(field: str, failing: set[str], value: float) -> None:
    found = _detections([HERE])
    getattr(found, field)[0] = value
    failed = {name for name, verdict in _findings([HERE], found).items() if verdict is Verdict.FAIL}
    assert failed <= failing
    assert failed


def test_a_box_that_is_not_finite_is_no_partner() -> None:
    found = _detections([HERE])
    found.boxes[0, 2] = np.inf
    verdicts = _findings([HERE], found)
    assert (verdicts["lost"], verdicts["extra"]) == (Verdict.FAIL, Verdict.FAIL)
    assert verdicts["box"] is Verdict.FAIL


def test_a_file_that_finds_nothing_fails_however_much_is_tolerated() -> None:
    doubtful = _face(0, 0, 32, 0.7)
    verdicts = _findings([doubtful], [], Tolerances(score=0.25, box=0.15, landmark=0.15))
    assert verdicts["lost"] is Verdict.PASS
    assert {verdicts[kind] for kind in ("score", "box", "landmark")} == {Verdict.FAIL}
    assert _findings([], [])["box"] is Verdict.SKIPPED


@given(expected=_faces, found=_faces, factor=st.floats(1.0, 5.0))
def test_more_tolerance_never_fails_more(expected: list[Face], found: list[Face], factor: float) -> None:
    wider = Tolerances(score=LOOSE.score * factor, box=LOOSE.box * factor, landmark=LOOSE.landmark * factor)
    tight, wide = _findings(expected, found), _findings(expected, found, wider)
    assert all(wide[name] is not Verdict.FAIL for name, verdict in tight.items() if verdict is not Verdict.FAIL)
