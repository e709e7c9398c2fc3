"""Goldens of the seeded detector, which photographs are chosen, and tolerances that follow from what was measured."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facex.errors import ArtifactError, PhotographError
from facex.goldens import choice, record, replay
from facex.goldens.format import Golden, GoldenSet, Tolerances
from facex.goldens.replay import Deviation, Replay
from facex.progress import Clock
from facex.reference import photographs
from facex.reference.detector import Detector, ReferenceSession
from facex.types import Head, Size, Verdict

SIZE = Size(height=160, width=160)


def _replay(*deviations: Deviation) -> Replay:
    goldens = tuple(
        Golden(file=f"golden_{i}.png", sha256="", source_height=1, source_width=1, scale=1.0, faces=())
        for i in range(len(deviations))
    )
    return Replay(goldens=GoldenSet(folder=Path(), size=SIZE, goldens=goldens), deviations=deviations)


_share = st.floats(0, 0.099)
_deviations = st.builds(
    Deviation,
    pairs=st.just(((0, 0),)),
    lost=st.lists(st.floats(0.5, 0.66), max_size=2).map(tuple),
    extra=st.lists(st.floats(0.5, 0.66), max_size=2).map(tuple),
    score=st.floats(0, 0.166),
    box=_share,
    landmark=_share,
)


@given(st.lists(_deviations, min_size=1, max_size=4))
def test_a_file_passes_by_its_own_tolerances_with_room_to_spare(deviations: list[Deviation]) -> None:
    seen = _replay(*deviations)
    found = record.tolerances("a.onnx", seen)
    assert {f.verdict for f in seen.findings("a.onnx", found)} == {Verdict.PASS}
    unpaired = [score - 0.5 for d in deviations for score in (*d.lost, *d.extra)]
    worst = {
        "score": max([*unpaired, *(d.score for d in deviations)]),
        "box": max(d.box for d in deviations),
        "landmark": max(d.landmark for d in deviations),
    }
    for name, value in worst.items():
        tolerance = getattr(found, name)
        assert 0.02 <= tolerance <= getattr(record.CEILING, name)
        assert tolerance == pytest.approx(max(0.02, 1.5 * value), abs=1e-4)
        assert tolerance >= min(0.02, 1.5 * value)
        assert tolerance == round(tolerance, 4)  # what is written is what is meant


@pytest.mark.parametrize(
    ("deviation", "name"),
    [
        (Deviation(pairs=((0, 0),), lost=(), extra=(), score=0.17, box=0.0, landmark=0.0), "score"),
        (Deviation(pairs=((0, 0),), lost=(0.9,), extra=(), score=0.0, box=0.0, landmark=0.0), "score"),
        (Deviation(pairs=((0, 0),), lost=(), extra=(0.68,), score=0.0, box=0.0, landmark=0.0), "score"),
        (Deviation(pairs=((0, 0),), lost=(), extra=(), score=0.0, box=0.11, landmark=0.0), "box"),
        (Deviation(pairs=((0, 0),), lost=(), extra=(), score=0.0, box=0.0, landmark=math.inf), "landmark"),
    ],
)
def test_what_would_need_more_is_refused(deviation: Deviation, name: str) -> None:
    with pytest.raises(ArtifactError, match=rf"a\.onnx: does not find the faces of the goldens: its {name} would"):
        record.tolerances("a.onnx", _replay(deviation))


@pytest.fixture
def recorded(detector: Detector, photo_dir: Path, tmp_path: Path) -> GoldenSet:
    found = photographs.find(photo_dir, option="--goldens")
    return record.record(found, detector, SIZE, tmp_path, threads=1, clock=Clock())


def test_a_golden_is_the_very_input_and_what_the_reference_finds_in_it(
    recorded: GoldenSet, detector: Detector, photo_dir: Path
) -> None:
    session = ReferenceSession(detector, SIZE, Head.DECODED, threads=1)
    sources = photographs.find(photo_dir, option="--goldens")
    assert [g.file for g in recorded.goldens] == [f"golden_{i}.png" for i in range(6)]
    for golden, source in zip(recorded.goldens, sources, strict=True):
        rgb = photographs.load(source.path)
        boxed = photographs.letterbox(rgb, SIZE, detector.contract.mean_rgb)
        pixels = np.asarray(Image.open(recorded.folder / golden.file))
        assert np.array_equal(pixels, boxed.pixels)
        assert (golden.source_height, golden.source_width) == rgb.shape[:2]
        assert golden.scale == pytest.approx(boxed.scale, rel=1e-5)
        outputs = session({"image": boxed.pixels[None]})
        assert len(golden.faces) == len(replay.faces(outputs, Head.DECODED, detector.contract, SIZE)) > 0
        assert [f.score for f in golden.faces] == sorted((f.score for f in golden.faces), reverse=True)
    seen = replay.replay(session, recorded, Head.DECODED, detector.contract)
    assert max(d.score for d in seen.deviations) < 1e-6
    assert max(d.box for d in seen.deviations) < 1e-4
    assert record.tolerances("it", seen) == Tolerances(score=0.02, box=0.02, landmark=0.02)


def test_raw_outputs_are_decoded_for_the_comparison(recorded: GoldenSet, detector: Detector) -> None:
    raw = ReferenceSession(detector, SIZE, Head.RAW, threads=1)
    seen = replay.replay(raw, recorded, Head.RAW, detector.contract)
    assert all(d.pairs and not d.lost and not d.extra and d.landmark < 1e-4 for d in seen.deviations)


def test_too_few_faces_are_refused(
    detector: Detector, tmp_path: Path, photo_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        Image.new("RGB", (64, 64), (123, 117, 104)).save(tmp_path / f"{i}.png")
    found = photographs.find(tmp_path, option="--goldens")
    with pytest.raises(PhotographError, match=r"finds \d faces with a score of 0\.7 or more in the best 3 of 3"):
        record.record(found, detector, SIZE, tmp_path, threads=1, clock=Clock())
    monkeypatch.setattr(record, "MIN_FACES", 10_000)
    with pytest.raises(PhotographError, match=r"too few to compare \(at least 10000\)"):
        record.record(photographs.find(photo_dir, option="x"), detector, SIZE, tmp_path, threads=1, clock=Clock())


def test_candidates_are_evenly_spaced_over_a_folder(tmp_path: Path) -> None:
    for i in range(72):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{i:02d}.png")
    chosen = record.candidates(tmp_path, Clock())
    assert [p.path.stem for p in chosen] == [f"{i:02d}" for i in range(0, 72, 3)]
    with pytest.raises(PhotographError, match=r"--goldens .*none: no such folder"):
        record.candidates(tmp_path / "none", Clock())


def _rate(faces: list[tuple[float, float]]) -> choice.Rating:
    """Of boxes of 40 px at these x with these scores, points 10 px inside."""
    boxes = np.asarray([[x, 0, x + 40, 40] for x, _ in faces], np.float32).reshape(-1, 4)
    landmarks = np.asarray([[x + 10, 10, x + 30, 10] for x, _ in faces], np.float32).reshape(-1, 4)
    return choice.rate(boxes, np.asarray([s for _, s in faces], np.float32), landmarks, sure=0.7)


def test_a_rating_tells_what_rounding_could_change() -> None:
    assert _rate([]) == choice.Rating(sure=0, doubtful=0, sway=0.0)
    assert _rate([(0, 0.99), (200, 0.8)]) == choice.Rating(sure=2, doubtful=0, sway=0.0)
    assert _rate([(0, 0.99), (200, 0.55), (300, 0.45), (400, 0.3)]) == choice.Rating(sure=1, doubtful=2, sway=0.0)
    rival = _rate([(0, 0.95), (8, 0.94)])  # 8 px of 40 away, and nearly as sure
    assert (rival.doubtful, rival.sway) == (0, pytest.approx(0.2))
    assert _rate([(0, 0.95), (8, 0.6)]).sway == 0.0
    assert _rate([(0, 0.999999), (8, 0.9999999)]).sway == pytest.approx(0.2)  # both saturated


def test_the_settled_photographs_are_chosen_and_stay_in_order() -> None:
    ratings = [
        choice.Rating(sure=0, doubtful=0, sway=0.0),
        choice.Rating(sure=2, doubtful=1, sway=0.0),
        choice.Rating(sure=1, doubtful=0, sway=0.3),
        choice.Rating(sure=5, doubtful=0, sway=0.1),
    ]
    assert [choice.best(ratings, n) for n in range(5)] == [[], [3], [2, 3], [1, 2, 3], [0, 1, 2, 3]]
