"""Training examples: square crops of rendered photographs, varied in scale, place, side, light and colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facex.demo.noise import FloatArray
from facex.demo.scene import VISIBLE

MIN_FACE_PX = 7.0
"""A lower face, in input pixels, is ignored: it is no more than a spot."""

MIN_KEPT = 0.6
"""A face of which a crop keeps a smaller share is ignored."""

FLIPPED = [1, 0, 2, 4, 3]
"""The order of the landmarks in a mirror."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A photograph with its faces, or a crop of one.

    Attributes:
        pixels: uint8 [H, W, 3], RGB.
        boxes: float32 [F, 4], xyxy.
        landmarks: float32 [F, 5, 2].
        counts: bool [F], whether a face is to be found; the others may be found or not.
    """

    pixels: NDArray[np.uint8]
    boxes: FloatArray
    landmarks: FloatArray
    counts: NDArray[np.bool_]


def crop(rng: np.random.Generator, photo: Example, side: int) -> Example:
    """A random square of a photograph, as `side` x `side` pixels."""
    height, width = photo.pixels.shape[:2]
    length = float(min(height, width) * np.exp(rng.uniform(np.log(0.35), np.log(1.15))))
    at = [rng.uniform(*sorted((0.0, extent - length))) for extent in (width, height)]
    if len(photo.boxes) and rng.random() < 0.7:  # about a face
        box = photo.boxes[int(rng.integers(len(photo.boxes)))]
        at = [float((box[i] + box[i + 2]) / 2 - length * rng.uniform(0.15, 0.85)) for i in (0, 1)]
        if rng.random() < 0.8:  # and not over the edge
            at = [float(np.clip(v, *sorted((0.0, e - length)))) for v, e in zip(at, (width, height), strict=True)]
    x, y = at
    scale = side / length
    fill = (123, 117, 104)
    if rng.random() < 0.5:
        red, green, blue = (int(c) for c in rng.integers(0, 256, 3))
        fill = (red, green, blue)
    area = (x, y, x + length, y + length)
    image = Image.fromarray(photo.pixels).transform(
        (side, side), Image.Transform.EXTENT, area, Image.Resampling.BILINEAR, fillcolor=fill
    ) if length <= 1.2 * side else _shrunk(photo.pixels, area, side, fill)  # fmt: skip
    origin = np.array([x, y], np.float32)
    boxes = ((photo.boxes.reshape(-1, 2, 2) - origin) * scale).reshape(-1, 4)
    landmarks = (photo.landmarks - origin) * scale
    inside = np.clip(boxes, 0, side)
    share = _area(inside) / np.maximum(_area(boxes), 1e-6)
    seen = share > 0.05
    counts = photo.counts & (share > MIN_KEPT) & (inside[:, 3] - inside[:, 1] >= MIN_FACE_PX)
    cut = Example(
        pixels=np.asarray(image), boxes=inside[seen].astype(np.float32), landmarks=landmarks[seen].astype(np.float32),
        counts=counts[seen],
    )  # fmt: skip
    return flip(cut) if rng.random() < 0.5 else cut


def _area(boxes: FloatArray) -> FloatArray:
    result: FloatArray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return result


def _shrunk(pixels: NDArray[np.uint8], area: tuple[float, float, float, float], side: int,
            fill: tuple[int, int, int]) -> Image.Image:  # fmt: skip
    """Crop, then reduce with a filter that leaves no moire."""
    x0, y0, x1, y1 = (round(v) for v in area)
    canvas = Image.new("RGB", (max(x1 - x0, 1), max(y1 - y0, 1)), fill)
    canvas.paste(Image.fromarray(pixels), (-x0, -y0))
    return canvas.resize((side, side), Image.Resampling.BILINEAR)


def flip(example: Example) -> Example:
    """The example in a mirror."""
    width = example.pixels.shape[1]
    boxes = example.boxes.copy()
    boxes[:, [0, 2]] = width - example.boxes[:, [2, 0]]
    landmarks = example.landmarks[:, FLIPPED].copy()
    landmarks[..., 0] = width - landmarks[..., 0]
    return Example(pixels=example.pixels[:, ::-1], boxes=boxes, landmarks=landmarks, counts=example.counts)


def recolour(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Change light, contrast and colours, add noise."""
    gain = np.exp(rng.normal(0, 0.06, 3) + rng.normal(0, 0.18))
    contrast, middle = np.exp(rng.normal(0, 0.18)), 128 + rng.normal(0, 12)
    # a table by channel: the same for every pixel of a value
    values = (np.arange(256)[:, None] * gain - middle) * contrast + 128
    table = np.clip(values, 0, 255).astype(np.uint8).T.ravel().tolist()
    image = Image.fromarray(pixels).point(table)
    if rng.random() < 0.08:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.2:
        noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(1, 10))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    return np.asarray(image)


def usable(visible: FloatArray, boxes: FloatArray) -> NDArray[np.bool_]:
    """Which faces of a rendered photograph count: those of which enough can be seen."""
    return (visible >= VISIBLE) & (boxes[:, 3] - boxes[:, 1] >= 5)
