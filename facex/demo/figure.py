"""A person as surfaces in front of the camera, and where the face is among them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from facex.demo import head, skin, worn
from facex.demo.body import body, ears
from facex.demo.glasses import glasses
from facex.demo.hair import hair
from facex.demo.noise import FloatArray, Noise
from facex.demo.person import Person
from facex.demo.surfaces import Surface, inward

NECK = np.array([0.0, -0.75, -0.25], np.float32)
"""What the head turns about."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A posed person.

    Attributes:
        surfaces: the first `head_parts` belong to the head, the first of all is its skin.
        outline: float32 [N, 3], points of the face that face the camera: their extent is the bounding box.
        landmarks: float32 [5, 3].
        middle: float32 [3], between eyes and mouth.
    """

    surfaces: tuple[Surface, ...]
    head_parts: int
    outline: FloatArray
    landmarks: FloatArray
    middle: FloatArray


def pose(person: Person, pixels_per_unit: float, lowest: float) -> Figure:
    """Build and turn a person.

    Args:
        person: who.
        pixels_per_unit: scale at which the surfaces must be closed.
        lowest: y down to which the body is needed, units.
    """
    noise = Noise(np.random.default_rng(person.seed))
    grid = head.grid(person, pixels_per_unit)
    parts = [
        Surface(points=grid.points, paint=skin.painter(grid, person, noise)),
        *ears(person, noise, pixels_per_unit),
        *hair(grid, person, noise, pixels_per_unit),
        *worn.headwear(grid, person, noise, pixels_per_unit),
        *glasses(person, pixels_per_unit),
        *worn.mask(grid, person, noise),
    ]
    turned = [_turned(part, head.rotation(person.pose.yaw, person.pose.pitch, person.pose.roll)) for part in parts]
    trunk = head.rotation(person.pose.body_yaw, 0.0, 0.0)
    below = [dataclasses.replace(part, points=(part.points @ trunk.T).astype(np.float32))
             for part in body(person, noise, pixels_per_unit, lowest)]  # fmt: skip
    points = turned[0].points
    region = np.flatnonzero(head.face_region(grid, person.shape))
    outline = points.reshape(-1, 3)[region[inward(points, region)[:, 2] < 0]]
    at = head.landmarks(grid, person)
    marks = points.reshape(-1, 3)[at]
    return Figure(
        surfaces=(*turned, *below),
        head_parts=len(turned),
        outline=outline,
        landmarks=marks,
        middle=marks.mean(axis=0),
    )


def _turned(part: Surface, matrix: FloatArray) -> Surface:
    return dataclasses.replace(part, points=((part.points - NECK) @ matrix.T + NECK).astype(np.float32))
