"""What is beside and below a face: ears, neck, trunk, arms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facex.demo.cloth import cloth, count, plain
from facex.demo.noise import FloatArray, Noise, smoothstep
from facex.demo.person import Person
from facex.demo.surfaces import Material, Surface

SHOULDERS_Y, HIPS_Y, FEET_Y = -1.75, -5.2, -11.0


def ears(person: Person, noise: Noise, pixels_per_unit: float) -> list[Surface]:
    """Two shells at the sides of the head."""
    n = count(0.75, pixels_per_unit, 260)
    a = np.linspace(0, 2 * np.pi, n, dtype=np.float32)[None]
    r = np.linspace(0.02, 1, n // 2 + 3, dtype=np.float32)[:, None]
    made = []
    for sign in (-1.0, 1.0):
        across, up = r * np.cos(a), r * np.sin(a)
        rim = 0.05 * np.exp(-0.5 * ((r - 0.85) / 0.12) ** 2)
        x = sign * (0.735 * person.shape.width + 0.07 + 0.10 * -across + rim + 0 * up)
        points = np.stack([x, -0.08 + 0.27 * up - 0.05 * across, -0.08 + 0.13 * across], axis=-1).astype(np.float32)
        inner = (np.exp(-0.5 * ((r - 0.45) / 0.2) ** 2) + 0 * a).ravel()

        def paint(index: NDArray[np.intp], inner: FloatArray = inner) -> Material:
            skin = person.looks.skin * np.array([1.0, 0.86, 0.84], np.float32)
            return plain(skin * (1 - 0.45 * inner[index])[:, None], person.looks.gloss)

        made.append(Surface(points=points, paint=paint))
    return made


def body(person: Person, noise: Noise, pixels_per_unit: float, lowest: float) -> list[Surface]:
    """Neck and clothed trunk, down to `lowest` units."""
    bottom = max(lowest, FEET_Y)
    rows = count(-0.8 - bottom, pixels_per_unit, 2400)
    y = np.linspace(-0.8, bottom, rows, dtype=np.float32)[:, None]
    a = np.linspace(-np.pi, np.pi, count(6.5, pixels_per_unit, 1500), dtype=np.float32)[None]
    broad = 1.0 + 0.12 * ((person.seed % 7) / 6)
    shoulder = smoothstep(-1.25, SHOULDERS_Y, y) ** 1.4
    waist = 0.28 * np.exp(-0.5 * ((y + 4.0) / 0.8) ** 2)
    wide = 0.39 + (1.22 * broad - waist) * shoulder - 0.5 * smoothstep(HIPS_Y - 1, FEET_Y, y)
    deep = 0.26 + 0.1 * smoothstep(-0.8, -1.25, y) + 0.36 * shoulder
    fold = 0.05 * (noise(a * 2 + 4, y * 1.3 + 50, 2) - 0.5) * shoulder
    points = np.stack(
        [
            (wide + fold) * np.sin(a),
            y + 0 * a,
            (deep + fold) * np.cos(a) - 0.02 - 0.12 * smoothstep(-0.8, -1.25, y) - 0.08 * shoulder,
        ],
        axis=-1,
    ).astype(np.float32)
    u, v = (a + 0 * y).ravel(), (y + 0 * a).ravel()
    collar = -1.3 - 0.35 * ((person.seed % 11) / 10)

    def paint(index: NDArray[np.intp]) -> Material:
        p, q = u[index], v[index]
        dressed = cloth(person.looks.cloth, person, p * 1.2, q, noise).albedo
        trousers = cloth(person.looks.trousers, person, p, q, noise).albedo
        albedo = np.where((q < HIPS_Y)[:, None], trousers, dressed)
        neck = q > collar + 0.12 * (1 - np.cos(p))
        shade = 0.55 + 0.45 * smoothstep(-0.95, -1.3, q)  # the head keeps light from the neck
        albedo = np.where(neck[:, None], person.looks.skin * shade[:, None], albedo)
        return plain(albedo)

    return [Surface(points=points, paint=paint), *_arms(person, noise, pixels_per_unit, broad, bottom)]


def _arms(person: Person, noise: Noise, pixels_per_unit: float, broad: float, bottom: float) -> list[Surface]:
    """Sleeves, and hands at the end of them."""
    low = max(-4.9, bottom)
    if low > SHOULDERS_Y - 0.3:
        return []
    made = []
    t = np.linspace(0, 1, count(SHOULDERS_Y - low, pixels_per_unit, 1200), dtype=np.float32)[:, None]
    a = np.linspace(-np.pi, np.pi, count(2.0, pixels_per_unit, 500), dtype=np.float32)[None]
    y = SHOULDERS_Y + 0.12 + (low - SHOULDERS_Y - 0.12) * t
    sleeve = -2.4 if person.seed % 3 == 0 else -4.4
    for sign in (-1.0, 1.0):
        bend = 0.5 * ((person.seed // 3) % 5 - 1) / 4 * smoothstep(-3.2, -4.9, y)
        wide = (0.36 - 0.14 * smoothstep(SHOULDERS_Y, -4.6, y)) * smoothstep(
            SHOULDERS_Y + 0.14, SHOULDERS_Y - 0.25, y
        ) ** 0.5
        x = sign * (1.33 * broad + 0.25 * smoothstep(SHOULDERS_Y, -3.5, y) - bend) + wide * np.sin(a)
        points = np.stack([x, y + 0 * a, wide * np.cos(a) - 0.2 + 0.8 * bend], axis=-1).astype(np.float32)
        u, v = (a + 0 * y).ravel(), (y + 0 * a).ravel()

        def paint(index: NDArray[np.intp], u: FloatArray = u, v: FloatArray = v) -> Material:
            dressed = cloth(person.looks.cloth, person, u[index], v[index], noise).albedo
            return plain(np.where((v[index] < sleeve)[:, None], person.looks.skin * np.float32(0.9), dressed))

        made.append(Surface(points=points, paint=paint))
    return made
