"""Where things are and which pixels the model gets, in Kotlin against Pillow and NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facex.reference.photographs import letterbox
from facex.types import Size

Kotlin = Callable[..., list[Any]]
INPUT = Size(height=96, width=128)
FILL = (123.0, 117.0, 104.0)
TURNS = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
"""Clockwise degrees -> what turns a picture by them; Pillow counts the other way."""

pytestmark = pytest.mark.slow  # the first test compiles, for half a minute


def upright(rgb: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(rgb).transpose(TURNS[degrees])) if degrees else rgb


def fill(kotlin: Kotlin, folder: Path, pictures: Sequence[dict[str, Any]]) -> list[tuple[NDArray[np.uint8], Any]]:
    """The model's input for pictures, whose `pixels` are bytes here, with scale, content width and content height."""
    asked = []
    for i, picture in enumerate(pictures):
        files = {"pixels": str(folder / f"{i}.bin"), "into": str(folder / f"{i}.input")}
        (folder / f"{i}.bin").write_bytes(picture["pixels"])
        asked.append({"rotation": 0, **picture, **files})
    question = {"ask": "fill", "input": [INPUT.width, INPUT.height], "padding": [int(v) for v in FILL]}
    (answer,) = kotlin({**question, "pictures": asked})
    inputs = [np.fromfile(p["into"], np.uint8).reshape(INPUT.height, INPUT.width, 3) for p in asked]
    return list(zip(inputs, answer, strict=True))


# Letterbox


def check_letterbox_sizes(kotlin: Kotlin, sizes: Sequence[tuple[int, int]]) -> None:
    """Scale and content of pictures of (width, height) in `INPUT`; Python's `round` decides."""
    (found,) = kotlin({"ask": "letterbox", "sizes": [[w, h, INPUT.width, INPUT.height] for w, h in sizes]})
    for (width, height), told in zip(sizes, found, strict=True):
        scale = min(INPUT.height / height, INPUT.width / width)
        content = [min(INPUT.width, max(1, round(width * scale))), min(INPUT.height, max(1, round(height * scale)))]
        assert told == [scale, *content]


def sizes_with_halves() -> list[tuple[int, int]]:
    """Sizes whose content ends halfway between two pixels, after an even and after an odd one, and many others."""
    halves = [(w, 192) for w in range(1, 256, 2)] + [(256, h) for h in range(1, 192, 2)]
    random = np.random.default_rng(0)
    return [*halves, (1, 1), (1, 5000), (5000, 1), (128, 96), *map(tuple, random.integers(1, 5000, (400, 2)).tolist())]


def test_letterboxes_are_those_of_the_reference(kotlin):
    check_letterbox_sizes(kotlin, sizes_with_halves())


def check_pixels(kotlin: Kotlin, folder: Path, seed: int = 0) -> None:
    """Noise, the hardest picture, shrunk, enlarged and left alone, within one level of Pillow."""
    random = np.random.default_rng(seed)
    sizes = [(128, 96), (256, 192), (300, 40), (40, 300), (640, 480), (500, 333), (20, 15), (127, 96), (1, 7), (90, 2)]
    photographs = [random.integers(0, 256, (height, width, 3)).astype(np.uint8) for width, height in sizes]
    pictures = [{"format": "rgb", "pixels": p.tobytes(), "source": p.shape[1::-1]} for p in photographs]
    equal = 0
    for photograph, (pixels, told) in zip(photographs, fill(kotlin, folder, pictures), strict=True):
        reference = letterbox(photograph, INPUT, FILL)
        assert told == [reference.scale, reference.content[1], reference.content[0]]
        assert np.abs(pixels.astype(int) - reference.pixels).max() <= 1
        equal += np.array_equal(pixels, reference.pixels)
    assert equal >= len(photographs) // 2


def test_pixels_are_those_of_the_reference(kotlin, tmp_path):
    check_pixels(kotlin, tmp_path)


# Rotation and crop


def check_turned(kotlin: Kotlin, folder: Path) -> None:
    """Turned and cropped buffers, within one level of Pillow on the upright crop."""
    random = np.random.default_rng(1)
    buffer = random.integers(0, 256, (150, 210, 3)).astype(np.uint8)
    crops = [(0, 0, 210, 150), (13, 27, 140, 101)]
    cases = [(degrees, crop) for degrees in (0, 90, 180, 270) for crop in crops]
    same = {"format": "rgb", "pixels": buffer.tobytes(), "source": [210, 150]}
    pictures = [{**same, "rotation": degrees, "crop": crop} for degrees, crop in cases]
    for (degrees, (left, top, width, height)), (pixels, _) in zip(cases, fill(kotlin, folder, pictures), strict=True):
        cropped = np.ascontiguousarray(buffer[top : top + height, left : left + width])
        reference = letterbox(upright(cropped, degrees), INPUT, FILL).pixels
        assert np.abs(pixels.astype(int) - reference).max() <= 1, degrees


