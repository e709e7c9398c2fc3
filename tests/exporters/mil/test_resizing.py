"""Images in another size, against loops over the results in float64, and against what coremltools' own tests expect.

Those compare with Core ML, on a Mac.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Compute = Callable[..., Any]
Execute = Callable[..., list[Array]]

MODES = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")
EXTENTS = [1, 2, 3, 5, 8]
COUNTS = [1, 2, 3, 4, 7, 9, 16]


def point(mode: str, extent: float, count: int, i: int) -> float:
    """The documentation's formula; `extent` may be that of a part of an image."""
    if mode == "ALIGN_CORNERS" and count == 1:
        place = (extent - 1) / 2
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        place = 0.0 if count == 1 else i * (extent - 1) / (count - 1)
    elif mode == "DEFAULT":
        place = 0.0 if count == 1 else i * (extent - extent / count) / (count - 1)
    elif mode == "UNALIGN_CORNERS":
        spacing = extent / count
        place = i * spacing + 0.5 * spacing - 0.5
    else:
        delta = max(1, extent - 1) / count
        place = 0.5 * delta + i * delta
    return min(extent - 1, max(0.0, place))


def between(image: Array, row: float, column: float) -> Array:
    """Bilinear, inside an image [..., H, W]."""
    total = np.zeros(image.shape[:-2])
    for y in range(image.shape[-2]):
        for x in range(image.shape[-1]):
            total += image[..., y, x] * max(0.0, 1 - abs(row - y)) * max(0.0, 1 - abs(column - x))
    return total


def sampled_at(x: Array, rows: list[float], columns: list[float]) -> Array:
    x = x.astype(np.float64)
    y = np.zeros((*x.shape[:-2], len(rows), len(columns)))
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        y[..., i, j] = between(x, row, column)
    return y


def linear(x: Array, mode: str, height: int, width: int) -> Array:
    return sampled_at(
        x,
        [point(mode, x.shape[-2], height, i) for i in range(height)],
        [point(mode, x.shape[-1], width, i) for i in range(width)],
    )


def picked(x: Array, rows: list[int], columns: list[int]) -> Array:
    return x[..., np.array(rows)[:, None], np.array(columns)]


def close(found: Array, wanted: Array, half: bool = False) -> None:
    """To float32, or half precision."""
    assert found.shape == wanted.shape
    if half:
        np.testing.assert_array_max_ulp(found.astype(np.float16), wanted.astype(np.float16), maxulp=1)
        np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)


# ---- upsampling ----


def upsampled(shape: tuple[int, ...], scales: tuple[float, float]) -> tuple[int, int]:
    """Height and width, as coremltools declares them: products of float32."""
    height, width = (math.floor(np.float32(s) * np.float32(n)) for s, n in zip(scales, shape[-2:], strict=True))
    return height, width


@pytest.mark.parametrize(
    "scales",
    [(1, 1), (2, 3), (4, 1), (1.5, 2.5), (3.17, 0.67), (2.0, 1.12), (0.5, 0.34), (1.99, 1.01), (2.6, 0.1 * 7)],
)
@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (2, 5, 3), (1, 1, 2, 3, 10, 7)])
def test_upsample_nearest_neighbor(
    compute: Compute, random: np.random.Generator, shape: tuple[int, ...], scales: tuple[float, float]
) -> None:
    x = random.normal(size=shape).astype(np.float32)
    height, width = upsampled(shape, scales)
    rows = [math.floor(i * shape[-2] / height + 1e-9) for i in range(height)]
    columns = [math.floor(i * shape[-1] / width + 1e-9) for i in range(width)]
    found = compute("upsample_nearest_neighbor", x=x, scale_factor_height=scales[0], scale_factor_width=scales[1])
    np.testing.assert_array_equal(found, picked(x, rows, columns))


def test_upsampling_by_nothing_is_the_default(compute: Compute, random: np.random.Generator) -> None:
    x = random.normal(size=(1, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(compute("upsample_nearest_neighbor", x=x), x)
    np.testing.assert_array_equal(compute("upsample_bilinear", x=x), x)


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, "STRICT_ALIGN_CORNERS"),
        ({"align_corners": True}, "STRICT_ALIGN_CORNERS"),
        ({"align_corners": True, "half_pixel_centers": False}, "STRICT_ALIGN_CORNERS"),
        ({"align_corners": False}, "UNALIGN_CORNERS"),
        ({"align_corners": False, "half_pixel_centers": True}, "UNALIGN_CORNERS"),
        ({"align_corners": False, "half_pixel_centers": False}, "DEFAULT"),
    ],
)
@pytest.mark.parametrize("scales", [(2, 3), (1, 4), (1.5, 2.6), (0.5, 0.75), (3.3, 1.01)])
def test_upsample_bilinear(
    compute: Compute, random: np.random.Generator, scales: tuple[float, float], options: dict[str, bool], mode: str
) -> None:
    for shape in ((2, 3, 4, 5), (1, 1, 2), (3, 7, 6)):
        x = random.normal(size=shape).astype(np.float32)
        height, width = upsampled(shape, scales)
        if height and width:
            found = compute("upsample_bilinear", x=x, scale_factor_height=scales[0], scale_factor_width=scales[1],
                            **options)  # fmt: skip
            close(found, linear(x, mode, height, width))


