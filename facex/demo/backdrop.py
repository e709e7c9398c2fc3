"""What is behind people: walls, rooms, streets, leaves, lights, clutter, and things that are round but not faces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from facex.demo.noise import FloatArray, Noise

Colour = tuple[int, int, int]


def backdrop(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """A background, float32 [H, W, 3], linear RGB."""
    kinds: list[Callable[[np.random.Generator, int, int], Image.Image]] = [
        _wall,
        _room,
        _street,
        _leaves,
        _lights,
        _tiles,
        _landscape,
        _shelves,
    ]
    image = kinds[int(rng.choice(len(kinds), p=[0.16, 0.18, 0.16, 0.12, 0.1, 0.08, 0.1, 0.1]))](rng, height, width)
    for _ in range(int(rng.poisson(3.5))):
        _clutter(rng, image)
    for _ in range(int(rng.choice([0, 1, 2, 4], p=[0.62, 0.2, 0.12, 0.06]))):
        _decoy(rng, image)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 6)) * max(height, width) / 640))
    values = np.asarray(image, np.float32) / 255
    grain = _field(rng, height, width, float(rng.uniform(3, 60)), 4)[..., None]
    values = values * (1 + float(rng.uniform(0, 0.35)) * (grain - 0.5))
    return (np.clip(values, 0, 1) ** 2.2).astype(np.float32)


def _field(rng: np.random.Generator, height: int, width: int, cells: float, octaves: int) -> FloatArray:
    """Noise over an image with so many cells along the longer side, float32 [H, W], 0-1."""
    scale = cells / max(height, width)
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    return Noise(rng)(columns * scale, rows * scale, octaves)


def _colour(rng: np.random.Generator, low: float = 0, high: float = 255) -> Colour:
    grey = rng.uniform(low, high)
    spread = float(rng.choice([10, 35, 90], p=[0.45, 0.35, 0.2]))
    # walls and wood are warm more often than cold
    warm = rng.normal(6, 14)
    rgb = np.clip(grey + rng.normal(0, spread / 2, 3) + np.array([warm, 0, -warm]), 0, 255)
    return (int(rgb[0]), int(rgb[1]), int(rgb[2]))


def _mixed(a: Colour, b: Colour, share: FloatArray) -> Image.Image:
    values = np.asarray(a, np.float32) + (np.asarray(b, np.float32) - np.asarray(a, np.float32)) * share[..., None]
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _wall(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width)
    ramp = (columns - 0.5) * np.cos(angle) + (rows - 0.5) * np.sin(angle) + 0.5
    mottled = _field(rng, height, width, float(rng.uniform(1, 12)), 3)
    return _mixed(_colour(rng), _colour(rng), np.clip(ramp * 0.7 + 0.5 * (mottled - 0.3), 0, 1).astype(np.float32))


def _room(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    image = _wall(rng, height, width)
    draw = ImageDraw.Draw(image)
    corner = int(width * rng.uniform(-0.2, 1.2))
    floor = int(height * rng.uniform(0.55, 0.95))
    draw.polygon(
        [(0, floor), (corner, int(floor * 0.93)), (width, floor), (width, height), (0, height)], _colour(rng, 20, 180)
    )
    for _ in range(int(rng.integers(1, 6))):  # frames, windows, doors, screens
        w, h = int(width * rng.uniform(0.06, 0.3)), int(height * rng.uniform(0.1, 0.55))
        x, y = int(rng.uniform(-0.1, 1) * width), int(rng.uniform(-0.05, 0.6) * height)
        draw.rectangle(
            [x, y, x + w, y + h], _colour(rng, 60, 255), outline=_colour(rng, 0, 160), width=int(rng.integers(1, 7))
        )
        for i in range(int(rng.integers(0, 4))):
            across = x + w * (i + 1) // 4
            draw.line([across, y, across, y + h], _colour(rng, 0, 200), int(rng.integers(1, 4)))
    return image


def _street(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    image = _mixed(_colour(rng, 150, 255), _colour(rng, 120, 230), _field(rng, height, width, 4, 3))
    draw = ImageDraw.Draw(image)
    x = -int(rng.uniform(0, 0.2) * width)
    while x < width:
        w = int(width * rng.uniform(0.12, 0.4))
        top = int(height * rng.uniform(-0.1, 0.4))
        front, glass = _colour(rng, 40, 210), _colour(rng, 10, 240)
        draw.rectangle([x, top, x + w, height], front)
        step_x, step_y = max(8, int(w / rng.integers(3, 9))), max(8, int(height / rng.integers(6, 18)))
        for column in range(x + step_x // 4, x + w - step_x // 2, step_x):
            for row in range(top + step_y // 3, height, step_y):
                tone = tuple(int(np.clip(c + rng.normal(0, 18), 0, 255)) for c in glass)
                draw.rectangle([column, row, column + step_x * 3 // 5, row + step_y * 3 // 5], tone)
        x += w
    ground = int(height * rng.uniform(0.6, 1.0))
    draw.rectangle([0, ground, width, height], _colour(rng, 40, 160))
    return image


def _leaves(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    green = (int(rng.uniform(20, 110)), int(rng.uniform(60, 150)), int(rng.uniform(10, 70)))
    image = _mixed((10, 18, 8), green, _field(rng, height, width, float(rng.uniform(6, 30)), 4))
    draw = ImageDraw.Draw(image)
    size = max(height, width) * rng.uniform(0.008, 0.05)
    for _ in range(int(rng.integers(150, 600))):
        x, y, a = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, np.pi)
        tone = rng.uniform(0.4, 1.7)
        long, short = size * rng.uniform(0.6, 1.6), size * rng.uniform(0.2, 0.5)
        ring = np.linspace(0, 2 * np.pi, 9)
        px = x + long * np.cos(ring) * np.cos(a) - short * np.sin(ring) * np.sin(a)
        py = y + long * np.cos(ring) * np.sin(a) + short * np.sin(ring) * np.cos(a)
        fill = tuple(int(np.clip(c * tone, 0, 255)) for c in green)
        draw.polygon(list(zip(px.tolist(), py.tolist(), strict=True)), fill)
    return image


def _lights(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    image = _mixed(_colour(rng, 0, 60), _colour(rng, 0, 110), _field(rng, height, width, 3, 3))
    glow = Image.new("RGB", image.size)
    draw = ImageDraw.Draw(glow)
    for _ in range(int(rng.integers(8, 70))):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), max(height, width) * rng.uniform(0.004, 0.05)
        draw.ellipse([x - r, y - r, x + r, y + r], _colour(rng, 100, 255))
    values = np.asarray(image, np.int32) + np.asarray(glow, np.int32) * 2 // 3
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _tiles(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    image = Image.new("RGB", (width, height), _colour(rng))
    draw = ImageDraw.Draw(image)
    w, h = int(rng.integers(8, 90)), int(rng.integers(8, 60))
    base, odd = _colour(rng), int(rng.integers(0, 2))
    for j, y in enumerate(range(0, height, h)):
        for x in range(-w, width + w, w):
            tone = tuple(int(np.clip(c + rng.normal(0, 14), 0, 255)) for c in base)
            left = x + (w // 2) * (j % 2) * odd
            draw.rectangle([left + 1, y + 1, left + w - 1, y + h - 1], tone)
    return image


def _landscape(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    clouds = _field(rng, height, width, float(rng.uniform(2, 6)), 5)
    image = _mixed((int(rng.uniform(60, 150)), int(rng.uniform(120, 190)), 230), (245, 245, 248), clouds)
    draw = ImageDraw.Draw(image)
    for i in range(int(rng.integers(1, 5))):
        line = height * (0.35 + 0.15 * i + 0.08 * rng.standard_normal())
        columns = np.linspace(0, width, 24)
        hills = line + height * 0.06 * np.interp(columns, np.linspace(0, width, 7), rng.standard_normal(7))
        outline = [*zip(columns.tolist(), hills.tolist(), strict=True), (width, height), (0, height)]
        draw.polygon(outline, (int(rng.uniform(20, 150)), int(rng.uniform(50, 150)), int(rng.uniform(20, 110))))
    return image


def _shelves(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    image = _wall(rng, height, width)
    draw = ImageDraw.Draw(image)
    y = 0
    while y < height:
        h = int(height * rng.uniform(0.1, 0.3))
        x = 0
        while x < width:
            w = int(max(5, width * rng.uniform(0.01, 0.07)))
            top = y + int(h * rng.uniform(0.05, 0.5))
            shape = draw.ellipse if rng.random() < 0.12 else draw.rectangle
            shape([x, top, x + w, y + h], _colour(rng), outline=_colour(rng, 0, 90))
            x += w + int(rng.integers(0, 6))
        draw.rectangle([0, y + h, width, y + h + max(3, h // 12)], _colour(rng, 20, 160))
        y += h + max(3, h // 12)
    return image


def _clutter(rng: np.random.Generator, image: Image.Image) -> None:
    """One thing without a meaning: a box, a disc, a pole, a polygon, lines of marks like writing."""
    draw, (width, height) = ImageDraw.Draw(image), image.size
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    w, h = width * rng.uniform(0.02, 0.3), height * rng.uniform(0.02, 0.35)
    fill = _colour(rng)
    kind = int(rng.integers(0, 6))
    if kind == 0:
        draw.rectangle([x, y, x + w, y + h], fill, outline=_colour(rng), width=int(rng.integers(0, 4)))
    elif kind == 1:
        draw.ellipse([x, y, x + w, y + w * rng.uniform(0.6, 1.5)], fill, outline=_colour(rng))
    elif kind == 2:
        tilt = rng.normal(0, 0.1) * height
        draw.line([x, 0, x + tilt, height], fill, int(rng.integers(2, 26)))
    elif kind == 3:
        points = [(x + w * rng.uniform(-1, 1), y + h * rng.uniform(-1, 1)) for _ in range(int(rng.integers(3, 7)))]
        draw.polygon(points, fill)
    elif kind == 4:
        size = max(3, int(height * rng.uniform(0.01, 0.05)))
        for row in range(int(rng.integers(1, 6))):
            left = x
            while left < x + w:
                step = size * rng.uniform(0.3, 0.9)
                draw.rectangle([left, y + row * size * 1.6, left + step * 0.7, y + row * size * 1.6 + size], fill)
                left += step * (2.0 if rng.random() < 0.2 else 1.0)
    else:
        draw.arc([x, y, x + w, y + h], rng.uniform(0, 360), rng.uniform(0, 360), fill, int(rng.integers(1, 12)))


def _decoy(rng: np.random.Generator, image: Image.Image) -> None:
    """Something with a thing or two of a face: a ball, two dots and a bar, a clock, a socket, skin without features."""
    draw, (width, height) = ImageDraw.Draw(image), image.size
    r = max(height, width) * rng.uniform(0.012, 0.12)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    skin = tuple(int(c * rng.uniform(0.3, 1)) for c in (240, 200, 170))
    fill = skin if rng.random() < 0.5 else _colour(rng)
    tall = rng.uniform(0.8, 1.4)
    for i in range(6):  # shaded from one side
        shade = 0.65 + 0.07 * i
        k = 1 - 0.13 * i
        off = 0.3 * r * (1 - k)
        box = [x - r * k - off, y - r * tall * k - off, x + r * k - off, y + r * tall * k - off]
        draw.ellipse(box, tuple(int(min(255, c * shade)) for c in fill))
    dark = _colour(rng, 0, 90)
    kind = int(rng.integers(0, 5))
    if kind == 0:  # a socket
        for side in (-1, 1):
            draw.ellipse(
                [x + side * 0.35 * r - 0.12 * r, y - 0.12 * r, x + side * 0.35 * r + 0.12 * r, y + 0.12 * r], dark
            )
    elif kind == 1:  # a clock
        for turn in rng.uniform(0, 2 * np.pi, 2):
            draw.line([x, y, x + 0.7 * r * np.cos(turn), y + 0.7 * r * np.sin(turn)], dark, max(1, int(r / 12)))
    elif kind == 2:  # marks in no order
        for _ in range(int(rng.integers(2, 7))):
            u, v, k = x + r * rng.uniform(-0.7, 0.7), y + r * rng.uniform(-0.8, 0.8), r * rng.uniform(0.05, 0.25)
            draw.ellipse([u - k, v - k * 0.6, u + k, v + k * 0.6], dark)
    elif kind == 3:  # hair all round: the back of a head
        draw.ellipse([x - r * 0.9, y - r * tall * 0.95, x + r * 0.9, y + r * tall * 0.6], _colour(rng, 5, 80))