def test_turned_pictures_are_letterboxed_upright(kotlin, tmp_path):
    check_turned(kotlin, tmp_path)


def check_mapping(kotlin: Kotlin, bundled: Any, folder: Path) -> None:
    """Faces back to the upright picture and to the buffer: a marked pixel of the buffer is found again.

    The upright picture is made by turning an array, not by a formula for coordinates.
    """
    width, height, crop = 70, 50, (9, 5, 44, 31)
    model = bundled.bundle.models[0].artifact
    questions, expected = [], []
    for degrees in (0, 90, 180, 270):
        mark = np.zeros((height, width, 3), np.uint8)
        mark[20, 33] = 255
        y, x = np.argwhere(upright(mark, degrees)[..., 0])[0]  # upright position of buffer pixel 33, 20
        corner = np.zeros((height, width, 3), np.uint8)
        corner[crop[1] : crop[1] + crop[3], crop[0] : crop[0] + crop[2]] = 255
        top, left = np.argwhere(upright(corner, degrees)[..., 0]).min(axis=0)
        crop_height, crop_width = (crop[3], crop[2]) if degrees % 180 == 0 else (crop[2], crop[3])
        scale = min(model.size.height / crop_height, model.size.width / crop_width)
        box = [(x - left) * scale, (y - top) * scale, (x + 1 - left) * scale, (y + 1 - top) * scale]
        centre = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        outputs = {"boxes": [box], "scores": [0.9], "landmarks": [centre * bundled.bundle.source.contract.landmarks]}
        names = {}
        for name, values in outputs.items():
            np.asarray(values, "<f4").tofile(folder / f"{degrees}_{name}")
            names[name] = str(folder / f"{degrees}_{name}")
        case = {"ask": "mapped", "description": bundled.description, "model": model.name, "outputs": names}
        questions.append({**case, "source": [width, height], "rotation": degrees, "crop": crop})
        expected.append([x, y, x + 1, y + 1])
    for answer, box in zip(kotlin(*questions), expected, strict=True):
        (face,), (inside,) = answer["upright"], answer["buffer"]
        np.testing.assert_allclose(face[1:5], box, atol=1e-3)
        np.testing.assert_allclose(inside[1:5], [33, 20, 34, 21], atol=1e-3)
        np.testing.assert_allclose(np.reshape(inside[5:], (-1, 2)), [[33.5, 20.5]] * (len(inside[5:]) // 2), atol=1e-3)


def test_faces_are_mapped_back_through_turn_and_crop(kotlin, bundled, tmp_path):
    check_mapping(kotlin, bundled, tmp_path)


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        ({"rotation": 45}, "rotation is 45, not 0, 90, 180 or 270"),
        ({"rotation": -90}, "rotation is -90"),
        ({"crop": [0, 0, 11, 5]}, "crop 11x5 at 0, 0 is not in 10x8"),
        ({"crop": [-1, 0, 5, 5]}, "is not in 10x8"),
        ({"crop": [0, 0, 0, 5]}, "is not in 10x8"),
        ({"format": "nv21", "pixels": bytes(119)}, "NV21 of 10x8 takes 120 bytes without padding, the buffer has 119"),
        ({"format": "yv12", "pixels": bytes(119)}, "YV12 of 10x8 takes 120 bytes without padding, the buffer has 119"),
    ],
)
def test_what_does_not_fit_is_refused(kotlin, tmp_path, frame, complaint):
    picture = {"format": "rgb", "pixels": bytes(240), "source": [10, 8], "rotation": 0, **frame}
    (tmp_path / "pixels").write_bytes(picture["pixels"])
    picture |= {"pixels": str(tmp_path / "pixels"), "into": str(tmp_path / "input")}
    (answer,) = kotlin({"ask": "fill", "input": [16, 16], "padding": [0, 0, 0], "pictures": [picture]})
    assert complaint in answer["error"]


# YUV