def test_upsample_bilinear_as_torch(compute: Compute, random: np.random.Generator) -> None:
    """The documentation compares it with torch's, of recomputed scales."""
    x = random.normal(size=(2, 3, 10, 22)).astype(np.float32)
    for scales, corners in itertools.product([(3.0, 4.0), (2.5, 2.0), (0.5, 0.75), (2.3, 0.3)], [True, False]):
        wanted = torch.nn.functional.interpolate(
            torch.from_numpy(x).double(), scale_factor=scales, mode="bilinear", align_corners=corners,
            recompute_scale_factor=True,
        )  # fmt: skip
        found = compute("upsample_bilinear", x=x, scale_factor_height=scales[0], scale_factor_width=scales[1],
                        align_corners=corners)  # fmt: skip
        close(found, wanted.numpy())


def test_upsampling_refuses(compute: Compute) -> None:
    x = np.ones((1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="exclude each other"):
        compute("upsample_bilinear", x=x, align_corners=True, half_pixel_centers=True)
    for name in ("upsample_bilinear", "upsample_nearest_neighbor"):
        with pytest.raises(ValueError, match="three dimensions"):
            compute(name, x=x[0])
        for scale in (0, -1.5):
            with pytest.raises(ValueError, match="positive"):
                compute(name, x=x, scale_factor_width=scale)


# ---- resizing ----


@pytest.mark.parametrize("mode", MODES)
def test_points_of_resize_bilinear(compute: Compute, mode: str) -> None:
    """An image of its own coordinates gives the points themselves."""
    for extent, count in itertools.product([*EXTENTS, 100], COUNTS):
        x = np.arange(extent, dtype=np.float32).reshape(1, 1, extent)
        wanted = [[[point(mode, extent, count, i) for i in range(count)]]]
        across = compute("resize_bilinear", x=x, target_size_height=1, target_size_width=count, sampling_mode=mode)
        np.testing.assert_allclose(across, wanted, rtol=1e-6, atol=1e-6)
        down = compute("resize_bilinear", x=x.reshape(1, extent, 1), target_size_height=count, target_size_width=1,
                       sampling_mode=mode)  # fmt: skip
        np.testing.assert_array_equal(down.reshape(-1), across.reshape(-1))


@pytest.mark.parametrize(
    ("mode", "five", "six"),
    [
        ("UNALIGN_CORNERS", [0.0, 0.1, 0.5, 0.9, 1.0], [0, 0, 0.33, 0.67, 1, 1]),
        ("STRICT_ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("DEFAULT", [0, 0.4, 0.8, 1.0, 1.0], [0, 0.33, 0.67, 1, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9], [0.08, 0.25, 0.42, 0.58, 0.75, 0.92]),
    ],
)
def test_points_of_the_documentation(compute: Compute, mode: str, five: list[float], six: list[float]) -> None:
    x = np.array([[[0, 1]]], np.float32)
    for wanted in (five, six):
        found = compute("resize_bilinear", x=x, target_size_width=len(wanted), sampling_mode=mode)
        np.testing.assert_allclose(found.reshape(-1), wanted, atol=0.005)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(1, 1), (5, 7), (2, 3), (9, 4)])
def test_resize_bilinear(compute: Compute, random: np.random.Generator, mode: str, sizes: tuple[int, int]) -> None:
    for shape in ((2, 3, 4, 5), (1, 1, 3), (2, 1, 2, 7, 2)):
        x = random.normal(size=shape).astype(np.float32)
        found = compute("resize_bilinear", x=x, target_size_height=sizes[0], target_size_width=sizes[1],
                        sampling_mode=mode)  # fmt: skip
        close(found, linear(x, mode, *sizes))


def test_resize_bilinear_defaults(compute: Compute, random: np.random.Generator) -> None:
    x = random.normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(compute("resize_bilinear", x=x), x[:, :1, :1])
    close(compute("resize_bilinear", x=x, target_size_height=5, target_size_width=3), linear(x, "DEFAULT", 5, 3))


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (5, 8), (9, 4), (30, 7)])
def test_resize_nearest_neighbor(compute: Compute, random: np.random.Generator, sizes: tuple[int, int]) -> None:
    for shape in ((1, 2, 5, 3), (2, 4, 10)):
        x = random.normal(size=shape).astype(np.float32)
        rows, columns = (
            [min(range(n), key=lambda k: (abs(k + 0.5 - (i + 0.5) * n / m), -k)) for i in range(m)]
            for n, m in zip(shape[-2:], sizes, strict=True)
        )
        found = compute("resize_nearest_neighbor", x=x, target_size_height=sizes[0], target_size_width=sizes[1])
        np.testing.assert_array_equal(found, picked(x, rows, columns))
        exact = torch.nn.functional.interpolate(
            torch.from_numpy(x.reshape(1, -1, *shape[-2:])).double(), size=sizes, mode="nearest-exact"
        )
        np.testing.assert_array_equal(found.reshape(exact.shape), exact.numpy())


@pytest.mark.parametrize("name", ["resize_nearest_neighbor", "resize_bilinear"])
def test_resizing_refuses(compute: Compute, name: str) -> None:
    with pytest.raises(ValueError, match="three dimensions"):
        compute(name, x=np.ones((2, 2), np.float32), target_size_height=2, target_size_width=2)
    with pytest.raises(ValueError, match="must be positive"):
        compute(name, x=np.ones((1, 2, 2), np.float32), target_size_height=0, target_size_width=2)
    with pytest.raises(ValueError, match="'NEAREST' is not known, it is one of DEFAULT, STRICT_ALIGN_CORNERS"):
        compute("resize_bilinear", x=np.ones((1, 2, 2), np.float32), sampling_mode="NEAREST")


