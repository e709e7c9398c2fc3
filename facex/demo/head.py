"""The head as a surface: an ellipsoid bent into a skull, with what makes it a face raised and sunk on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facex.demo.noise import FloatArray, bump, smoothstep
from facex.demo.person import Expression, Person, Shape

CROWN, CHIN = 1.10, -1.22
HALF_WIDTH, FRONT, BACK = 0.75, 0.93, 1.05
FACE_SIDE = np.sin(np.radians(76))
"""How far round the side of the head a face goes, as the sine of the azimuth: to the front of the ears."""

FOREHEAD = 0.93
"""Where a face's bounding box ends at the top, as a share of the hairline."""


@dataclass(frozen=True, kw_only=True)
class HeadGrid:
    """A head at rest in its own frame: x to its left as the viewer sees it, y up, z out of the face.

    Attributes:
        points: float32 [R, C, 3], units.
        x, y: float32 [R, C], where on the face a point belongs, before expression moved it.
        front: float32 [R, C], 1 at the middle of the face, 0 at the ears, -1 at the back.
        rest: float32 [R, C, 3], the skull under the features, for what is worn over them.
    """

    points: FloatArray
    x: FloatArray
    y: FloatArray
    front: FloatArray
    rest: FloatArray


def grid(person: Person, pixels_per_unit: float) -> HeadGrid:
    """The head's points, dense enough for the scale."""
    shape = person.shape
    rows = int(np.clip(4.6 * pixels_per_unit, 48, 1500))
    half = int(np.clip(1.9 * pixels_per_unit, 24, 700))
    # twice as dense in front
    front = np.linspace(-1, 1, 2 * half, dtype=np.float32) * np.float32(np.pi / 2)
    back = np.linspace(1, 3, max(half, 16), dtype=np.float32)[1:-1] * np.float32(np.pi / 2)
    azimuth = np.concatenate([front, back, front[:1] + np.float32(2 * np.pi)])
    up = np.sin(np.linspace(np.pi / 2, -np.pi / 2, rows, dtype=np.float32))
    sine, cosine = np.sin(azimuth)[None], np.cos(azimuth)[None]
    y, x, rest = _skull(shape, up[:, None], sine, cosine)
    cosine = np.broadcast_to(cosine, x.shape)
    points = rest.copy()
    ahead = smoothstep(0.05, 0.45, cosine)
    points[..., 2] += ahead * _relief(shape, person.expression, x, y, person.looks.age)
    _move(points, person, x, y, ahead)
    return HeadGrid(points=points, x=x, y=y, front=cosine, rest=rest)


