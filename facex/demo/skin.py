"""What a face looks like: skin, eyes, brows, lips, beard, painted in the coordinates of `head.HeadGrid`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from facex.demo.head import CHIN, HeadGrid
from facex.demo.noise import FloatArray, Noise, bump, smoothstep
from facex.demo.person import Person
from facex.demo.surfaces import Material

PUPIL, IRIS_RADIUS = 0.16, 0.40
"""In units of half the width of an eye."""


def painter(head: HeadGrid, person: Person, noise: Noise) -> Callable[[NDArray[np.intp]], Material]:
    """A function from flat indices into the head's grid to what is there."""
    xs, ys, fronts = head.x.ravel(), head.y.ravel(), head.front.ravel()

    def paint(index: NDArray[np.intp]) -> Material:
        x, y, front = xs[index], ys[index], fronts[index]
        albedo = _skin(person, x, y, front, noise)
        gloss = person.looks.gloss * (1 + bump(x, y, (0, 0.1), (0.3, 0.5)))
        _shade_beard(albedo, person, x, y, front, noise)
        _shade_scalp(albedo, person, x, y, front, noise)
        albedo = albedo * _creases(person, x, y)[:, None]
        glow = np.zeros_like(albedo)
        facing = front > 0.1
        _lips(albedo, gloss, person, x, y, facing)
        _brows(albedo, person, x, y, facing, noise)
        _eyes(albedo, gloss, glow, person, x, y, facing)
        return Material(albedo=albedo.astype(np.float32), gloss=gloss.astype(np.float32), glow=glow.astype(np.float32))

    return paint


def _blend(albedo: FloatArray, colour: FloatArray, share: FloatArray) -> None:
    albedo += (colour - albedo) * np.clip(share, 0, 1)[:, None]


def _skin(person: Person, x: FloatArray, y: FloatArray, front: FloatArray, noise: Noise) -> FloatArray:
    looks, s = person.looks, person.shape
    tone = np.tile(looks.skin, (len(x), 1))
    side = np.abs(x)
    red = bump(side, y, (0.4, s.nose_y + 0.1), (0.17, 0.16)) + 0.7 * bump(x, y, (0, s.nose_y), (0.12, 0.1))
    red = red + 0.4 * bump(side, y, (0.75, -0.1), (0.1, 0.3))
    tone *= 1 + (looks.blush * red)[:, None] * np.array([0.10, -0.16, -0.14], np.float32)
    tired = bump(side, y, (s.eye_x - 0.03, s.eye_y - 0.12), (0.12, 0.05)) * (0.12 + 0.25 * looks.age)
    tone *= (1 - tired)[:, None]
    spots = noise(x * 9 + 40, y * 9 + 40, 3) - 0.5
    tone *= (1 + 0.45 * looks.roughness * spots)[:, None]
    freckles = smoothstep(0.74, 0.84, noise(x * 30 + 3, y * 30 + 8)) * bump(x, y, (0, -0.25), (0.5, 0.25))
    return (tone * (1 - 0.5 * max(looks.roughness - 0.3, 0) * freckles)[:, None]).astype(np.float32)


def _creases(person: Person, x: FloatArray, y: FloatArray) -> FloatArray:
    """Darkness that light does not reach, or only from far: wrinkles, sockets, the sides of the nose, below lips."""
    s, e, side = person.shape, person.expression, np.abs(x)
    depth = 0.10 + 0.35 * person.looks.age
    forehead = sum(
        np.exp(-0.5 * ((y - s.brow_y - 0.12 - 0.1 * i - 0.02 * np.cos(5 * x)) / 0.011) ** 2) for i in range(3)
    )
    forehead = forehead * np.exp(-0.5 * (x / 0.3) ** 2) * max(person.looks.age - 0.3, 0) * 0.5
    fold_x = s.nose_width + 0.03 + 0.42 * np.clip(s.nose_y - y, 0, 0.5)
    fold = np.exp(-0.5 * ((side - fold_x) / 0.022) ** 2) * smoothstep(s.nose_y + 0.05, s.nose_y - 0.05, y)
    fold = fold * smoothstep(s.mouth_y - 0.12, s.mouth_y + 0.03, y) * (depth + 0.25 * max(e.smile, 0))
    socket = 0.25 * bump(side, y, (s.eye_x - 0.12, s.eye_y + 0.05), (0.07, 0.07))
    socket = socket + 0.18 * bump(side, y, (s.eye_x, s.eye_y + 0.07), (0.16, 0.05))
    nose = 0.6 * bump(side, y, (s.nose_width * 0.5, s.nose_y - 0.08), (0.03, 0.016))
    nose = nose + 0.15 * bump(x, y, (0, s.nose_y - 0.11), (s.nose_width * 0.8, 0.025))
    nose = nose + 0.16 * bump(side, y, (s.nose_width * 1.1, s.nose_y - 0.01), (0.02, 0.06))
    lip = 0.28 * bump(x, y, (0, s.mouth_y - 0.165 - 0.4 * e.mouth_open), (0.13, 0.03))
    under = 0.25 * smoothstep(CHIN * s.chin + 0.1, CHIN * s.chin, y)
    result: FloatArray = np.clip(1 - forehead - fold - socket - nose - lip - under, 0.12, 1).astype(np.float32)
    return result


