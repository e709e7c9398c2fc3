"""What is worn on a head: caps, hats, helmets, scarves, hoods, masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facex.demo.cloth import cloth, count, plain
from facex.demo.head import CHIN, HeadGrid
from facex.demo.noise import Noise, bump, smoothstep
from facex.demo.person import Person
from facex.demo.surfaces import Material, Surface


def headwear(head: HeadGrid, person: Person, noise: Noise, pixels_per_unit: float) -> list[Surface]:
    """A cap, a hat, a helmet, a scarf or a hood."""
    kind, s = person.looks.headwear, person.shape
    if kind == "none":
        return []
    x, y, front = head.x, head.y, head.front
    thick = {"cap": 0.09, "beanie": 0.10, "scarf": 0.12, "hood": 0.26, "helmet": 0.24, "brim": 0.1}[kind]
    line = {"cap": 0.50, "beanie": 0.45, "scarf": 0.58, "hood": 0.62, "helmet": 0.5, "brim": 0.5}[kind]
    if kind in ("scarf", "hood"):
        # an oval is left free
        oval = (x / (0.66 * s.width)) ** 2 + ((y + 0.28) / (line + 0.3)) ** 2
        keep = (oval > 1) | (front < 0.15)
    else:
        keep = y > line - 0.28 * smoothstep(0.3, 0.75, np.abs(x)) * (front > 0) - 0.45 * smoothstep(0.1, -0.3, front)
    folds = 0.05 * (noise(x * 4, y * 4 + 7, 2) - 0.5)
    points = (head.rest * (1 + thick + folds)[..., None]).astype(np.float32)
    points[..., 1] += 0.05
    flat_x, flat_y = np.arctan2(x, front).ravel() * 0.8, y.ravel()

    def paint(index: NDArray[np.intp]) -> Material:
        return cloth(person.looks.headwear_colour, person, flat_x[index], flat_y[index], noise)

    made = [Surface(points=points, paint=paint, keep=keep)]
    if kind in ("cap", "brim"):
        made.append(_brim(person, noise, pixels_per_unit, all_round=kind == "brim"))
    if kind in ("scarf", "hood"):
        made.append(_drape(person, noise, pixels_per_unit))
    return made


def _brim(person: Person, noise: Noise, pixels_per_unit: float, *, all_round: bool) -> Surface:
    reach = 0.55
    span = np.pi if all_round else 1.05
    a = np.linspace(-span, span, count(4 if all_round else 2.2, pixels_per_unit), dtype=np.float32)[None]
    t = np.linspace(0, 1, count(reach + 0.2, pixels_per_unit), dtype=np.float32)[:, None]
    wide = 0.78 * person.shape.width + reach * t * (1.0 if all_round else np.clip(np.cos(a * 1.35), 0, 1) ** 0.6)
    x, z = wide * np.sin(a), (wide + 0.2) * np.cos(a)
    y = 0.50 - 0.14 * t + 0.06 * np.cos(2 * a) * t + 0 * a
    points = np.stack([x, y + 0.03, z], axis=-1).astype(np.float32)
    u, v = (a + 0 * t).ravel(), (t + 0 * a).ravel()
    return Surface(
        points=points,
        paint=lambda i: cloth(person.looks.headwear_colour * np.float32(0.8), person, u[i], v[i], noise),
    )


def _drape(person: Person, noise: Noise, pixels_per_unit: float) -> Surface:
    """Cloth from the chin over neck and shoulders."""
    a = np.linspace(-np.pi, np.pi, count(5, pixels_per_unit), dtype=np.float32)[None]
    t = np.linspace(0, 1, count(1.5, pixels_per_unit), dtype=np.float32)[:, None]
    fold = 0.06 * noise(a * 4, t * 4, 2)
    wide = 0.66 + 0.5 * t**1.5 + fold
    y = -0.85 - 1.15 * t - 0.28 * np.cos(a) * (1 - t)
    points = np.stack([wide * np.sin(a), y, (wide - 0.05) * np.cos(a) - 0.1], axis=-1).astype(np.float32)
    u, v = (a + 0 * t).ravel(), (t + 0 * a).ravel()
    return Surface(points=points, paint=lambda i: cloth(person.looks.headwear_colour, person, u[i], 2 + v[i], noise))


def mask(head: HeadGrid, person: Person, noise: Noise) -> list[Surface]:
    """A face mask: cloth from the nose, or below it, to the chin, and its loops to the ears."""
    looks, s = person.looks, person.shape
    if not looks.mask:
        return []
    x, y, front = head.x, head.y, head.front
    top = (s.nose_y - 0.11 if looks.mask_low else s.eye_y - 0.22) - 0.12 * smoothstep(0.12, 0.6, np.abs(x))
    nose = bump(x, y, (0, s.nose_y + 0.02), (0.17, 0.2)) * 0.24 * (not looks.mask_low)
    body = 0.1 + nose + 0.12 * bump(x, y, (0, s.mouth_y), (0.4, 0.3)) + 0.1 * bump(x, y, (0, CHIN + 0.12), (0.3, 0.16))
    points = head.rest.copy()
    points[..., 2] += body * smoothstep(0.0, 0.4, front)
    points *= 1.015
    points[..., 1] -= person.expression.mouth_open * 0.8 * smoothstep(s.mouth_y, CHIN, y)
    covers = (y < top) & (front > 0.42) & (y > CHIN * s.chin)
    loops = (
        (front > 0.0)
        & (front <= 0.45)
        & (
            (np.abs(y - (s.eye_y - 0.3 + 0.5 * (0.42 - front))) < 0.022)
            | (np.abs(y + 0.85 - 1.2 * (0.42 - front)) < 0.022)
        )
    )
    flat_x, flat_y = x.ravel(), y.ravel()

    def paint(index: NDArray[np.intp]) -> Material:
        u, v = flat_x[index], flat_y[index]
        if person.seed % 3 == 0:
            return cloth(looks.mask_colour, person, u, v, noise)
        pleats = 1 - 0.22 * np.exp(-0.5 * (((v * 9) % 1 - 0.5) / 0.12) ** 2) * (np.abs(u) < 0.45)
        folds = 0.75 + 0.45 * noise(u * 3, v * 6, 2)
        return plain(looks.mask_colour * (pleats * folds)[:, None])

    return [Surface(points=points, paint=paint, keep=covers | loops)]
