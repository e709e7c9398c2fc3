"""Surfaces to pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.demo.surfaces import Lamp, Lighting, Material, Surface, View, normals, render

VIEW = View(pixels_per_unit=20.0, distance=10.0, origin=(40.0, 30.0), shape=(60, 80))


def _paint(colour: tuple[float, float, float]) -> Callable[[NDArray[np.intp]], Material]:
    return lambda index: Material(
        albedo=np.tile(np.float32(colour), (len(index), 1)), gloss=np.zeros(len(index), np.float32)
    )


def _plane(z: float, half: float, colour: tuple[float, float, float], *, n: int = 160) -> Surface:
    x, y = np.meshgrid(np.linspace(-half, half, n), np.linspace(half, -half, n))
    return Surface(points=np.stack([x, y, np.full_like(x, z)], -1).astype(np.float32), paint=_paint(colour))


def _light(*lamps: Lamp, around: float = 0.0) -> Lighting:
    return Lighting(lamps=lamps, sky=np.full(3, around, np.float32), ground=np.full(3, around, np.float32))


def _lamp(x: float, y: float, z: float, *, casts: bool = True) -> Lamp:
    direction = np.array([x, y, z], np.float32)
    return Lamp(direction=direction / np.linalg.norm(direction), colour=np.ones(3, np.float32), casts=casts)


def test_a_point_lands_where_a_pinhole_camera_puts_it() -> None:
    at = VIEW.project(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 5]]))
    # twice as near is twice as large
    assert at.tolist() == [[40, 30], [60, 30], [40, 10], [80, -10]]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_surface_hides_the_other(order: tuple[int, int]) -> None:
    both = [_plane(0.0, 1.0, (1, 0, 0)), _plane(0.5, 0.5, (0, 1, 0))]
    picture = render([both[i] for i in order], VIEW, _light(around=1.0))
    assert picture.colour[30, 40].tolist() == [0, 1, 0]
    assert picture.colour[30, 55].tolist() == [1, 0, 0]
    assert not picture.covered[5, 5]
    assert picture.surface[30, 40] == order.index(1)
    assert picture.surface[5, 5] == -1


def test_a_plane_is_closed_and_as_large_as_it_is() -> None:
    picture = render([_plane(0.0, 1.0, (1, 1, 1))], VIEW, _light(around=1.0))
    rows, columns = np.nonzero(picture.covered)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 50, 20, 60)
    assert picture.covered.sum() == 41 * 41


def test_what_points_missed_is_filled_from_beside_and_not_from_behind() -> None:
    # every second column of the near plane is missing, and a far one shines through
    near = _plane(1.0, 1.0, (1, 0, 0))
    at = VIEW.project(near.points)[..., 0]
    sparse = Surface(points=near.points, paint=near.paint, keep=np.rint(at).astype(int) % 2 == 0)
    picture = render([sparse, _plane(-1.0, 2.0, (0, 0, 1))], VIEW, _light(around=1.0))
    inside = picture.colour[15:45, 25:55]
    assert (inside == np.float32([1, 0, 0])).all()


def test_points_that_do_not_exist_are_not_drawn() -> None:
    plane = _plane(0.0, 1.0, (1, 1, 1))
    keep = plane.points[..., 0] < 0
    picture = render([Surface(points=plane.points, paint=plane.paint, keep=keep)], VIEW, _light(around=1.0))
    assert picture.covered[30, 30]
    assert not picture.covered[30, 50]


def test_normals_of_a_sphere_point_away_from_its_centre() -> None:
    a, b = np.meshgrid(np.linspace(0, 2 * np.pi, 400), np.linspace(-1.2, 1.2, 200))
    points = np.stack([np.cos(b) * np.sin(a), np.sin(b), np.cos(b) * np.cos(a)], -1).astype(np.float32)
    front = np.flatnonzero((points[..., 2] > 0.2).ravel())
    front = front[(front % 400 > 0) & (front % 400 < 399)]
    assert (normals(points, front) * points.reshape(-1, 3)[front]).sum(1).min() > 0.999


def test_light_falls_off_with_its_angle() -> None:
    plane = _plane(0.0, 1.0, (0.5, 0.5, 0.5))
    straight, slanted, behind = (
        render([plane], VIEW, _light(_lamp(*to, casts=False))).colour[30, 40]
        for to in ((0, 0, 1), (0, 1, 1), (0, 0, -1))
    )
    wrap = np.array([0.28, 0.16, 0.12])
    assert straight == pytest.approx([0.5] * 3, rel=1e-4)
    assert slanted == pytest.approx(0.5 * (np.sqrt(0.5) + wrap) / (1 + wrap), rel=1e-4)
    assert behind == pytest.approx([0, 0, 0])


def test_what_is_in_the_way_of_a_lamp_casts_a_shadow_and_nothing_else_does() -> None:
    floor, hat = _plane(0.0, 1.4, (1, 1, 1), n=240), _plane(1.0, 0.3, (1, 1, 1))
    sideways = _lamp(1, 0, 1)  # the shadow of what is one unit up lies one unit to the left
    lit = render([floor, hat], VIEW, _light(sideways)).colour[..., 0]
    clear = render([floor, hat], VIEW, _light(_lamp(1, 0, 1, casts=False))).colour[..., 0]
    shadow = (lit < 0.05) & (clear > 0.5)
    rows, columns = np.nonzero(shadow)
    assert columns.mean() == pytest.approx(20, abs=1.5)
    assert rows.mean() == pytest.approx(30, abs=1.5)
    assert shadow.sum() == pytest.approx(12 * 12, rel=0.35)
    beside = lit[30, 50:60]
    assert beside == pytest.approx(clear[30, 50:60], rel=1e-4)
