"""From light to the file: exposure, white balance, lens, sensor, tone curve, compression."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from facex.demo.noise import FloatArray

BLUR_RADIUS_PX = 1.6
"""Largest usual blur, for a long side of 640 px."""


def develop(rng: np.random.Generator, light: FloatArray) -> bytes:
    """A photograph of the light that fell on the sensor.

    Args:
        rng: chooses the camera, its settings and its faults.
        light: float32 [H, W, 3], linear RGB.

    Returns:
        A JPEG file, sRGB-like.
    """
    light = light * _vignette(rng, *light.shape[:2]) * _white_balance(rng)
    light = light * np.float32(2.0 ** rng.normal(-0.25, 0.45))
    noisy = light + rng.standard_normal(light.shape, dtype=np.float32) * np.sqrt(
        float(rng.choice([1e-6, 1e-4, 6e-4], p=[0.45, 0.4, 0.15])) * (0.05 + np.clip(light, 0, None))
    )
    values = _tone(rng, np.clip(noisy, 0, None))
    image = Image.fromarray((values * 255 + 0.5).astype(np.uint8))
    return _compressed(rng, _blurred(rng, image))


def _vignette(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    strength = float(rng.choice([0.0, rng.uniform(0, 0.5)], p=[0.6, 0.4]))
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    result: FloatArray = (1 - strength * (x * x + y * y) / 2)[..., None].astype(np.float32)
    return result


def _white_balance(rng: np.random.Generator) -> FloatArray:
    warm, green = rng.normal(0, 0.08), rng.normal(0, 0.03)
    result: FloatArray = np.exp(np.array([warm, green, -warm])).astype(np.float32)
    return result


def _tone(rng: np.random.Generator, light: FloatArray) -> FloatArray:
    shoulder = light / (1 + 0.25 * light) * 1.2  # highlights roll off
    values = np.clip(shoulder, 0, 1) ** np.float32(1 / rng.uniform(1.9, 2.6))
    contrast = rng.uniform(0.8, 1.25)
    values = (values - 0.45) * contrast + 0.45 + rng.normal(0, 0.03)
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = 0.0 if rng.random() < 0.06 else rng.uniform(0.6, 1.25)
    values = grey[..., None] + (values - grey[..., None]) * saturation
    return np.clip(values, 0, 1).astype(np.float32)


def _blurred(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    scale = max(image.size) / 640
    kind = rng.random()
    if kind < 0.55:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, BLUR_RADIUS_PX) ** 1.5 / 1.3 * scale)))
    elif kind < 0.65:
        image = _moved(rng, image, scale)
    elif kind < 0.85:  # a small copy, enlarged
        factor = float(rng.uniform(0.4, 0.9))
        small = image.resize(
            (max(8, int(image.width * factor)), max(8, int(image.height * factor))), Image.Resampling.BOX
        )
        image = small.resize(image.size, Image.Resampling.BICUBIC)
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.UnsharpMask(radius=1.5, percent=int(rng.uniform(40, 160)), threshold=2))
    return image


def _moved(rng: np.random.Generator, image: Image.Image, scale: float) -> Image.Image:
    """The camera moves while the shutter is open."""
    angle, length = rng.uniform(0, np.pi), rng.uniform(1, 7) * scale
    values = np.asarray(image, np.float32)
    steps = np.linspace(-0.5, 0.5, 7) * length
    shifted = [np.roll(values, (round(s * np.sin(angle)), round(s * np.cos(angle))), axis=(0, 1)) for s in steps]
    return Image.fromarray(np.mean(shifted, axis=0).astype(np.uint8))


def _compressed(rng: np.random.Generator, image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(45, 96)), subsampling=int(rng.integers(0, 3)))
    return buffer.getvalue()