@pytest.mark.parametrize("mode", MODES)
def test_resize_linear(compute: Compute, random: np.random.Generator, mode: str) -> None:
    x = random.normal(size=(2, 3, 4, 5)).astype(np.float32)
    for shape, dims, sizes in [
        ((6, 3), 2, (6, 3)), ((9, 9, 2, 7), 2, (2, 7)), ((1, 0, 8), 2, (4, 8)), ((8, 0), 2, (8, 5)),
    ]:  # fmt: skip
        found = compute("resize", x=x, shape=shape, resized_dims=dims, sampling_mode=mode)
        close(found, linear(x, mode, *sizes))
    columns = [point(mode, 5, 3, i) for i in range(3)]
    close(
        compute("resize", x=x, shape=(7, 3), resized_dims=1, sampling_mode=mode), sampled_at(x, [0, 1, 2, 3], columns)
    )
    np.testing.assert_array_equal(compute("resize", x=x, shape=(7, 3), resized_dims=0, sampling_mode=mode), x)


@pytest.mark.parametrize("mode", MODES)
def test_resize_of_three_dimensions(compute: Compute, random: np.random.Generator, mode: str) -> None:
    x = random.normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = compute("resize", x=x, shape=(5, 2, 6), resized_dims=3, sampling_mode=mode)
    flat = linear(x, mode, 2, 6).reshape(2, 3, 12)
    wanted = sampled_at(flat, [point(mode, 3, 5, i) for i in range(5)], list(range(12)))
    close(found, wanted.reshape(2, 5, 2, 6))


def nearest_points(mode: str, extent: int, count: int) -> list[int]:
    """The pixel whose center is nearest, the later of two; DEFAULT has UNALIGN_CORNERS' points."""
    mode = "UNALIGN_CORNERS" if mode == "DEFAULT" else mode
    points = [point(mode, extent, count, i) for i in range(count)]
    return [min(range(extent), key=lambda k: (round(abs(k - p), 9), -k)) for p in points]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_resize_nearest(compute: Compute, random: np.random.Generator, mode: str, dtype: Any) -> None:
    for extent, count in itertools.product(EXTENTS, COUNTS):
        x = (random.normal(size=(2, extent, 3)) * 100).astype(dtype)
        found = compute("resize", x=x, shape=(1, count, 6), resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR",
                        sampling_mode=mode)  # fmt: skip
        wanted = picked(x, nearest_points(mode, extent, count), nearest_points(mode, 3, 6))
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == dtype


def test_resize_refuses(compute: Compute) -> None:
    x = np.ones((1, 2, 3), np.float32)
    for shape, dims in [((2, 3), 3), ((1, 1, 2, 3), 2), ((2,), -1)]:
        with pytest.raises(ValueError, match="must not decrease"):
            compute("resize", x=x, shape=shape, resized_dims=dims)
    with pytest.raises(ValueError, match="must be positive"):
        compute("resize", x=x, shape=(2, -3), resized_dims=2)
    with pytest.raises(ValueError, match="'CUBIC' is neither"):
        compute("resize", x=x, shape=(2, 3), resized_dims=2, interpolation_mode="CUBIC")
    for mode in ("LINEAR", "NEAREST_NEIGHBOR"):
        with pytest.raises(ValueError, match="'CORNERS' is not known"):
            compute("resize", x=x, shape=(2, 3), resized_dims=2, interpolation_mode=mode, sampling_mode="CORNERS")
    with pytest.raises(NotImplementedError, match="integers"):
        compute("resize", x=x.astype(np.int32), shape=(2, 4), resized_dims=2)


