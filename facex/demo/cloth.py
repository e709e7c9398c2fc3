"""Cloth, and how many points a surface needs."""

from __future__ import annotations

import numpy as np

from facex.demo.noise import FloatArray, Noise
from facex.demo.person import Person
from facex.demo.surfaces import Material


def plain(albedo: FloatArray, gloss: float = 0.03) -> Material:
    """Points of colours float32 [N, 3] that are all as glossy."""
    return Material(albedo=albedo.astype(np.float32), gloss=np.full(len(albedo), gloss, np.float32))


def count(length: float, pixels_per_unit: float, most: int = 900) -> int:
    """Points along a length so that neighbours are less than a pixel apart."""
    return int(np.clip(1.25 * length * pixels_per_unit, 6, most))


def cloth(colour: FloatArray, person: Person, u: FloatArray, v: FloatArray, noise: Noise) -> Material:
    """Cloth of a colour with the person's pattern; u and v are units along it."""
    looks = person.looks
    waves = {1: np.sin(v * 22) > 0.3, 2: (np.sin(u * 17) > 0) ^ (np.sin(v * 17) > 0),
             3: np.hypot((u * 3) % 1 - 0.5, (v * 3) % 1 - 0.5) < 0.27}.get(looks.pattern)  # fmt: skip
    albedo = np.tile(colour, (len(u), 1))
    if waves is not None:
        albedo[waves] = looks.pattern_colour
    folds = noise(u * 1.6 + 9, v * 1.1 + 3, 3)
    return plain(albedo * (0.62 + 0.7 * folds)[:, None])