def _skull(
    shape: Shape, up: FloatArray, sine: FloatArray, cosine: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Face coordinates y and x [R, C] and the points [R, C, 3] of a head without features."""
    power = np.where(up > 0, 2.9, 2.4)
    round_, upright = (1 - np.abs(up) ** power) ** 0.5, (1 - np.abs(up) ** (power + 0.8)) ** 0.5
    y = np.where(up > 0, CROWN * up, -CHIN * shape.chin * up) + 0 * sine
    jaw = 1 - (1 - shape.jaw) * 1.6 * smoothstep(-0.1, -0.95, y)
    temple = 1 - 0.06 * smoothstep(0.15, 0.6, y)
    x = HALF_WIDTH * shape.width * round_ * sine * jaw * temple
    ahead = FRONT * shape.depth * upright * cosine
    # the back of the head ends where the neck begins
    behind = BACK * shape.depth * round_ * cosine * (1 - 0.45 * smoothstep(-0.25, -0.9, y))
    z = np.where(cosine > 0, ahead, behind)
    return y.astype(np.float32), x.astype(np.float32), np.stack([x, y, z], axis=-1).astype(np.float32)


def _relief(shape: Shape, expression: Expression, x: FloatArray, y: FloatArray, age: float) -> FloatArray:
    """How far every point of the face stands out of the skull, units."""
    s, side = shape, np.abs(x)
    eyes = bump(side, y, (s.eye_x, s.eye_y + 0.03), (0.17, 0.115))
    balls = bump(side, y, (s.eye_x, s.eye_y), (0.105, 0.075))
    brow = bump(side, y, (0.27, s.brow_y - 0.02), (0.2, 0.06))
    # the bridge rises from the brows to the tip, then falls steeply
    along = np.clip((s.eye_y + 0.1 - y) / (s.eye_y + 0.1 - s.nose_y), 0, 1.4)
    profile = np.where(along <= 1, 0.12 + 0.88 * along**1.35, 1 - smoothstep(1.0, 1.22, along))
    profile = profile * smoothstep(s.eye_y + 0.24, s.eye_y + 0.02, y)
    width = 0.055 + 0.4 * s.nose_width * np.clip(along, 0, 1) ** 2
    bridge = s.nose_length * profile * np.exp(-0.5 * (x / width) ** 2)
    wings = 0.115 * bump(side, y, (s.nose_width * 0.85, s.nose_y - 0.015), (0.06, 0.055))
    nostrils = 0.07 * bump(side, y, (s.nose_width * 0.5, s.nose_y - 0.085), (0.035, 0.025))
    lift = 0.05 * expression.smile * smoothstep(0.1, 0.3, side)
    mouth = s.mouth_y + lift
    broad = s.mouth_width * (1 + 0.25 * max(expression.smile, 0))
    lips = np.exp(-0.5 * (x / (0.75 * broad)) ** 2) * (
        0.055 * np.exp(-0.5 * ((y - mouth - 0.05 * s.lips) / 0.04) ** 2)
        + 0.065 * np.exp(-0.5 * ((y - mouth + 0.06 * s.lips) / 0.045) ** 2)
        - 0.05 * np.exp(-0.5 * ((y - mouth) / 0.018) ** 2)
    )
    muzzle = 0.06 * bump(x, y, (0, s.mouth_y), (0.3, 0.2))
    under_lip = 0.05 * bump(x, y, (0, s.mouth_y - 0.2), (0.16, 0.05))
    chin = 0.13 * bump(x, y, (0, CHIN * s.chin + 0.14), (0.2, 0.13))
    cheek = (s.cheeks + 0.06 * max(expression.smile, 0)) * bump(side, y, (0.42, s.nose_y + 0.12), (0.17, 0.16))
    fold = (
        (0.02 + 0.03 * age + 0.03 * max(expression.smile, 0))
        * np.exp(-0.5 * ((side - (0.15 + 0.42 * np.clip(s.nose_y - y, 0, 0.5))) / 0.03) ** 2)
        * smoothstep(s.nose_y + 0.06, s.nose_y - 0.06, y)
        * smoothstep(s.mouth_y - 0.14, s.mouth_y, y)
    )
    result: FloatArray = (
        -0.13 * eyes + 0.085 * balls + 0.055 * brow + bridge + wings - nostrils + lips + muzzle - under_lip + chin
        + cheek - fold
    ).astype(np.float32)  # fmt: skip
    return result


def _move(points: FloatArray, person: Person, x: FloatArray, y: FloatArray, ahead: FloatArray) -> None:
    """Open the mouth and smile: points move within the face."""
    e, s = person.expression, person.shape
    below = smoothstep(s.mouth_y + 0.05, s.mouth_y - 0.07, y) * smoothstep(-0.3, 0.3, ahead)
    points[..., 1] -= e.mouth_open * below * np.exp(-0.5 * (x / 0.45) ** 2)
    above = smoothstep(s.mouth_y - 0.01, s.mouth_y + 0.02, y) * bump(x, y, (0, s.mouth_y), (0.22, 0.1))
    points[..., 1] += 0.15 * e.mouth_open * above
    corner = bump(np.abs(x), y, (s.mouth_width, s.mouth_y), (0.12, 0.13)) * ahead
    points[..., 1] += 0.09 * e.smile * corner
    points[..., 0] += np.sign(x) * 0.045 * e.smile * corner


def face_region(head: HeadGrid, shape: Shape) -> NDArray[np.bool_]:
    """The points that a face's bounding box encloses: chin to hairline, ear to ear; bool [R, C]."""
    side = np.sqrt(np.clip(1 - head.front**2, 0, 1))
    result: NDArray[np.bool_] = (head.front > 0) & (side < FACE_SIDE) & (head.y < FOREHEAD * shape.hairline)
    return result


def landmarks(head: HeadGrid, person: Person) -> NDArray[np.intp]:
    """Left eye, right eye, nose tip, left and right corner of the mouth, as the viewer sees them: flat indices, [5]."""
    s = person.shape
    smile = 1 + 0.05 * person.expression.smile
    wanted = [(-s.eye_x, s.eye_y), (s.eye_x, s.eye_y), (0.0, s.nose_y), (-s.mouth_width * smile, s.mouth_y),
              (s.mouth_width * smile, s.mouth_y)]  # fmt: skip
    facing = head.front > 0.2
    found = []
    for x, y in wanted:
        off = np.where(facing, (head.x - x) ** 2 + (head.y - y) ** 2, np.inf)
        found.append(off.argmin())
    return np.asarray(found, np.intp)


def rotation(yaw: float, pitch: float, roll: float) -> FloatArray:
    """The matrix that turns points [..., 3] by `points @ matrix.T`: pitch first, then yaw, then roll."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    result: FloatArray = (about_z @ about_y @ about_x).astype(np.float32)
    return result