def test_resizing_as_core_ml(compute: Compute) -> None:
    """Cases of coremltools' own tests."""
    x = np.array([1.5, -2.5, 3.5], np.float32).reshape(1, 1, 1, 3)
    for height, width, wanted in [(3.17, 0.67, [1.5, -2.5] * 3), (2.0, 1.12, [1.5, -2.5, 3.5] * 2)]:
        found = compute("upsample_nearest_neighbor", x=x, scale_factor_height=height, scale_factor_width=width)
        assert found.reshape(-1).tolist() == wanted
    two = np.array([0, 1], np.float32).reshape(1, 1, 2)
    found = compute("upsample_bilinear", x=two, scale_factor_height=1.0, scale_factor_width=2.6, align_corners=False)
    np.testing.assert_allclose(found.reshape(-1), [0, 0.1, 0.5, 0.9, 1], atol=1e-6)
    found = compute("upsample_bilinear", x=two + 1, scale_factor_width=3, align_corners=False, half_pixel_centers=False)
    np.testing.assert_allclose(found.reshape(-1), [1, 4 / 3, 5 / 3, 2, 2, 2], rtol=1e-6)
    column = np.array([-6.174, 9.371], np.float32).reshape(1, 1, 1, 2, 1)
    found = compute("resize", x=column, shape=(1, 1, 3, 2), resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR")
    assert (found.reshape(-1) > 0).tolist() == [False, False, True, True, True, True]
    across = np.array([0.37, 6.17], np.float32).reshape(1, 1, 2, 1)
    found = compute("resize_nearest_neighbor", x=across, target_size_height=2, target_size_width=3)
    assert (found.reshape(-1) > 1).tolist() == [False] * 3 + [True] * 3


# ---- crops ----


def cropped(
    x: Array, box: Any, height: int, width: int, mode: str, layout: str, normalized: bool, scale: float, pad: float
) -> Array:
    """A patch of one image [C, H, W]."""
    first, second = [float(v) for v in box[:2]], [float(v) for v in box[2:]]
    if "WIDTH_FIRST" in layout:
        first, second = first[::-1], second[::-1]
    if "CENTER" in layout:
        first, second = (
            [c - s / 2 for c, s in zip(first, second, strict=True)],
            [c + s / 2 for c, s in zip(first, second, strict=True)],
        )
    factors = [scale * (n - 1 if normalized else 1) for n in x.shape[-2:]]
    points = []
    for start, end, factor, count in zip(first, second, factors, (height, width), strict=True):
        start, end = start * factor, end * factor
        away = [point(mode, abs(end - start) + 1, count, i) for i in range(count)]
        points.append([start + p if end >= start else start - p for p in away])
    y = sampled_at(x, *points)
    for i, j in itertools.product(range(height), range(width)):
        if not (0 <= points[0][i] <= x.shape[-2] - 1 and 0 <= points[1][j] <= x.shape[-1] - 1):
            y[:, i, j] = pad
    return y


# in pixels, as corners, height first: inside, with fractions, mirrored, partly outside, outside, a point, the whole,
# less than a pixel
BOXES = np.array(
    [[1, 1, 2, 3], [0.3, 0.6, 3.7, 2.2], [3, 4, 1, 0.5], [-1.5, 2, 2.25, 7], [9, 9, 11, 12], [2, 3, 2, 3],
     [0, 0, 4, 5], [1.2, 2, 1.6, 2.5]],
    np.float32,
)  # fmt: skip


def laid_out(boxes: Array, layout: str) -> Array:
    first, second = boxes[:, :2], boxes[:, 2:]
    if "CENTER" in layout:
        first, second = (first + second) / 2, second - first
    if "WIDTH_FIRST" in layout:
        first, second = first[:, ::-1], second[:, ::-1]
    return np.concatenate([first, second], axis=1).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "layout",
    ["CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"],
)
def test_crop_resize(compute: Compute, random: np.random.Generator, mode: str, layout: str) -> None:
    x = random.normal(size=(3, 2, 5, 6)).astype(np.float32)
    boxes, images = laid_out(BOXES, layout), np.array([0, 2, 1, 2, 0, 1, 2, 0], np.int32)
    for height, width, pad in [(3, 4, 0.0), (1, 1, 7.5), (6, 2, -1.0)]:
        options = {"target_height": height, "target_width": width, "box_coordinate_mode": layout, "sampling_mode": mode}
        wanted = np.stack(
            [cropped(x[i], box, height, width, mode, layout, False, 1.0, pad)
             for box, i in zip(boxes, images, strict=True)]
        )  # fmt: skip
        found = compute("crop_resize", x=x, boxes=boxes, box_indices=images, pad_value=pad, **options)
        close(found, wanted)
        five = np.concatenate([images[:, None].astype(np.float32), boxes], axis=1).reshape(-1, 1, 5, 1, 1)
        close(compute("crop_resize", x=x, roi=five, pad_value=pad, **options), wanted[:, None])
        every = np.stack(
            [[cropped(image, box, height, width, mode, layout, False, 1.0, pad) for image in x] for box in boxes]
        )
        four = boxes.reshape(-1, 1, 4, 1, 1)
        close(compute("crop_resize", x=x, roi=four, pad_value=pad, **options), every)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.125])
def test_crop_resize_scales(compute: Compute, random: np.random.Generator, normalized: bool, scale: float) -> None:
    x = random.normal(size=(2, 3, 5, 9)).astype(np.float32)
    boxes = random.uniform(0, 1, (2, 4)).astype(np.float32) if normalized else np.array([[2, 4, 8, 16], [7, 1, 0, 8]])
    wanted = np.stack(
        [cropped(x[i], boxes[i], 4, 3, "DEFAULT", "CORNERS_HEIGHT_FIRST", normalized, scale, 0.0) for i in (0, 1)]
    )
    found = compute("crop_resize", x=x, boxes=boxes, target_height=4, target_width=3, spatial_scale=scale,
                    normalized_coordinates=normalized)  # fmt: skip
    close(found, wanted)


def test_crop_resize_keeps_the_last_pixel(compute: Compute, random: np.random.Generator) -> None:
    """No rounding pushes the end of a box that is the image's out of it, where the pad value is."""
    for extent, count in itertools.product(range(2, 40, 3), range(2, 60, 5)):
        x = np.ones((1, 1, 1, extent), np.float32)
        for mode, boxes in itertools.product(MODES, ([[0, 0.1, 0, 1]], [[0, 1, 0, 0.3]])):
            found = compute("crop_resize", x=x, boxes=np.array(boxes, np.float32), normalized_coordinates=True,
                            target_width=count, sampling_mode=mode, pad_value=99.0)  # fmt: skip
            assert found.max() < 1.001, (extent, count, mode, boxes)


def test_crop_resize_as_core_ml(compute: Compute) -> None:
    """Cases of coremltools' own tests."""
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)

    def crop(box: list[float], size: int, **options: Any) -> list[float]:
        roi = np.array(box, np.float32).reshape(1, 1, -1, 1, 1)
        found = compute("crop_resize", x=x, roi=roi, target_height=size, target_width=size,
                        sampling_mode="ALIGN_CORNERS", **options)  # fmt: skip
        assert found.shape == (1, 1, 1, size, size)
        return [round(v, 3) for v in found.reshape(-1).tolist()]

    assert crop([1, 1, 2, 2], 2) == [6, 7, 10, 11]
    assert crop([1, 1, 2, 2], 4)[:6] == [6, 6.333, 6.667, 7, 7.333, 7.667]
    assert crop([1, 1, 2, 2], 1) == [8.5]
    assert crop([0, 0, 0, 1 / 3, 1 / 3], 2, normalized_coordinates=True) == [1, 2, 5, 6]
    assert crop([2, 2, 1, 1], 2) == [11, 10, 7, 6]
    options = {"normalized_coordinates": True, "pad_value": 10.0}
    assert crop([0.1, 0.3, 1.3, 1], 2, **options) == [3.1, 5.2, 10, 10]
    assert crop([0.5, 1.8, 1.0, 0.3], 2, **options) == [10, 7.9, 10, 13.9]
    assert crop([0.0, 0.4, 0.6, 0.7], 2, **options) == [2.2, 3.1, 9.4, 10.3]