def _lips(albedo: FloatArray, gloss: FloatArray, person: Person, x: FloatArray, y: FloatArray,
          facing: NDArray[np.bool_]) -> None:  # fmt: skip
    s, e, looks = person.shape, person.expression, person.looks
    near = np.flatnonzero(facing & (np.abs(x) < s.mouth_width * 1.15) & (np.abs(y - s.mouth_y) < 0.3))
    if not near.size:
        return
    x, y = x[near], y[near]
    u = np.abs(x) / s.mouth_width
    inside = np.clip(1 - u * u, 0, 1)
    bow = 0.075 * s.lips * inside**0.7 * (1 - 0.18 * np.exp(-0.5 * (x / 0.035) ** 2))
    low = 0.095 * s.lips * inside**0.6
    colour = looks.skin * np.array([0.80, 0.50, 0.50], np.float32)
    painted = np.array([0.36, 0.02, 0.04], np.float32)
    colour = colour + (painted - colour) * np.float32(0.75 * looks.makeup)
    soft = 0.012
    share = smoothstep(bow + soft, bow - soft, y - s.mouth_y) * smoothstep(-low - soft, -low + soft, y - s.mouth_y)
    mine = albedo[near]
    _blend(mine, colour, share * (inside > 0) * (0.55 + 0.45 * looks.makeup))
    gap = 0.012 + 0.22 * e.mouth_open * inside
    line = np.exp(-0.5 * ((y - s.mouth_y) / gap) ** 4) * smoothstep(1.04, 0.9, u)
    dark = np.array([0.035, 0.008, 0.008], np.float32)
    _blend(mine, dark, line * (0.75 if e.mouth_open < 0.02 else 1.0))
    if e.mouth_open > 0.02 and e.teeth:
        top = smoothstep(-0.25 * gap, 0.05 * gap, y - s.mouth_y) * smoothstep(0.9 * gap, 0.75 * gap, y - s.mouth_y)
        tooth = 0.86 + 0.14 * np.abs(np.sin(x * 48))
        _blend(mine, np.array([0.72, 0.66, 0.56], np.float32) * tooth[:, None], top * smoothstep(0.95, 0.75, u) * line)
    albedo[near] = mine
    gloss[near] += 0.15 * share + 0.1 * looks.makeup * share


def _brows(albedo: FloatArray, person: Person, x: FloatArray, y: FloatArray, facing: NDArray[np.bool_],
           noise: Noise) -> None:  # fmt: skip
    s, e = person.shape, person.expression
    along = (np.abs(x) - 0.12) / 0.43
    raised = 0.035 * e.brows
    middle = s.brow_y + raised + s.brow_arch * (np.sin(np.clip(along, 0, 1) * 2.6) - 0.45)
    thick = s.brow_thickness * (1 - 0.65 * np.clip(along, 0, 1) ** 2)
    share = (
        np.exp(-0.5 * np.abs((y - middle) / thick) ** 3) * smoothstep(-0.02, 0.09, along) * smoothstep(1.06, 0.9, along)
    )
    hairs = 0.6 + 0.55 * noise(x * 60 + y * 30, y * 14)
    colour = person.looks.hair * np.float32(0.6)
    colour = np.minimum(colour, person.looks.skin * np.float32(0.6))
    _blend(albedo, colour, share * hairs * facing)


