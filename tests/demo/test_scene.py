"""Photographs of people who do not exist, and the truth about them."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facex.demo import figure, head, person, scene
from facex.demo.surfaces import View, render

pytestmark = pytest.mark.slow

SHAPE = (240, 320)
SEEDS = [(5, i) for i in range(12)]


def _bare(**pose: float) -> person.Person:
    """Somebody with nothing on or over the face."""
    who = person.random_person(np.random.default_rng(11), masked=0, pose=person.Pose(**pose))
    looks = dataclasses.replace(who.looks, hair_style="bald", beard="none", headwear="none", glasses="none")
    return dataclasses.replace(who, looks=looks, expression=person.Expression(), shape=person.Shape())


def _pixels(rendering: scene.Rendering) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(rendering.jpeg)))


@pytest.fixture(scope="module")
def renderings() -> list[scene.Rendering]:
    return [scene.photograph(seed, *SHAPE) for seed in SEEDS]


def test_a_seed_decides_every_byte(renderings: list[scene.Rendering]) -> None:
    again = scene.photograph(SEEDS[3], *SHAPE)
    assert again.jpeg == renderings[3].jpeg
    assert [f.box for f in again.faces] == [f.box for f in renderings[3].faces]
    assert len({r.jpeg for r in renderings}) == len(SEEDS)


def test_photographs_are_upright_jpegs_of_the_size_asked_for(renderings: list[scene.Rendering]) -> None:
    for r in renderings:
        image = Image.open(io.BytesIO(r.jpeg))
        assert (image.format, image.size, image.mode) == ("JPEG", (320, 240), "RGB")
        assert (r.height, r.width) == SHAPE


def test_photographs_use_the_range_and_differ(renderings: list[scene.Rendering]) -> None:
    means = [float(_pixels(r).mean()) for r in renderings]
    assert min(means) > 8
    assert max(means) < 247
    assert np.std(means) > 10
    assert all(float(_pixels(r).std()) > 8 for r in renderings)


def test_boxes_are_in_the_photograph_and_hold_what_is_told_of_them(renderings: list[scene.Rendering]) -> None:
    faces = [face for r in renderings for face in r.faces]
    assert len(faces) > 20
    for face in faces:
        x0, y0, x1, y1 = face.box
        assert 0 <= x0 < x1 <= 320
        assert 0 <= y0 < y1 <= 240
        assert 0 < face.visible <= 1
        assert face.landmarks.shape == (5, 2)


@pytest.mark.parametrize("pose", [{}, {"yaw": 0.5}, {"yaw": -0.9, "pitch": 0.2}, {"roll": 0.4, "yaw": 0.2}])
def test_the_box_is_the_extent_of_the_face_in_pixels(pose: dict[str, float]) -> None:
    """Held against a drawing of nothing but the part of the skin that is the face."""
    who = _bare(**pose)
    posed = figure.pose(who, 60.0, -2.0)
    view = View(pixels_per_unit=60.0, distance=scene.DISTANCE_UNITS, origin=(160.0, 130.0), shape=(260, 320))
    box = view.project(posed.outline)
    region = head.face_region(head.grid(who, 60.0), who.shape)
    skin = dataclasses.replace(posed.surfaces[0], keep=region)
    drawn = render([skin], view, scene.lighting(np.random.default_rng(0)))
    rows, columns = np.nonzero(drawn.covered)
    assert [*box.min(0), *box.max(0)] == pytest.approx([columns.min(), rows.min(), columns.max(), rows.max()], abs=1.5)


def test_the_box_has_the_proportions_of_a_face() -> None:
    """Held against lengths on a human head, in distances of the eyes: chin to hairline 2.8, ear to ear 2.2."""
    posed = figure.pose(_bare(), 60.0, -2.0)
    view = View(pixels_per_unit=60.0, distance=scene.DISTANCE_UNITS, origin=(160.0, 130.0), shape=(260, 320))
    box, points = view.project(posed.outline), view.project(posed.landmarks)
    width, height = box.max(0) - box.min(0)
    eyes = points[1, 0] - points[0, 0]
    assert height / eyes == pytest.approx(2.8, rel=0.06)
    assert width / eyes == pytest.approx(2.2, rel=0.06)
    assert (points > box.min(0)).all()
    assert (points < box.max(0)).all()


def test_landmarks_are_left_to_right_and_top_to_bottom_when_nobody_turns() -> None:
    posed = figure.pose(_bare(), 60.0, -2.0)
    left_eye, right_eye, nose, left_mouth, right_mouth = posed.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert left_eye[1] > nose[1] > left_mouth[1]
    assert left_eye[:2] * [-1, 1] == pytest.approx(right_eye[:2], abs=0.03)
    assert nose[2] == pytest.approx(posed.surfaces[0].points[..., 2].max(), abs=0.03)  # the tip is what comes nearest


@pytest.mark.parametrize(
    ("turn", "moves"), [({"yaw": 0.5}, (1, 0)), ({"pitch": 0.4}, (0, 1)), ({"yaw": -0.5}, (-1, 0))]
)
def test_the_nose_points_where_the_head_turns(turn: dict[str, float], moves: tuple[int, int]) -> None:
    still, turned = (figure.pose(_bare(**p), 40.0, -2.0).landmarks for p in ({}, turn))
    moved = (turned[2] - turned[:2].mean(0)) - (still[2] - still[:2].mean(0))
    assert np.dot(moved[:2], moves) > 0.1


def test_a_turn_is_a_rotation() -> None:
    yaw, pitch, roll = 0.3, -0.2, 0.7
    matrix = head.rotation(yaw, pitch, roll)
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-6)
    assert np.linalg.det(matrix) == pytest.approx(1)
    # one after the other, by the definition of each
    point = np.array([0.3, -0.5, 0.8])
    x, y, z = point
    y, z = y * np.cos(pitch) + z * np.sin(pitch), -y * np.sin(pitch) + z * np.cos(pitch)
    x, z = x * np.cos(yaw) + z * np.sin(yaw), -x * np.sin(yaw) + z * np.cos(yaw)
    x, y = x * np.cos(roll) + y * np.sin(roll), -x * np.sin(roll) + y * np.cos(roll)
    assert matrix @ point == pytest.approx([x, y, z], abs=1e-6)


def test_skins_span_the_human_range() -> None:
    rng = np.random.default_rng(0)
    tones = np.array([person.random_person(rng).looks.skin.mean() for _ in range(400)])
    light, dark = (float(person.linear(code).mean()) for code in (person.MONK_SCALE[0], person.MONK_SCALE[-1]))
    assert tones.max() > 0.75 * light
    assert tones.min() < 2 * dark
    # and leave no quarter of it out, as the eye sees it
    counts, _ = np.histogram(np.sqrt(tones), np.linspace(np.sqrt(dark), np.sqrt(light), 5))
    assert counts.min() > 20


def test_a_face_behind_another_is_less_visible() -> None:
    """Two people in one place: of the farther one, next to nothing can be seen."""
    rng = np.random.default_rng(4)
    light = scene.lighting(rng)
    canvas, owner = np.zeros((*SHAPE, 3), np.float32), np.full(SHAPE, -1, np.int64)
    who = _bare()
    drawn = []
    for number, size in enumerate((60.0, 64.0)):
        picture = scene.draw(who, scene.Place(x=160.0, y=110.0, height=size), light, SHAPE)
        assert picture is not None
        scene.paste(canvas, owner, picture, number)
        drawn.append(picture)
    behind, before = (scene.truth(i, picture, who, owner) for i, picture in enumerate(drawn))
    assert behind is None or behind.visible < 0.05
    assert before is not None
    assert before.visible > 0.95


def test_the_edge_of_the_photograph_cuts_the_box_and_what_is_visible() -> None:
    light = scene.lighting(np.random.default_rng(4))
    owner = np.full(SHAPE, -1, np.int64)
    picture = scene.draw(_bare(), scene.Place(x=0.0, y=110.0, height=80.0), light, SHAPE)
    assert picture is not None
    scene.paste(np.zeros((*SHAPE, 3), np.float32), owner, picture, 0)
    face = scene.truth(0, picture, _bare(), owner)
    assert face is not None
    assert face.box[0] == 0
    assert face.visible == pytest.approx(0.5, abs=0.08)


def test_nobody_is_drawn_where_the_photograph_is_not() -> None:
    light = scene.lighting(np.random.default_rng(4))
    assert scene.draw(_bare(), scene.Place(x=-900.0, y=110.0, height=80.0), light, SHAPE) is None