def test_crop_resize_refuses(compute: Compute) -> None:
    x, boxes = np.ones((2, 1, 3, 3), np.float32), np.zeros((2, 4), np.float32)
    roi = np.zeros((2, 1, 5, 1, 1), np.float32)
    for inputs in ({}, {"roi": roi, "boxes": boxes}, {"boxes": roi}, {"roi": boxes}, {"roi": roi[..., :3, :, :]}):
        with pytest.raises(ValueError, match="either roi must be given"):
            compute("crop_resize", x=x, **inputs)
    with pytest.raises(ValueError, match="box_indices are for boxes"):
        compute("crop_resize", x=x, roi=roi, box_indices=np.zeros(2, np.int32))
    with pytest.raises(ValueError, match=r"x must be \[B, C, H, W\]"):
        compute("crop_resize", x=x[0], boxes=boxes)
    for indices in ([0, 2], [0, -1], [0], [0, 1, 1]):
        with pytest.raises(ValueError, match="there are 2"):
            compute("crop_resize", x=x, boxes=boxes, box_indices=np.array(indices, np.int32))
    with pytest.raises(ValueError, match="there are 2"):
        compute("crop_resize", x=x, boxes=np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="'CORNERS' is not known, it is one of CORNERS_HEIGHT_FIRST"):
        compute("crop_resize", x=x, boxes=boxes, box_coordinate_mode="CORNERS")
    with pytest.raises(ValueError, match="'NEAREST' is not known"):
        compute("crop_resize", x=x, boxes=boxes, sampling_mode="NEAREST")


# ---- sampling ----


def surrounded(image: Array, row: int, column: int, padding: str, value: float) -> Array:
    """The pixel of an image [C, H, W] that goes on around itself."""
    indices = []
    for k, n in ((row, image.shape[1]), (column, image.shape[2])):
        if padding == "constant" and not 0 <= k < n:
            return np.full(image.shape[0], value)
        if padding == "reflection":
            there_and_back = [*range(n), *range(n - 2, 0, -1)]
            k = there_and_back[k % len(there_and_back)]
        elif padding == "symmetric":
            k = [*range(n), *reversed(range(n))][k % (2 * n)]
        indices.append(min(max(k, 0), n - 1))
    result: Array = image[:, indices[0], indices[1]].astype(np.float64)
    return result


def resampled(
    x: Array, points: Array, sampling: str, padding: str, value: float, coordinates: str, corners: bool
) -> Array:
    y = np.zeros((*x.shape[:2], *points.shape[1:3]))
    for b, i, j in np.ndindex(*points.shape[:3]):
        place = []
        for c, n in zip(points[b, i, j].astype(np.float64), x.shape[:1:-1], strict=True):
            first, last = (0, n - 1) if corners else (-0.5, n - 0.5)
            if coordinates == "normalized_minus_one_to_one":
                c = first + (last - first) * (c + 1) / 2
            elif coordinates == "normalized_zero_to_one":
                c = first + (last - first) * c
            place.append(float(c))
        column, row = place
        if sampling == "nearest":
            y[b, :, i, j] = surrounded(x[b], round(row), round(column), padding, value)
            continue
        for r, c in itertools.product(
            (math.floor(row), math.floor(row) + 1), (math.floor(column), math.floor(column) + 1)
        ):
            share = (1 - abs(row - r)) * (1 - abs(column - c))
            y[b, :, i, j] += share * surrounded(x[b], r, c, padding, value)
    return y


PADDINGS = ("constant", "border", "reflection", "symmetric")
COORDINATES = ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one")


def around(random: np.random.Generator, mode: str, shape: tuple[int, ...]) -> Array:
    """Points of which some are far outside an image of about five pixels, none halfway between two."""
    points = random.uniform(-14, 19, shape)
    points = np.where(np.abs(points % 1 - 0.5) < 0.01, points + 0.1, points)
    scaled = {"unnormalized": points, "normalized_zero_to_one": points / 5}.get(mode, points / 2.5 - 1)
    return scaled.astype(np.float32)


@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("corners", [True, False])
def test_resample(
    compute: Compute, random: np.random.Generator, sampling: str, padding: str, coordinates: str, corners: bool
) -> None:
    for shape in ((2, 3, 4, 5), (1, 2, 1, 6)):
        x = random.normal(size=shape).astype(np.float32)
        points = around(random, coordinates, (shape[0], 3, 7, 2))
        given = {"padding_value": 6.17, "coordinates_mode": coordinates, "align_corners": corners}
        found = compute("resample", x=x, coordinates=points, sampling_mode=sampling, padding_mode=padding, **given)
        wanted = resampled(x, points, sampling, padding, 6.17, coordinates, corners)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("torchs", "corners", "padding"), [
    ("zeros", True, "constant"), ("zeros", False, "constant"), ("border", True, "border"), ("border", False, "border"),
    ("reflection", True, "reflection"), ("reflection", False, "symmetric"),
])  # fmt: skip
def test_resample_as_torch(
    compute: Compute, random: np.random.Generator, mode: str, torchs: str, corners: bool, padding: str
) -> None:
    x, grid = random.normal(size=(2, 3, 5, 6)), random.uniform(-3, 3, (2, 4, 7, 2)).astype(np.float32)
    x = x.astype(np.float32)
    wanted = torch.nn.functional.grid_sample(
        torch.from_numpy(x).double(), torch.from_numpy(grid).double(), mode=mode, padding_mode=torchs,
        align_corners=corners,
    )  # fmt: skip
    found = compute("resample", x=x, coordinates=grid, sampling_mode=mode, padding_mode=padding, padding_value=0.0,
                    coordinates_mode="normalized_minus_one_to_one", align_corners=corners)  # fmt: skip
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=2e-6)