def _eyes(albedo: FloatArray, gloss: FloatArray, glow: FloatArray, person: Person, x: FloatArray, y: FloatArray,
          facing: NDArray[np.bool_]) -> None:  # fmt: skip
    s, e, looks = person.shape, person.expression, person.looks
    for sign in (-1.0, 1.0):
        near = np.flatnonzero(
            facing & (np.abs(x - sign * s.eye_x) < 1.7 * s.eye_size) & (np.abs(y - s.eye_y) < 1.5 * s.eye_size)
        )
        if not near.size:
            continue
        u, v = (x[near] - sign * s.eye_x) / s.eye_size, (y[near] - s.eye_y) / s.eye_size
        v = v - 0.10 * u * sign  # the outer corner sits a little higher
        arc = np.clip(1 - u * u, 0, 1)
        upper = (-0.12 + 0.72 * e.eyes_open) * arc**0.8 - 0.06
        lower = -0.36 * arc**0.9 * (0.5 + 0.5 * min(e.eyes_open, 1.0)) - 0.06
        upper = np.maximum(upper, lower)
        ball = smoothstep(0.05, -0.05, v - upper) * smoothstep(-0.05, 0.05, v - lower) * (arc > 0)
        r = np.hypot(u - e.gaze[0], v - 0.08 - e.gaze[1])
        eye = np.tile(np.array([0.62, 0.57, 0.54], np.float32), (len(near), 1))
        eye *= (0.55 + 0.45 * smoothstep(0.02, 0.35, upper - v))[:, None]  # the lid's shadow
        _blend(eye, looks.iris * np.float32(1.2), smoothstep(IRIS_RADIUS + 0.04, IRIS_RADIUS - 0.04, r))
        _blend(eye, looks.iris * np.float32(0.3), np.exp(-0.5 * ((r - IRIS_RADIUS) / 0.05) ** 2))
        _blend(eye, np.full(3, 0.004, np.float32), smoothstep(PUPIL + 0.03, PUPIL - 0.03, r))
        mine, bright = albedo[near], glow[near]
        shadow = looks.makeup * np.exp(-0.5 * ((v - 0.55) / 0.3) ** 2) * smoothstep(1.4, 0.7, np.abs(u))
        _blend(mine, looks.skin * np.array([0.4, 0.3, 0.35], np.float32), 0.6 * shadow)
        crease = np.exp(-0.5 * ((v - 0.34 - 0.45 * arc) / 0.07) ** 2) * (arc > 0.05)
        mine *= (1 - 0.35 * crease)[:, None]
        _blend(mine, eye, ball)
        lash = np.exp(-0.5 * ((v - upper) / (0.075 + 0.05 * looks.makeup)) ** 2) * smoothstep(1.12, 0.9, np.abs(u))
        _blend(mine, np.full(3, 0.012, np.float32), 0.9 * lash)
        rim = np.exp(-0.5 * ((v - lower) / 0.06) ** 2) * smoothstep(1.08, 0.85, np.abs(u))
        mine *= (1 - (0.3 + 0.3 * looks.makeup) * rim)[:, None]
        spark = np.exp(-0.5 * (np.hypot(u - e.gaze[0] + 0.13, v - 0.22 - e.gaze[1]) / 0.075) ** 2) * ball
        bright += (0.9 * spark)[:, None]
        albedo[near], glow[near] = mine, bright
        gloss[near] = gloss[near] * (1 - ball) + 0.35 * ball


def _shade_beard(albedo: FloatArray, person: Person, x: FloatArray, y: FloatArray, front: FloatArray,
                 noise: Noise) -> None:  # fmt: skip
    kind = person.looks.beard
    if kind == "none":
        return
    s = person.shape
    moustache = bump(x, y, (0, s.mouth_y + 0.115), (0.17, 0.04))
    jaw = smoothstep(s.mouth_y + 0.24, s.mouth_y + 0.08, y - 0.55 * np.abs(x) ** 2) * (front > -0.15)
    jaw = jaw * (1 - bump(x, y, (0, s.mouth_y - 0.005), (0.2, 0.07)))
    chin = bump(x, y, (0, CHIN * s.chin + 0.16), (0.19, 0.2))
    share = {"moustache": moustache, "goatee": np.maximum(moustache, chin)}.get(kind, np.maximum(jaw, moustache))
    strands = noise(x * 38, y * 22, 2)
    strength = 0.35 if kind == "stubble" else 0.95
    _blend(albedo, person.looks.hair * np.float32(0.8), share * strength * (0.55 + 0.7 * strands))


def _shade_scalp(albedo: FloatArray, person: Person, x: FloatArray, y: FloatArray, front: FloatArray,
                 noise: Noise) -> None:  # fmt: skip
    """Roots under the hair, so that gaps in it are not bare."""
    if person.looks.hair_style == "bald":
        return
    s = person.shape
    edge = s.hairline + 0.06 - 0.5 * smoothstep(0.45, 0.72, np.abs(x)) + 0.05 * (noise(x * 14, y * 14) - 0.5)
    over = np.maximum(smoothstep(edge - 0.03, edge + 0.05, y), smoothstep(0.05, -0.1, front) * (y > -0.6))
    _blend(albedo, person.looks.hair, 0.9 * over)