def jfif(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Planes of a picture, chroma of the upper left pixel of every two by two, by Pillow."""
    y, u, v = (np.asarray(band) for band in Image.fromarray(rgb).convert("YCbCr").split())
    return y, np.ascontiguousarray(u[::2, ::2]), np.ascontiguousarray(v[::2, ::2])


def back(y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Planes as RGB, by Pillow, each chroma sample for its four pixels."""
    wide = [np.repeat(np.repeat(plane, 2, 0), 2, 1)[: y.shape[0], : y.shape[1]] for plane in (u, v)]
    return np.asarray(Image.merge("YCbCr", [Image.fromarray(plane) for plane in (y, *wide)]).convert("RGB"))


def formats(y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]) -> dict[str, dict[str, Any]]:
    """A picture in every layout that a camera may have; rows of padding hold 77, and the last row has none."""
    width = y.shape[1]
    rows, columns = u.shape
    turns = np.stack([v, u], axis=2).reshape(rows, 2 * columns)

    def padded(plane: NDArray[np.uint8], stride: int) -> bytes:
        wide = np.pad(plane, ((0, 0), (0, stride - plane.shape[1])), constant_values=77).tobytes()
        return wide[: len(wide) - stride + plane.shape[1]]

    luma, chroma = padded(y, width + 6), padded(turns, 2 * columns + 10)
    at = len(luma)
    planar = [padded(y, width + 2), padded(u, columns + 3), padded(v, columns + 3)]
    ends = np.cumsum([0, *map(len, planar)]).tolist()
    strides = [width + 2, columns + 3, columns + 3]
    return {
        "nv21": {"format": "nv21", "pixels": y.tobytes() + turns.tobytes()},
        "yv12": {"format": "yv12", "pixels": y.tobytes() + v.tobytes() + u.tobytes()},
        "semiplanar": {
            "format": "planes",
            "pixels": luma + chroma,
            "planes": [
                [0, at, width + 6, 1],
                [at + 1, at + len(chroma), 2 * columns + 10, 2],
                [at, at + len(chroma) - 1, 2 * columns + 10, 2],
            ],
        },
        "planar": {
            "format": "planes",
            "pixels": b"".join(planar),
            "planes": [[a, b, stride, 1] for (a, b), stride in zip(pairwise(ends), strides, strict=True)],
        },
    }


def check_yuv(kotlin: Kotlin, folder: Path) -> None:
    """Every layout, of even and odd sizes, whole and cropped, within two levels of Pillow's way."""
    random = np.random.default_rng(2)
    pictures, expected = [], []
    for width, height, crop in [
        (128, 96, None),
        (95, 67, None),
        (120, 90, (3, 7, 64, 48)),
        (101, 91, (50, 40, 51, 51)),
    ]:
        # random chroma at the size of the chroma, so that neighbours differ
        small = random.integers(0, 256, ((height + 1) // 2, (width + 1) // 2, 3)).astype(np.uint8)
        planes = jfif(np.repeat(np.repeat(small, 2, 0), 2, 1)[:height, :width])
        rgb = back(*planes)
        left, top, crop_width, crop_height = crop or (0, 0, width, height)
        for layout in formats(*planes).values():
            pictures.append({**layout, "source": [width, height], **({"crop": crop} if crop else {})})
            cropped = np.ascontiguousarray(rgb[top : top + crop_height, left : left + crop_width])
            expected.append(letterbox(cropped, INPUT, FILL).pixels)
    for (pixels, _), reference in zip(fill(kotlin, folder, pictures), expected, strict=True):
        assert np.abs(pixels.astype(int) - reference).max() <= 2


def test_yuv_of_every_layout_is_read(kotlin, tmp_path):
    check_yuv(kotlin, tmp_path)


def check_conversion(kotlin: Kotlin) -> None:
    """JFIF's formula in float64, for a grid of colours and every grey."""
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    yuv = np.concatenate([grid, np.stack([np.arange(256), np.full(256, 128), np.full(256, 128)], axis=1)])
    (found,) = kotlin({"ask": "convert", "yuv": yuv.tolist()})
    packed = np.asarray(found)
    rgb = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)
    y, u, v = yuv.T - np.array([[0.0], [128.0], [128.0]])
    formula = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], axis=1)
    assert np.abs(rgb - np.clip(formula, 0, 255)).max() <= 0.51
    assert (rgb[-256:] == np.arange(256)[:, None]).all()


def test_colours_are_those_of_jfif(kotlin):
    check_conversion(kotlin)


# Altered copies


CHECKS: dict[str, Callable[..., None]] = {
    "half away from zero": lambda kotlin, *_: check_letterbox_sizes(kotlin, sizes_with_halves()),
    "scale of one side": lambda kotlin, *_: check_letterbox_sizes(kotlin, sizes_with_halves()),
    "nearest pixel": lambda kotlin, _, folder: check_pixels(kotlin, folder),
    "BGR": lambda kotlin, _, folder: check_pixels(kotlin, folder),
    "pictures turned the other way": lambda kotlin, _, folder: check_turned(kotlin, folder),
    "turned the other way": check_mapping,
    "crop not added": check_mapping,
    "multiplied back": check_mapping,
    "U and V swapped": lambda kotlin, _, folder: check_yuv(kotlin, folder),
    "limited range": lambda kotlin, *_: check_conversion(kotlin),
    "chroma of the next pair": lambda kotlin, _, folder: check_yuv(kotlin, folder),
}


@pytest.mark.parametrize("name", CHECKS)
def test_other_arithmetic_would_be_seen(kotlin, bundled, name, tmp_path):
    with pytest.raises(AssertionError):
        CHECKS[name](lambda *questions: kotlin(*questions, altered=name), bundled, tmp_path)