def test_resample_nearest_halves_go_to_the_even_pixel(compute: Compute) -> None:
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 1, 6)
    points = np.array([[[[c, 0] for c in (-0.5, 0.5, 1.5, 2.5, 3.5, 4.5)]]], np.float32)
    found = compute("resample", x=x, coordinates=points, sampling_mode="nearest", padding_mode="constant",
                    padding_value=-1.0, coordinates_mode="unnormalized", align_corners=True)  # fmt: skip
    assert found.reshape(-1).tolist() == [0, 0, 2, 2, 4, 4]


def test_resample_at_whole_points_moves_pixels(compute: Compute, random: np.random.Generator) -> None:
    """Whole coordinates, which may be of an integer type, and infinite ones of a constant."""
    x = random.normal(size=(1, 3, 4, 5)).astype(np.float32)
    points = np.array([[[[0, 0], [4, 3], [2, 1], [-1, 2], [5, 0], [0, 4]]]], np.int32)
    wanted = np.stack([x[0, :, 0, 0], x[0, :, 3, 4], x[0, :, 1, 2], *[np.full(3, 0.5, np.float32)] * 3], axis=1)
    given = {
        "padding_mode": "constant",
        "padding_value": 0.5,
        "coordinates_mode": "unnormalized",
        "align_corners": False,
    }
    for mode in ("bilinear", "nearest"):
        found = compute("resample", x=x, coordinates=points, sampling_mode=mode, **given)
        np.testing.assert_array_equal(found[0, :, 0], wanted)
        far = np.array([[[[np.inf, 0], [0, -np.inf]]]], np.float32)
        assert (compute("resample", x=x, coordinates=far, sampling_mode=mode, **given) == 0.5).all()


RESAMPLED_AS_CORE_ML = [
    ("bilinear", "constant", 6.17, "normalized_minus_one_to_one", True, [8.585, 6.17, 27.5, 6.17]),
    ("nearest", "border", -1.0, "unnormalized", False, [11.0, 11.0, 11.0, 44.0]),
    ("bilinear", "reflection", -1.0, "normalized_zero_to_one", True, [22.0, 36.3, 11.0, 34.1]),
    ("nearest", "symmetric", -1.0, "normalized_zero_to_one", False, [22.0, 33.0, 11.0, 33.0]),
]


def test_resample_as_core_ml(compute: Compute) -> None:
    """Cases of coremltools' own tests."""
    x = np.array([11, 22, 33, 44], np.float32).reshape(1, 1, 2, 2)
    points = np.array([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2], np.float32).reshape(1, 2, 2, 2)
    for sampling, padding, value, coordinates, corners, wanted in RESAMPLED_AS_CORE_ML:
        found = compute("resample", x=x, coordinates=points, sampling_mode=sampling, padding_mode=padding,
                        padding_value=value, coordinates_mode=coordinates, align_corners=corners)  # fmt: skip
        np.testing.assert_allclose(found.reshape(-1), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling_mode": "cubic"}, "'cubic' is neither"),
        ({"padding_mode": "wrap"}, "'wrap' is not known"),
        ({"coordinates_mode": "normalized"}, "'normalized' is not known"),
        ({"coordinates": np.zeros((1, 2, 2, 3), np.float32)}, "coordinates"),
        ({"coordinates": np.zeros((2, 2, 2, 2), np.float32)}, "coordinates"),
        ({"x": np.zeros((1, 2, 2), np.float32)}, "x must be"),
    ],
)
def test_resample_refuses(compute: Compute, change: dict[str, Any], message: str) -> None:
    inputs = {
        "x": np.zeros((1, 1, 2, 2), np.float32), "coordinates": np.zeros((1, 2, 2, 2), np.float32),
        "sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": 0.0,
        "coordinates_mode": "unnormalized", "align_corners": True,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        compute("resample", **{**inputs, **change})


# ---- affine ----

AFFINE = {
    "sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": 0.0,
    "coordinates_mode": "normalized_minus_one_to_one", "align_corners": True,
}  # fmt: skip


def transformed(x: Array, matrices: Array, height: int, width: int) -> Array:
    y = np.zeros((*x.shape[:2], height, width))
    for b, i, j in np.ndindex(len(x), height, width):
        a = matrices[b % len(matrices)].astype(np.float64)
        u, v = (2 * k / (n - 1) - 1 if n > 1 else 0.0 for k, n in ((j, width), (i, height)))
        column = (a[0] * u + a[1] * v + a[2] + 1) / 2 * (x.shape[3] - 1)
        row = (a[3] * u + a[4] * v + a[5] + 1) / 2 * (x.shape[2] - 1)
        y[b, :, i, j] = between(x[b].astype(np.float64), row, column)  # it is 0 outside
    return y


@pytest.mark.parametrize("sizes", [(4, 5), (3, 7), (1, 1), (1, 6), (5, 1)])
@pytest.mark.parametrize("count", [1, 3])
def test_affine(compute: Compute, random: np.random.Generator, sizes: tuple[int, int], count: int) -> None:
    x = random.normal(size=(3, 2, 4, 5)).astype(np.float32)
    for spread in (0.3, 1.5):
        matrices = (np.array([[1, 0, 0, 0, 1, 0]]) + random.normal(size=(count, 6)) * spread).astype(np.float32)
        found = compute("affine", x=x, transform_matrix=matrices, output_height=sizes[0], output_width=sizes[1],
                        **AFFINE)  # fmt: skip
        wanted = transformed(x, matrices, *sizes)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.filterwarnings("ignore:.*unit-size grids:UserWarning")
def test_affine_as_torch(compute: Compute, random: np.random.Generator) -> None:
    """From which coremltools converts it."""
    x, theta = random.normal(size=(2, 3, 5, 6)).astype(np.float32), random.normal(size=(2, 2, 3)).astype(np.float32)
    for height, width in ((4, 7), (1, 3), (6, 1)):
        grid = torch.nn.functional.affine_grid(
            torch.from_numpy(theta).double(), [2, 3, height, width], align_corners=True
        )
        wanted = torch.nn.functional.grid_sample(torch.from_numpy(x).double(), grid, align_corners=True)
        found = compute("affine", x=x, transform_matrix=theta.reshape(2, 6), output_height=height, output_width=width,
                        **AFFINE)  # fmt: skip
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=2e-6)


