"""A photograph with people in it, and the truth about every face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from facex.demo import camera, figure, person
from facex.demo.backdrop import backdrop
from facex.demo.noise import FloatArray
from facex.demo.surfaces import Lamp, Lighting, View, render

FACE_UNITS = 1.84
"""From the chin to the hairline of an average head, units."""

DISTANCE_UNITS = 11.0
"""From the camera to a head: a portrait's."""

VISIBLE = 0.35
"""A face of which less than this share can be seen is no use as an example."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """The truth about one face, in pixels of the photograph.

    Attributes:
        box: xyxy, chin to hairline and ear to ear of what faces the camera, cut at the photograph's edge.
        landmarks: float32 [5, 2]: eyes, nose tip, corners of the mouth, left to right as the viewer sees them.
        visible: share of the head within the box that nothing hides, 0-1.
        yaw_deg: how far the head is turned from the camera.
        masked: whether mouth and nose are covered.
    """

    box: tuple[float, float, float, float]
    landmarks: FloatArray
    visible: float
    yaw_deg: float
    masked: bool


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A photograph as a JPEG file, and its faces."""

    jpeg: bytes
    height: int
    width: int
    faces: tuple[Face, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a face is to be: centre and height in pixels; `turned_away` shows the back of the head."""

    x: float
    y: float
    height: float
    turned_away: bool = False


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A person's pixels in a window of the photograph: colour is premultiplied by alpha."""

    rows: slice
    columns: slice
    colour: FloatArray
    alpha: FloatArray
    head: NDArray[np.bool_]
    box: tuple[float, float, float, float]
    landmarks: FloatArray


def photograph(seed: int | tuple[int, ...], height: int = 480, width: int = 640) -> Rendering:
    """Render one photograph.

    Args:
        seed: decides everything; the same seed gives the same pixels with the same versions of NumPy and Pillow.
        height: in pixels.
        width: in pixels.
    """
    rng = np.random.default_rng(seed)
    light = lighting(rng)
    canvas = backdrop(rng, height, width) * (light.sky + light.ground + light.lamps[0].colour * 0.5)
    owner = np.full((height, width), -1, np.int64)
    drawn: list[tuple[Drawn, person.Person] | None] = []
    for place in _places(rng, height, width):
        who = _somebody(rng, place)
        picture = draw(who, place, _varied(rng, light), (height, width))
        if picture is None:
            continue
        paste(canvas, owner, picture, len(drawn))
        drawn.append(None if place.turned_away else (picture, who))
        if not place.turned_away and rng.random() < 0.13:
            _hide(rng, canvas, owner, picture, who)
    jpeg = camera.develop(rng, canvas)
    faces = tuple(face for i, entry in enumerate(drawn) if entry and (face := truth(i, *entry, owner)))
    return Rendering(jpeg=jpeg, height=height, width=width, faces=faces)


def lighting(rng: np.random.Generator) -> Lighting:
    """A key light from anywhere in front, mostly from above, at times a second one, and light from all around."""
    total = 0.95
    key = float(rng.uniform(0.15, 0.85))
    lamps = [_lamp(rng, key * total, spread=1.1, casts=bool(rng.random() < 0.85))]
    if rng.random() < 0.4:
        lamps.append(_lamp(rng, float(rng.uniform(0.1, 0.5)), spread=2.2, casts=False))
    around = (1 - key) * total + 0.12
    sky = around * _tint(rng, 0.08) * rng.uniform(0.9, 1.3)
    ground = around * _tint(rng, 0.1) * rng.uniform(0.3, 0.9)
    return Lighting(lamps=tuple(lamps), sky=sky.astype(np.float32), ground=ground.astype(np.float32))


def _tint(rng: np.random.Generator, spread: float) -> FloatArray:
    warm = rng.normal(0, spread)
    result: FloatArray = np.exp(np.array([warm, 0, -warm])).astype(np.float32)
    return result


def _lamp(rng: np.random.Generator, power: float, *, spread: float, casts: bool) -> Lamp:
    azimuth, height = rng.normal(0, spread * 0.6), np.clip(rng.normal(0.5, 0.35), -0.4, 1.15)
    direction = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    return Lamp(
        direction=direction.astype(np.float32), colour=(power * _tint(rng, 0.1)).astype(np.float32), casts=casts
    )


def _varied(rng: np.random.Generator, light: Lighting) -> Lighting:
    """The same light where somebody else stands."""
    gain = np.float32(np.exp(rng.normal(0, 0.12)))
    lamps = tuple(Lamp(direction=lamp.direction, colour=lamp.colour * gain, casts=lamp.casts) for lamp in light.lamps)
    return Lighting(lamps=lamps, sky=light.sky * gain, ground=light.ground * gain)


def _places(rng: np.random.Generator, height: int, width: int) -> list[Place]:
    """Where faces go, the farthest first."""
    side = min(height, width)
    kind = str(rng.choice(["empty", "one", "few", "group", "crowd"], p=[0.05, 0.32, 0.33, 0.18, 0.12]))
    if kind == "empty":
        return []
    if kind == "one":
        sizes = [side * float(np.exp(rng.uniform(np.log(0.1), np.log(0.8))))]
    elif kind == "few":
        middle = side * float(np.exp(rng.uniform(np.log(0.07), np.log(0.33))))
        sizes = [middle * float(np.exp(rng.normal(0, 0.3))) for _ in range(int(rng.integers(2, 6)))]
    else:
        low, high, most = (0.05, 0.14, 14) if kind == "group" else (0.022, 0.07, 42)
        middle = side * float(np.exp(rng.uniform(np.log(low), np.log(high))))
        sizes = [middle * float(np.exp(rng.normal(0, 0.2))) for _ in range(int(rng.integers(5, most)))]
    horizon, slope = rng.uniform(0.15, 0.5) * height, rng.uniform(0.0, 2.0)
    places: list[Place] = []
    for size in sorted(float(np.clip(s, 7, 0.9 * side)) for s in sizes):
        for _ in range(12):
            x = float(rng.uniform(0.02, 0.98) * width)
            y = float(np.clip(horizon + slope * size + rng.normal(0, 0.12) * height, 0.3 * size, height - 0.4 * size))
            crowded = any(
                abs(x - p.x) < 0.55 * (size + p.height) and abs(y - p.y) < 0.5 * (size + p.height) for p in places
            )
            if not crowded or rng.random() < 0.12:
                places.append(Place(x=x, y=y, height=size, turned_away=bool(rng.random() < 0.07)))
                break
    return places


def _somebody(rng: np.random.Generator, place: Place) -> person.Person:
    if not place.turned_away:
        return person.random_person(rng)
    yaw = float(np.pi + rng.normal(0, 0.35))
    pose = person.Pose(yaw=yaw, pitch=float(rng.normal(0, 0.15)), roll=float(rng.normal(0, 0.1)), body_yaw=yaw)
    return person.random_person(rng, pose=pose)


def draw(who: person.Person, place: Place, light: Lighting, shape: tuple[int, int]) -> Drawn | None:
    """A person with the middle of the face at a place, or None where nothing of them is in the photograph."""
    height, width = shape
    samples = 3 if place.height < 45 else 2 if place.height < 180 else 1
    scale = place.height / FACE_UNITS
    lowest = -(height - place.y) / scale - 1.0
    posed = figure.pose(who, scale * samples, lowest)
    probe = View(pixels_per_unit=scale, distance=DISTANCE_UNITS, origin=(0.0, 0.0), shape=(1, 1))
    middle = probe.project(posed.middle)
    origin = (place.x - float(middle[0]), place.y - float(middle[1]))
    reach = 2.4 * scale
    left, right = max(0, int(origin[0] - reach)), min(width, int(origin[0] + reach) + 1)
    top = max(0, int(origin[1] - 2.3 * scale))
    if right - left < 2 or height - top < 2:
        return None
    window = View(
        pixels_per_unit=scale * samples,
        distance=DISTANCE_UNITS,
        origin=((origin[0] - left) * samples, (origin[1] - top) * samples),
        shape=((height - top) * samples, (right - left) * samples),
    )
    picture = render(posed.surfaces, window, light)
    alpha = _averaged(picture.covered[..., None].astype(np.float32), samples)[..., 0]
    at_head = (picture.surface >= 0) & (picture.surface < posed.head_parts)
    view = View(pixels_per_unit=scale, distance=DISTANCE_UNITS, origin=origin, shape=shape)
    outline = view.project(posed.outline) if len(posed.outline) else np.zeros((1, 2), np.float32)
    low, high = outline.min(axis=0), outline.max(axis=0)
    return Drawn(
        rows=slice(top, height),
        columns=slice(left, right),
        colour=_averaged(picture.colour, samples),
        alpha=alpha,
        head=_averaged(at_head[..., None].astype(np.float32), samples)[..., 0] > 0.5,
        box=(float(low[0]), float(low[1]), float(high[0]), float(high[1])),
        landmarks=view.project(posed.landmarks),
    )


def _averaged(values: FloatArray, samples: int) -> FloatArray:
    if samples == 1:
        return values
    rows, columns, channels = values.shape
    blocks = values.reshape(rows // samples, samples, columns // samples, samples, channels)
    result: FloatArray = blocks.mean(axis=(1, 3), dtype=np.float32)
    return result


def paste(canvas: FloatArray, owner: NDArray[np.int64], picture: Drawn, number: int) -> None:
    """Lay a person over what is there; `owner` says of every pixel whose head it shows."""
    under = canvas[picture.rows, picture.columns]
    under *= 1 - picture.alpha[..., None]
    under += picture.colour
    mine = owner[picture.rows, picture.columns]
    mine[picture.alpha > 0.5] = -1
    mine[picture.head & (picture.alpha > 0.5)] = number


def _hide(rng: np.random.Generator, canvas: FloatArray, owner: NDArray[np.int64], picture: Drawn,
          who: person.Person) -> None:  # fmt: skip
    """Put something in front of a face: fingers, a microphone, a cup, a sheet, a telephone, a branch."""
    x0, y0, x1, y1 = picture.box
    size = max(y1 - y0, 4.0)
    height, width = owner.shape
    layer, mask = Image.new("RGB", (width, height)), Image.new("L", (width, height))
    paint, cover = ImageDraw.Draw(layer), ImageDraw.Draw(mask)
    x, y = rng.uniform(x0, x1), rng.uniform(y0 + 0.3 * size, y1 + 0.2 * size)
    skin = tuple(int(255 * min(1.0, float(c)) ** (1 / 2.2)) for c in who.looks.skin)
    other = tuple(int(c) for c in rng.integers(5, 250, 3))
    strokes = _obstacle(rng, x, y, size)
    colour = skin if len(strokes) > 2 else other
    for kind, points, thick in strokes:
        shade = tuple(int(c * rng.uniform(0.75, 0.95)) for c in colour)
        for on, fill in ((paint, shade), (cover, 255)):
            if kind == "line":
                on.line(points, fill, max(2, int(thick)))
            else:
                (on.ellipse if kind == "disc" else on.rectangle)(points, fill)
    soft = mask.filter(ImageFilter.GaussianBlur(0.7))
    share = np.asarray(soft, np.float32)[..., None] / 255
    canvas += ((np.asarray(layer, np.float32) / 255) ** 2.2 - canvas) * share
    owner[share[..., 0] > 0.5] = -1


def _obstacle(
    rng: np.random.Generator, x: float, y: float, size: float
) -> list[tuple[str, list[tuple[float, float]], float]]:
    """What to draw at x, y before a face of a size: (shape, corners or ends, thickness); more than two are fingers."""
    kind = int(rng.integers(0, 4))
    if kind == 0:
        tilt = rng.uniform(-0.4, 0.4) * size
        lefts = [x + (finger - 2) * 0.12 * size for finger in range(int(rng.integers(3, 6)))]
        tops = [y - rng.uniform(0.3, 0.5) * size for _ in lefts]
        return [
            ("line", [(left, y + 0.5 * size), (left + tilt, top)], 0.11 * size)
            for left, top in zip(lefts, tops, strict=True)
        ]
    if kind == 1:
        r = rng.uniform(0.1, 0.22) * size
        end = (x + rng.uniform(-1, 1) * size, y + 3 * size)
        return [("disc", [(x - r, y - r), (x + r, y + r)], 0), ("line", [(x, y), end], 0.4 * r)]
    if kind == 2:
        w, h = rng.uniform(0.15, 0.55) * size, rng.uniform(0.3, 1.0) * size
        return [("box", [(x - w, y), (x + w, y + h)], 0)]
    ends = [(x - 1.5 * size, y), (x + 1.5 * size, y - rng.uniform(-1, 1) * size)]
    return [("line", ends, rng.uniform(0.04, 0.2) * size)]


def truth(number: int, picture: Drawn, who: person.Person, owner: NDArray[np.int64]) -> Face | None:
    """The face as it ended up, or None where nothing of it can be seen."""
    height, width = owner.shape
    x0, y0, x1, y1 = picture.box
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if inside[2] - inside[0] < 2 or inside[3] - inside[1] < 2 or abs(who.pose.yaw) > np.radians(100):
        return None
    area = (x1 - x0) * (y1 - y0)
    kept = (inside[2] - inside[0]) * (inside[3] - inside[1]) / area
    rows, columns = slice(int(inside[1]), int(np.ceil(inside[3]))), slice(int(inside[0]), int(np.ceil(inside[2])))
    head = np.zeros(owner.shape, bool)
    head[picture.rows, picture.columns] = picture.head
    was = int(head[rows, columns].sum())
    still = int((owner[rows, columns] == number).sum())
    if not still:
        return None
    return Face(
        box=inside,
        landmarks=picture.landmarks,
        visible=kept * still / max(was, still),
        yaw_deg=float(np.degrees(who.pose.yaw)),
        masked=who.looks.mask,
    )
