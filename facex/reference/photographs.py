"""Photographs from disk to the network's input pixels."""

from __future__ import annotations

import hashlib
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from facex.errors import PhotographError
from facex.types import Size

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MIN_SIDE_PX = 16
"""A photograph with a shorter side than this cannot hold a face that any prior covers."""

MAX_PIXELS = 200_000_000
"""Larger than any camera's photograph; decoding one would need gigabytes."""

# What Pillow's decoders and its EXIF reader raise on damaged files.
_DECODING_FAILURES = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A photograph on disk. `sha256` is of the file's bytes."""

    path: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Letterboxed:
    """A photograph in the network's frame.

    Attributes:
        pixels: uint8 [H, W, 3], RGB; resized with the aspect kept, padded at the bottom and right.
        scale: input pixels per pixel of the upright photograph.
        content: height and width of the photograph within `pixels`, input pixels.
    """

    pixels: NDArray[np.uint8]
    scale: float
    content: tuple[int, int]


def find(folder: Path, *, option: str) -> list[Photograph]:
    """The photographs of a folder and its subfolders, in the order of their paths; hidden ones are left out.

    Args:
        folder: where to look.
        option: the option that named the folder, for the message.

    Raises:
        PhotographError: the folder is missing, is a file, or holds no photograph.
    """
    if not folder.exists():
        raise PhotographError(f"{option} {folder}: no such folder")
    if not folder.is_dir():
        raise PhotographError(f"{option} {folder}: is a file", hint="name the folder that holds the photographs")
    paths = sorted(
        p for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )  # fmt: skip
    if not paths:
        raise PhotographError(
            f"{option} {folder}: holds no photograph", hint=f"looked for {', '.join(sorted(SUFFIXES))}"
        )
    return [Photograph(path=p, sha256=_digest(p)) for p in paths]


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PhotographError(f"{path}: cannot be read: {error.strerror or error}") from error


def load(path: Path) -> NDArray[np.uint8]:
    """Decode a photograph, upright and in sRGB-like 8-bit RGB.

    EXIF orientation is applied; 16-bit and float greys are brought to 8 bits; CMYK is converted; transparency is laid
    over white.

    Returns:
        uint8 [H, W, 3], RGB, pixels of the upright photograph.

    Raises:
        PhotographError: it cannot be decoded, or is too small or too large to be a photograph of a face.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, where MAX_PIXELS is the bound, and of damaged, unused metadata
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PhotographError(f"{path}: {image.width}x{image.height} is larger than any photograph")
                if min(image.size) < MIN_SIDE_PX:
                    raise PhotographError(
                        f"{path}: {image.width}x{image.height} is too small",
                        hint=f"the shorter side must be at least {MIN_SIDE_PX} px",
                    )
                return np.asarray(_to_rgb(ImageOps.exif_transpose(image)), dtype=np.uint8)
    except PhotographError:
        raise
    except _DECODING_FAILURES as error:
        raise PhotographError(
            f"{path}: cannot be decoded: {error}", hint="remove it or save it again as JPEG or PNG"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow clips when it narrows these modes; scale by the range that the mode can hold instead
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") or values.max() > 255 else 255.0 if values.max() > 1 else 1.0
        image = Image.fromarray(np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def letterbox(rgb: NDArray[np.uint8], size: Size, fill_rgb: tuple[float, float, float]) -> Letterboxed:
    """Resize with the aspect kept (bilinear) and pad at the bottom and right.

    Args:
        rgb: uint8 [h, w, 3].
        size: of the network's input.
        fill_rgb: padding colour, 0-255, rounded; the mean colour, so that padding is near 0 to the network.
    """
    height, width = rgb.shape[:2]
    scale = min(size.height / height, size.width / width)
    content = (
        min(size.height, max(1, round(height * scale))),
        min(size.width, max(1, round(width * scale))),
    )
    pixels = np.empty((size.height, size.width, 3), np.uint8)
    pixels[:] = np.clip(np.rint(fill_rgb), 0, 255).astype(np.uint8)
    resized = Image.fromarray(rgb).resize((content[1], content[0]), Image.Resampling.BILINEAR)
    pixels[: content[0], : content[1]] = np.asarray(resized)
    return Letterboxed(pixels=pixels, scale=scale, content=content)


def network_input(pixels: NDArray[Any], mean: Any, scale: Any, *, bgr: bool) -> NDArray[np.float32]:
    """Letterboxed pixels as the untouched network wants them.

    Args:
        pixels: uint8 [B, H, W, 3], RGB.
        mean: [3], in the network's channel order.
        scale: [3], in the network's channel order.
        bgr: whether that order is BGR.

    Returns:
        float32 [B, 3, H, W].
    """
    ordered = pixels[..., ::-1] if bgr else pixels
    values = (ordered.astype(np.float32) - np.asarray(mean, np.float32)) * np.asarray(scale, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