def test_affine_as_core_ml(compute: Compute) -> None:
    """Cases of coremltools' own tests."""
    x = np.array([11, 22, 33, 44], np.float32).reshape(1, 1, 2, 2)
    matrix = np.array([[-1, -2, -3.7, -1, 3.5, 1.2]], np.float32)
    square = compute("affine", x=x, transform_matrix=matrix, output_height=3, output_width=3, **AFFINE)
    np.testing.assert_allclose(square.reshape(-1), [10.7525, 2.5025, 0, 1.98, 0, 0, 0, 0, 0], rtol=1e-5, atol=1e-5)
    flat = compute("affine", x=x, transform_matrix=matrix, output_height=2, output_width=5, **AFFINE)
    np.testing.assert_allclose(flat.reshape(-1), [10.7525, 5.94, 2.5025, 0.44, *[0] * 6], rtol=1e-5, atol=1e-5)


def test_affine_refuses(compute: Compute) -> None:
    x, matrix = np.zeros((3, 1, 2, 2), np.float32), np.zeros((3, 6), np.float32)
    for change in (
        {"sampling_mode": "nearest"}, {"padding_mode": "border"}, {"padding_value": 1.0},
        {"coordinates_mode": "unnormalized"}, {"align_corners": False},
    ):  # fmt: skip
        with pytest.raises(NotImplementedError, match="affine: Core ML knows only"):
            compute("affine", x=x, transform_matrix=matrix, output_height=1, output_width=1, **{**AFFINE, **change})
    for wrong in ({"x": x[0]}, {"transform_matrix": matrix[:2]}, {"transform_matrix": matrix[:, :5]}):
        with pytest.raises(ValueError, match="transform_matrix"):
            compute("affine", **{"x": x, "transform_matrix": matrix, "output_height": 1, "output_width": 1, **AFFINE,
                                 **wrong})  # fmt: skip


