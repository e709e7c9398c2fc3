"""Curved surfaces to pixels: dense points, a depth buffer, shading of what is seen, and shadows.

A surface is a grid of points so dense that neighbours fall on neighbouring pixels, so that no triangle is ever filled.
What it looks like is asked only for the points that won their pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.demo.noise import FloatArray

SHADOW_CELLS_PER_UNIT = 28.0
SHADOW_BIAS = 0.07
"""How far off its surface a point is looked up, units: the cells of the depth buffer are coarser than the points."""

SHADOW_POINTS_PER_UNIT = 48.0
"""Points of a surface along a unit that are enough to leave no hole between those cells."""

SHADOW_TAPS = ((0.0, 0.0), (1.1, 0.4), (-0.4, 1.1), (-1.1, -0.4), (0.4, -1.1))
HOLE_DEPTH = 0.09
"""A pixel this far behind two opposite neighbours, in units, is a hole in their surface."""

_HOLE_PASSES = 2


@dataclass(frozen=True, kw_only=True)
class Material:
    """What points look like: albedo float32 [N, 3] linear RGB 0-1, gloss float32 [N], glow float32 [N, 3] emitted."""

    albedo: FloatArray
    gloss: FloatArray
    glow: FloatArray | None = None


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A grid of points.

    Attributes:
        points: float32 [R, C, 3], units.
        paint: flat indices into the grid, int [N], to their material.
        keep: bool [R, C], the points that exist; None is all.
        two_sided: whether the back of it can be seen, as that of cloth; otherwise it is culled.
    """

    points: FloatArray
    paint: Callable[[NDArray[np.intp]], Material]
    keep: NDArray[np.bool_] | None = None
    two_sided: bool = True


