"""Hair on the head, and what hangs and stands off it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from facex.demo.cloth import count, plain
from facex.demo.head import HeadGrid
from facex.demo.noise import FloatArray, Noise, smoothstep
from facex.demo.person import Person
from facex.demo.surfaces import Material, Surface

ENCLOSING = ("scarf", "hood", "helmet")
"""Headwear under which no hair shows."""


def hair(head: HeadGrid, person: Person, noise: Noise, pixels_per_unit: float) -> list[Surface]:
    """Hair over the skull, and what hangs from it."""
    style, s, covered = person.looks.hair_style, person.shape, person.looks.headwear != "none"
    if style == "bald" or person.looks.headwear in ENCLOSING:
        return []
    x, y, front = head.x, head.y, head.front
    angle = np.arctan2(x, front).astype(np.float32)
    ragged = noise(angle * 7 + 2, y * 5 + 4, 2) - 0.5
    bulk = {"short": 0.05, "long": 0.09, "big": 0.32, "tied": 0.04}[style] * (0.7 + 0.9 * noise(angle + 6, y + 6))
    if covered:  # pressed flat
        bulk = np.minimum(bulk, 0.03)
    crown = smoothstep(-0.4, 0.7, y)
    texture = (0.12 if style == "big" else 0.035) * (noise(angle * 9, y * 9, 3) - 0.5) * (not covered)
    edge = s.hairline - 0.42 * smoothstep(0.38, 0.74, np.abs(x)) + 0.13 * ragged
    fringe = noise(np.full(1, person.seed % 97, np.float32), np.zeros(1, np.float32))[0]
    if fringe > 0.62 and style != "tied":  # over the forehead, down to the brows
        edge = edge - 0.33 * np.exp(-0.5 * ((x - 0.3 * (fringe - 0.8)) / 0.5) ** 2)
    low = {"short": -0.55, "long": -1.1, "big": -0.5, "tied": -0.5}[style]
    behind = front < 0.12 + 0.05 * ragged
    keep = np.where(behind, y > low + 0.2 * ragged, y > edge) & ((np.abs(x) < 0.68) | (y > 0.0) | (front < -0.02))
    out = 1 + (bulk * (0.35 + crown) + texture) * smoothstep(-0.08, 0.12, np.where(behind, 1.0, y - edge))
    points = (head.rest * out[..., None]).astype(np.float32)
    points[..., 2] += 0.02
    made = [Surface(points=points, paint=_hair_paint(person, angle * 0.8, y, noise), keep=keep)]
    if style == "long":
        made.append(_curtain(person, noise, pixels_per_unit))
    if style == "tied" and not covered:
        made.append(_bun(person, noise, pixels_per_unit))
    return made


def _hair_paint(person: Person, u: FloatArray, v: FloatArray, noise: Noise) -> Callable[[NDArray[np.intp]], Material]:
    u, v = u.ravel(), v.ravel()

    def paint(index: NDArray[np.intp]) -> Material:
        a, b = u[index], v[index]
        strands = noise(a * 26 + 3 * noise(a * 2, b * 2), b * 2.2, 2)
        locks = noise(a * 5, b * 0.9 + 11, 2)
        shade = 0.35 + 0.85 * strands * (0.5 + locks)
        return plain(person.looks.hair * shade[:, None], 0.12)

    return paint


def _curtain(person: Person, noise: Noise, pixels_per_unit: float) -> Surface:
    """Hair that hangs at the sides and the back, open at the face."""
    open_, length = 1.15, 1.0 + 1.4 * ((person.seed % 13) / 13)
    a = np.linspace(open_, 2 * np.pi - open_, count(4.6, pixels_per_unit), dtype=np.float32)[None]
    t = np.linspace(0, 1, count(0.6 + length, pixels_per_unit), dtype=np.float32)[:, None]
    y = 0.55 - (0.55 + length) * t
    wave = 0.09 * (noise(a * 3, y * 1.7 + 30, 2) - 0.5)
    wide = (0.80 * person.shape.width + 0.10 * np.sin(np.pi * t) + wave) * (1 - 0.3 * smoothstep(0.35, 0.0, t))
    x, z = wide * np.sin(a), (0.95 * wide + 0.08) * np.cos(a) - 0.12
    keep = t < 0.93 + 0.14 * noise(a * 6, 0 * a)
    points = np.stack([x, y + 0 * a, z], axis=-1).astype(np.float32)
    return Surface(points=points, paint=_hair_paint(person, (a + 0 * t) * 0.9, y + 0 * a, noise), keep=keep + 0 * t > 0)


def _bun(person: Person, noise: Noise, pixels_per_unit: float) -> Surface:
    points, u, v = _ball(count(1.2, pixels_per_unit, 300))
    high = person.seed % 2
    centre = np.array([0, 1.15 if high else 0.45, -0.35 if high else -1.15], np.float32)
    return Surface(points=points * np.float32(0.36) + centre, paint=_hair_paint(person, u, v, noise))


def _ball(n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    a = np.linspace(0, 2 * np.pi, 2 * n, dtype=np.float32)[None] + np.zeros((n, 1), np.float32)
    b = np.linspace(-np.pi / 2, np.pi / 2, n, dtype=np.float32)[:, None] + np.zeros((1, 2 * n), np.float32)
    points = np.stack([np.cos(b) * np.sin(a), np.sin(b), np.cos(b) * np.cos(a)], axis=-1).astype(np.float32)
    return points, a, b