# ---- saved ----


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_upsampling(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    x = random.normal(size=(1, 2, 3, 5)).astype(dtype)

    def body(mb: Any, x: Any) -> Any:
        def near(height: Any, width: Any) -> Any:
            return mb.upsample_nearest_neighbor(x=x, scale_factor_height=height, scale_factor_width=width)

        def bilinear(height: Any, width: Any, **options: Any) -> Any:
            return mb.upsample_bilinear(x=x, scale_factor_height=height, scale_factor_width=width, **options)

        return (
            near(2, 3), near(np.float32(1.34), np.float32(2.6)), near(np.float32(0.67), np.float32(1.12)),
            mb.upsample_nearest_neighbor(x=x), bilinear(2, 3), bilinear(np.float32(1.34), np.float32(2.6)),
            bilinear(2, 2, align_corners=False), bilinear(2, 2, align_corners=False, half_pixel_centers=False),
        )  # fmt: skip

    found = execute(body, target="iOS16", x=x)
    near = [
        picked(x, [0, 0, 1, 1, 2, 2], [i // 3 for i in range(15)]),
        picked(x, [0, 0, 1, 2], [i * 5 // 13 for i in range(13)]),
        picked(x, [0, 1], [0, 1, 2, 3, 4]),
        x,
    ]
    for f, w in zip(found[:4], near, strict=True):
        np.testing.assert_array_equal(f, w)
    modes = [("STRICT_ALIGN_CORNERS", 6, 15), ("STRICT_ALIGN_CORNERS", 4, 13), ("UNALIGN_CORNERS", 6, 10),
             ("DEFAULT", 6, 10)]  # fmt: skip
    for f, mode in zip(found[4:], modes, strict=True):
        close(f, linear(x, *mode), half=dtype == np.float16)


def test_saved_upsampling_in_ios15_and_of_a_product_that_rounds_up(execute: Execute) -> None:
    """In float32, 2.6 times 5 is 13; in float64 the same scale gives 12.9999995."""
    x = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    scale = np.float32(2.6)
    assert math.floor(float(scale) * 5) == 12
    found = execute(
        lambda mb, x: (
            mb.upsample_nearest_neighbor(x=x, scale_factor_width=scale),
            mb.upsample_bilinear(x=x, scale_factor_width=scale, align_corners=False),
        ),
        target="iOS15", x=x,
    )  # fmt: skip
    assert found[0].reshape(-1).tolist() == [i * 5 // 13 for i in range(13)]
    close(found[1], linear(x, "UNALIGN_CORNERS", 1, 13))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_resizing(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    x = random.normal(size=(1, 2, 4, 3)).astype(dtype)
    sizes = {"target_size_height": 6, "target_size_width": 5}

    def body(mb: Any, x: Any) -> Any:
        shape = np.array([6, 0], np.int32)
        return (
            mb.resize_nearest_neighbor(x=x, **sizes),
            mb.resize(x=x, shape=shape, resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
            mb.resize_bilinear(x=x),
            *[mb.resize_bilinear(x=x, sampling_mode=mode, **sizes) for mode in MODES],
            *[mb.resize(x=x, shape=shape, resized_dims=np.uint32(2), sampling_mode=mode) for mode in MODES],
        )

    found = execute(body, target="iOS17", x=x)
    rows = nearest_points("DEFAULT", 4, 6)
    np.testing.assert_array_equal(found[0], picked(x, rows, nearest_points("DEFAULT", 3, 5)))
    np.testing.assert_array_equal(found[1], picked(x, rows, [0, 1, 2]))
    np.testing.assert_array_equal(found[2], x[..., :1, :1])
    wanted = [linear(x, mode, 6, 5) for mode in MODES] + [linear(x, mode, 6, 3) for mode in MODES]
    for f, w in zip(found[3:], wanted, strict=True):
        close(f, w, half=dtype == np.float16)


def test_saved_resize_to_a_shape_that_is_computed(execute: Execute, random: np.random.Generator) -> None:
    x = random.normal(size=(1, 2, 3)).astype(np.float32)
    whole = random.integers(-9, 9, (1, 2, 3)).astype(np.int32)

    def body(mb: Any, x: Any, whole: Any, shape: Any) -> Any:
        nearest = mb.resize(x=whole, shape=shape, resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR")
        return mb.resize(x=x, shape=shape, resized_dims=np.uint32(2)), nearest

    found = execute(body, target="iOS17", x=x, whole=whole, shape=np.array([9, 4, 0], np.int32))
    close(found[0], linear(x, "DEFAULT", 4, 3))
    np.testing.assert_array_equal(found[1], whole[:, [0, 0, 1, 1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_crops(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    x = random.normal(size=(2, 3, 5, 6)).astype(dtype)
    boxes = np.array([[1, 0.5, 3, 4], [0.25, 5, 4, 1], [-1, 2, 2, 7]]).astype(dtype)
    indices = np.array([1, 0, 1], np.int32)
    layout = "CORNERS_WIDTH_FIRST"

    def older(mb: Any, x: Any, roi: Any) -> Any:
        given = {"target_height": 3, "target_width": 4, "pad_value": dtype(2.5), "box_coordinate_mode": layout}
        return mb.crop_resize(x=x, roi=roi, sampling_mode="UNALIGN_CORNERS", **given), mb.crop_resize(x=x, roi=roi)

    def newer(mb: Any, x: Any, boxes: Any, indices: Any) -> Any:
        given = {"target_height": 3, "target_width": 4, "pad_value": dtype(2.5), "box_coordinate_mode": layout}
        return (
            mb.crop_resize(x=x, boxes=boxes, box_indices=indices, sampling_mode="UNALIGN_CORNERS", **given),
            mb.crop_resize(x=x, boxes=boxes, box_indices=indices, normalized_coordinates=True, spatial_scale=0.25),
        )

    half = dtype == np.float16
    first = [cropped(x[i], b, 3, 4, "UNALIGN_CORNERS", layout, False, 1.0, 2.5) for b, i in zip(boxes, indices,
                                                                                              strict=True)]  # fmt: skip
    second = [cropped(x[i], b, 1, 1, "DEFAULT", "CORNERS_HEIGHT_FIRST", True, 0.25, 0.0) for b, i in zip(
        boxes, indices, strict=True)]  # fmt: skip
    found = execute(newer, target="iOS17", x=x, boxes=boxes, indices=indices)
    for f, w in zip(found, (first, second), strict=True):
        close(f, np.stack(w), half)
    found = execute(older, target="iOS16", x=x, roi=boxes.reshape(3, 1, 4, 1, 1))
    every = [[cropped(image, b, 3, 4, "UNALIGN_CORNERS", layout, False, 1.0, 2.5) for image in x] for b in boxes]
    plain = [[cropped(image, b, 1, 1, "DEFAULT", "CORNERS_HEIGHT_FIRST", False, 1.0, 0.0) for image in x]
             for b in boxes]  # fmt: skip
    for f, w in zip(found, (every, plain), strict=True):
        close(f, np.array(w), half)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_saved_sampling(execute: Execute, random: np.random.Generator, dtype: Any) -> None:
    x = random.normal(size=(2, 3, 4, 5)).astype(dtype)
    points = around(random, "normalized_minus_one_to_one", (2, 3, 2, 2)).astype(dtype)
    matrix = (np.array([[1, 0, 0, 0, 1, 0]]) + random.normal(size=(2, 6)) / 4).astype(dtype)
    combinations = [("bilinear", "constant", True), ("nearest", "border", False), ("bilinear", "symmetric", False)]

    def body(mb: Any, x: Any, points: Any, matrix: Any) -> Any:
        return (
            *[mb.resample(x=x, coordinates=points, sampling_mode=sampling, padding_mode=padding, align_corners=corners,
                          padding_value=dtype(1.5), coordinates_mode="normalized_minus_one_to_one")
              for sampling, padding, corners in combinations],
            mb.affine(x=x, transform_matrix=matrix, output_height=3, output_width=4,
                      **{**AFFINE, "padding_value": dtype(0)}),
        )  # fmt: skip

    found = execute(body, target="iOS17", x=x, points=points, matrix=matrix)
    wanted = [
        resampled(x, points, sampling, padding, 1.5, "normalized_minus_one_to_one", corners)
        for sampling, padding, corners in combinations
    ]
    for f, w in zip(found, [*wanted, transformed(x, matrix, 3, 4)], strict=True):
        if dtype == np.float16:
            close(f, w, half=True)
        else:
            np.testing.assert_allclose(f, w, rtol=1e-5, atol=5e-6)