@dataclass(frozen=True, kw_only=True)
class View:
    """A pinhole camera on the z axis, and the pixels it fills.

    Attributes:
        pixels_per_unit: at z = 0.
        distance: of the pinhole from the origin, units.
        origin: column and row of the point (0, 0, 0).
        shape: rows and columns.
    """

    pixels_per_unit: float
    distance: float
    origin: tuple[float, float]
    shape: tuple[int, int]

    def project(self, points: NDArray[Any]) -> NDArray[np.float32]:
        """Points [..., 3] to columns and rows, float32 [..., 2]."""
        scale = self.pixels_per_unit * self.distance / (self.distance - points[..., 2])
        columns = self.origin[0] + points[..., 0] * scale
        rows = self.origin[1] - points[..., 1] * scale
        return np.stack([columns, rows], axis=-1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Lamp:
    """A distant light: direction towards it, float32 [3], and its colour, linear RGB [3]."""

    direction: FloatArray
    colour: FloatArray
    casts: bool = True


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """Light of a scene: lamps, and light from all around that fades from the sky's colour to the ground's."""

    lamps: tuple[Lamp, ...]
    sky: FloatArray
    ground: FloatArray


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Pixels of some surfaces.

    Attributes:
        colour: float32 [H, W, 3], linear RGB, 0 where nothing is.
        covered: bool [H, W].
        surface: int [H, W], which surface is seen, -1 where none is.
    """

    colour: FloatArray
    covered: NDArray[np.bool_]
    surface: NDArray[np.int64]


def render(surfaces: Sequence[Surface], view: View, lighting: Lighting) -> Rendered:
    """Draw surfaces, the nearest point of every pixel on top."""
    positions = np.concatenate([s.points.reshape(-1, 3) for s in surfaces])
    exists = np.concatenate([np.ones(s.points.shape[:2], bool).ravel() if s.keep is None else s.keep.ravel()
                             for s in surfaces])  # fmt: skip
    firsts = np.cumsum([0, *(s.points.shape[0] * s.points.shape[1] for s in surfaces)])
    winner = _filled(_nearest(positions, exists, view), positions[:, 2])
    rows, columns = np.nonzero(winner >= 0)
    seen = winner[rows, columns]
    colour = np.zeros((*view.shape, 3), np.float32)
    which = np.full(view.shape, -1, np.int64)
    of = np.searchsorted(firsts, seen, side="right") - 1
    which[rows, columns] = of
    shade = _shader(positions, exists, lighting, view)
    for i, surface in enumerate(surfaces):
        mine = np.flatnonzero(of == i)
        if mine.size:
            index = seen[mine] - firsts[i]
            colour[rows[mine], columns[mine]] = shade(surface, index)
    return Rendered(colour=colour, covered=winner >= 0, surface=which)


def _nearest(positions: FloatArray, exists: NDArray[np.bool_], view: View) -> NDArray[np.int64]:
    """For every pixel the index of its nearest point, or -1."""
    height, width = view.shape
    at = view.project(positions)
    column, row = np.rint(at[:, 0]).astype(np.int64), np.rint(at[:, 1]).astype(np.int64)
    inside = np.flatnonzero(exists & (column >= 0) & (column < width) & (row >= 0) & (row < height))
    depth = positions[inside, 2]
    # depth in the upper half of a key and the index in the lower: the largest key is the nearest point
    key = ((depth + 64.0) * 1e6).astype(np.int64) << 32 | inside
    buffer = np.full(height * width, -1, np.int64)
    np.maximum.at(buffer, row[inside] * width + column[inside], key)
    return np.where(buffer >= 0, buffer & 0xFFFFFFFF, -1).reshape(height, width)


def _filled(winner: NDArray[np.int64], depths: FloatArray) -> NDArray[np.int64]:
    """Pixels that the points of a surface missed, so that nothing or something far behind shows, take a neighbour."""
    for _ in range(_HOLE_PASSES):
        padded = np.pad(winner, 1, constant_values=-1)
        depth = np.where(padded >= 0, depths[padded], -np.inf)
        behind = depth[1:-1, 1:-1] + HOLE_DEPTH
        across = (depth[1:-1, :-2] > behind) & (depth[1:-1, 2:] > behind)
        along = (depth[:-2, 1:-1] > behind) & (depth[2:, 1:-1] > behind)
        winner = np.where(across, padded[1:-1, :-2], np.where(along, padded[:-2, 1:-1], winner))
    return winner


def inward(points: FloatArray, index: NDArray[np.intp]) -> FloatArray:
    """Normals of a grid of points at flat indices, [N, 3], of any length.

    They point into what is solid where, seen from outside, rows go down and columns to the right.
    """
    rows, columns = points.shape[:2]
    r, c = np.divmod(index, columns)
    up, down = points[np.maximum(r - 1, 0), c], points[np.minimum(r + 1, rows - 1), c]
    left, right = points[r, np.maximum(c - 1, 0)], points[r, np.minimum(c + 1, columns - 1)]
    result: FloatArray = np.cross(right - left, down - up)
    return result


def normals(points: FloatArray, index: NDArray[np.intp]) -> FloatArray:
    """Unit normals of a grid of points at flat indices, float32 [N, 3], pointing at the camera."""
    normal = inward(points, index)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    result: FloatArray = np.where(normal[:, 2:] < 0, -normal, normal)
    return result


def _shader(
    positions: FloatArray, exists: NDArray[np.bool_], lighting: Lighting, view: View
) -> Callable[[Surface, NDArray[np.intp]], FloatArray]:
    thinned = positions[exists][:: max(1, int((view.pixels_per_unit / SHADOW_POINTS_PER_UNIT) ** 2))]
    lit = [(lamp, _shadow(thinned, lamp) if lamp.casts else None) for lamp in lighting.lamps]
    towards = np.array([0.0, 0.0, 1.0], np.float32)
    # light is scattered in skin, red deepest, so that its shadows have soft red edges
    wrap = np.array([0.28, 0.16, 0.12], np.float32)

    def shade(surface: Surface, index: NDArray[np.intp]) -> FloatArray:
        material = surface.paint(index)
        normal = normals(surface.points, index)
        at = surface.points.reshape(-1, 3)[index]
        sky = (0.5 + 0.5 * normal[:, 1])[:, None]
        light = lighting.ground + (lighting.sky - lighting.ground) * sky
        shine = np.zeros((len(index), 3), np.float32)
        for lamp, shadow in lit:
            cosine = normal @ lamp.direction
            free = shadow(at + SHADOW_BIAS * normal) if shadow else np.ones(len(index), np.float32)
            diffuse = np.clip((cosine[:, None] + wrap) / (1 + wrap), 0, None)
            light = light + diffuse * lamp.colour * free[:, None]
            half = lamp.direction + towards
            half = half / (np.linalg.norm(half) + 1e-6)
            spot = np.clip(normal @ half, 0, 1) ** 24 * free * (cosine > 0)
            shine += spot[:, None] * lamp.colour
        colour = material.albedo * light + shine * material.gloss[:, None]
        result: FloatArray = colour if material.glow is None else colour + material.glow
        return result

    return shade


def _shadow(positions: FloatArray, lamp: Lamp) -> Callable[[FloatArray], FloatArray]:
    """How much of a lamp reaches given points past all others, 0-1: a depth buffer as the lamp sees it."""
    forward = lamp.direction
    side = np.cross(forward, np.array([0.0, 1.0, 0.1], np.float32))
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(side, forward)], axis=1).astype(np.float32) * SHADOW_CELLS_PER_UNIT
    across, along, depth = positions @ axes[:, 0], positions @ axes[:, 1], positions @ forward
    low = np.floor(np.array([across.min(), along.min()])).astype(np.float32) - 3
    cells = np.ceil(np.array([across.max(), along.max()])).astype(np.int64) - low.astype(np.int64) + 6
    buffer = np.full(int(cells[0] * cells[1]), -1e9, np.float32)
    rows, columns = (across - low[0]).astype(np.int64), (along - low[1]).astype(np.int64)
    np.maximum.at(buffer, rows * cells[1] + columns, depth)

    def free(points: FloatArray) -> FloatArray:
        here, own = points @ axes - low, points @ forward
        total = np.zeros(len(points), np.float32)
        for tap in SHADOW_TAPS:
            cell = np.clip((here + np.asarray(tap, np.float32)).astype(np.int64), 0, cells - 1)
            total += buffer[cell[:, 0] * cells[1] + cell[:, 1]] < own + SHADOW_BIAS / 2
        return total / np.float32(len(SHADOW_TAPS))

    return free
