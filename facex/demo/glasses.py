"""Glasses: two rims, two temples, a bridge, and lenses where they are dark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facex.demo.cloth import count, plain
from facex.demo.noise import FloatArray, smoothstep
from facex.demo.person import Person
from facex.demo.surfaces import Surface

STYLES = ((0.19, 0.21, 1.0), (0.14, 0.25, 0.75), (0.18, 0.24, 0.55))
"""Half the height and width of a lens, units, and how square it is: round, oblong, square."""


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """A pair of glasses on a head; lengths in units."""

    eye: tuple[float, float]
    high: float
    wide: float
    power: float
    thick: float
    depth: float
    ear_x: float
    colour: FloatArray

    def outline(self, angle: FloatArray) -> tuple[FloatArray, FloatArray]:
        """A lens's edge about the eye: a superellipse."""
        c, n = np.cos(angle), np.sin(angle)
        x, y = np.sign(c) * np.abs(c) ** self.power * self.wide, np.sign(n) * np.abs(n) ** self.power * self.high
        return x, y - 0.03

    def bar(self, x: FloatArray, y: FloatArray, z: FloatArray, gloss: float) -> Surface:
        """A part of the frame through points [R, C]."""
        points = np.stack(np.broadcast_arrays(x, y, z), axis=-1).astype(np.float32)
        return Surface(points=points, paint=lambda i: plain(np.tile(self.colour, (len(i), 1)), gloss))


def glasses(person: Person, pixels_per_unit: float) -> list[Surface]:
    """What the person wears on the nose."""
    looks, s = person.looks, person.shape
    if looks.glasses == "none":
        return []
    high, wide, power = STYLES[person.seed % 3]
    frame = _Frame(
        eye=(s.eye_x, s.eye_y),
        high=high,
        wide=wide,
        power=power,
        thick=0.012 + 0.02 * ((person.seed % 5) / 4),
        depth=0.93 * s.depth + 0.06,
        ear_x=0.80 * s.width,
        colour=np.array([0.012, 0.012, 0.014], np.float32)
        if person.seed % 4
        else looks.pattern_colour * np.float32(0.5),
    )
    made = []
    for sign in (-1.0, 1.0):
        made.append(_rim(frame, sign, pixels_per_unit))
        if looks.glasses == "dark":
            made.append(_lens(frame, sign, pixels_per_unit))
        made.append(_temple(frame, sign, pixels_per_unit))
    return [*made, _bridge(frame, pixels_per_unit)]


def _around(pixels_per_unit: float) -> FloatArray:
    return np.linspace(0, 2 * np.pi, count(2.2, pixels_per_unit), dtype=np.float32)[None]


def _across(frame: _Frame, pixels_per_unit: float) -> FloatArray:
    return np.linspace(-1, 1, count(3 * frame.thick, pixels_per_unit, 40), dtype=np.float32)[:, None]


def _rim(frame: _Frame, sign: float, pixels_per_unit: float) -> Surface:
    r = np.linspace(-1, 1, count(4 * frame.thick, pixels_per_unit, 60), dtype=np.float32)[:, None]
    x, y = frame.outline(_around(pixels_per_unit))
    grow = 1 + r * frame.thick / frame.wide
    z = frame.depth - 0.25 * (x * sign + 0.2) ** 2
    return frame.bar(sign * frame.eye[0] + x * grow, frame.eye[1] + y * grow, z, 0.4)


def _lens(frame: _Frame, sign: float, pixels_per_unit: float) -> Surface:
    r = np.linspace(0, 1, count(frame.wide, pixels_per_unit), dtype=np.float32)[:, None]
    x, y = frame.outline(_around(pixels_per_unit))
    z = frame.depth - 0.02 - 0.25 * (x * r * sign + 0.2) ** 2
    points = np.stack([sign * frame.eye[0] + x * r, frame.eye[1] + y * r, z], axis=-1).astype(np.float32)
    shade = (0.01 + 0.05 * smoothstep(-0.2, 0.2, points[..., 1] - frame.eye[1])).ravel()
    return Surface(points=points, paint=lambda i: plain(shade[i][:, None] * np.ones(3), 0.5))


def _temple(frame: _Frame, sign: float, pixels_per_unit: float) -> Surface:
    """From the lens to the ear."""
    t = np.linspace(0, 1, count(1.1, pixels_per_unit), dtype=np.float32)[None]
    r = _across(frame, pixels_per_unit)
    edge = frame.eye[0] + frame.wide
    x = sign * (edge + (frame.ear_x - frame.eye[0] - frame.wide) * np.clip(t * 2.5, 0, 1))
    return frame.bar(x, frame.eye[1] + r * frame.thick + 0.02, frame.depth - 0.1 - 0.95 * t, 0.2)


def _bridge(frame: _Frame, pixels_per_unit: float) -> Surface:
    t = np.linspace(-1, 1, count(0.4, pixels_per_unit), dtype=np.float32)[None]
    y = frame.eye[1] + 0.03 + 0.02 * (1 - t * t) + _across(frame, pixels_per_unit) * frame.thick
    return frame.bar(t * (frame.eye[0] - frame.wide), y, np.array([[frame.depth + 0.02]], np.float32), 0.3)
