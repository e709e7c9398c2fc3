"""Images in another size: the last two dimensions resized, cropped or sampled at given points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from facex.exporters._mil.registry import Ints, UnsupportedModeError, operator

if TYPE_CHECKING:
    from torch import Tensor

SAMPLING_MODES = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")
BOX_MODES = ("CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST")


def grid_points(mode: str, extent: float, count: int) -> Tensor:
    """Where `count` results lie between the first pixel, 0, and the last, extent - 1 (float64).

    `STRICT_ALIGN_CORNERS`: from the first to the last pixel, evenly. `ALIGN_CORNERS`: the same, but a single result
    lies in the middle. `DEFAULT`: extent / count apart, from the first pixel on. `UNALIGN_CORNERS`: the middles of
    `count` equal parts of the pixels' squares. `OFFSET_CORNERS`: the middles of `count` equal parts of the way from the
    first pixel to the last, taken as 1 if it is shorter. None lies outside.

    Raises:
        ValueError: the mode is none of these.
    """
    i = torch.arange(count, dtype=torch.float64)
    if mode == "ALIGN_CORNERS" and count == 1:
        points = i + (extent - 1) / 2
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = i * (extent - 1) / max(count - 1, 1)
    elif mode == "DEFAULT":
        points = i * extent / count
    elif mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * extent / count - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (i + 0.5) * max(1, extent - 1) / count
    else:
        raise ValueError(f"sampling mode '{mode}' is not known, it is one of {', '.join(SAMPLING_MODES)}")
    return points.clamp(0, extent - 1)


def interpolated(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Values at points between the elements along a dimension, linearly."""
    before, after = points.floor().long(), points.ceil().long()
    weight = (points - before).to(x.dtype).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return x.index_select(axis, before) * (1 - weight) + x.index_select(axis, after) * weight


def _half_pixel(extent: int, count: int) -> Tensor:
    """The pixel in whose square the middle of each result lies: floor((i + 1/2) * extent / count)."""
    return (2 * torch.arange(count) + 1) * extent // (2 * count)


def _image(x: Tensor) -> Tensor:
    if x.ndim < 3:
        raise ValueError(f"x must have three dimensions or more, not {x.ndim}")
    return x


def _upsampled_extents(x: Tensor, height: float, width: float) -> tuple[tuple[int, int], ...]:
    """(axis, extent of the result), floor(extent * scale); in float32, as the program's shapes were computed."""
    scales = torch.tensor([height, width], dtype=torch.float32)
    if not bool((scales > 0).all()):
        raise ValueError(f"scale factors {height} and {width} must be positive")
    return tuple((axis, math.floor(_image(x).shape[axis] * scales[axis])) for axis in (-2, -1))


@operator
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """y[i] = x[floor(i * extent / count)] in height and width, with count = floor(extent * scale) results.

    The ratio of the sizes replaces a scale that is no whole number: Apple's own test of 1.12 on 3 pixels expects all 3.
    """
    for axis, count in _upsampled_extents(x, scale_factor_height, scale_factor_width):
        x = x.index_select(axis, torch.arange(count) * x.shape[axis] // max(count, 1))
    return x


@operator
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Linear between pixels, at floor(extent * scale) points of height and width; the sizes' ratio replaces the scale.

    The points are those of STRICT_ALIGN_CORNERS if corners are aligned, else of UNALIGN_CORNERS for half pixel centers,
    of DEFAULT without; half pixel centers are the contrary of aligned corners unless given.
    """
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and half:
        raise ValueError("align_corners and half_pixel_centers exclude each other")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    for axis, count in _upsampled_extents(x, scale_factor_height, scale_factor_width):
        x = interpolated(x, axis, grid_points(mode, x.shape[axis], count))
    return x


@operator
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """y[i] = x[floor((i + 1/2) * extent / size)] in height and width.

    Which neighbour is the nearest is documented nowhere: this is what coremltools converts to it, TensorFlow's
    half_pixel_centers.
    """
    return _resized(_image(x), (target_size_height, target_size_width), "NEAREST_NEIGHBOR", "DEFAULT")


@operator
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Linear between pixels, at the sampling mode's points of height and width."""
    return _resized(_image(x), (target_size_height, target_size_width), "LINEAR", sampling_mode)


@operator
def resize(
    x: Tensor, shape: Ints, resized_dims: int, interpolation_mode: str = "LINEAR", sampling_mode: str = "DEFAULT"
) -> Tensor:
    """The last `resized_dims` extents of x become the last ones of `shape`, of which a 0 keeps x's.

    LINEAR: at the sampling mode's points. NEAREST_NEIGHBOR: the pixel nearest to each point, the later of two equally
    near; for DEFAULT as `resize_nearest_neighbor`.
    """
    if not 0 <= resized_dims <= len(shape) <= x.ndim:
        raise ValueError(f"resized_dims {resized_dims}, {len(shape)} extents and x's {x.ndim} must not decrease")
    wanted = zip(shape[len(shape) - resized_dims :], x.shape[x.ndim - resized_dims :], strict=True)
    return _resized(x, tuple(new or old for new, old in wanted), interpolation_mode, sampling_mode)


def _resized(x: Tensor, extents: Ints, interpolation: str, sampling: str) -> Tensor:
    if min(extents, default=1) < 1:
        raise ValueError(f"extents {list(extents)} must be positive")
    for axis, count in enumerate(extents, start=x.ndim - len(extents)):
        extent = x.shape[axis]
        points = grid_points(sampling, extent, count)
        if interpolation == "LINEAR":
            if not x.dtype.is_floating_point:
                raise UnsupportedModeError("how integers are interpolated is not documented")
            x = interpolated(x, axis, points)
        elif interpolation == "NEAREST_NEIGHBOR":
            # The nearest to DEFAULT's own points would be others; Apple's tests and conversion expect half pixels.
            half = sampling in ("DEFAULT", "UNALIGN_CORNERS")
            x = x.index_select(axis, _half_pixel(extent, count) if half else (points + 0.5).floor().long())
        else:
            raise ValueError(f"interpolation mode '{interpolation}' is neither LINEAR nor NEAREST_NEIGHBOR")
    return x


@operator
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """A patch per box, linear between pixels, at the sampling mode's points from the box's start to its end.

    Coordinates are of pixels' centers, multiplied by the spatial scale and, normalized, by extent - 1; a box that ends
    before its start is mirrored; points outside the image have the pad value. `boxes` with `box_indices`, which image
    for each: [N, C, h, w]. `roi` of five, the image first: [N, 1, C, h, w]; of four, for every image: [N, B, C, h, w].
    """
    table, every = _boxes(roi, boxes)
    if roi is not None and box_indices is not None:
        raise ValueError("box_indices are for boxes: roi has its own")
    if x.ndim != 4:
        raise ValueError(f"x must be [B, C, H, W], not of {x.ndim} dimensions")
    images = [slice(None)] * len(table) if every else _box_images(table, box_indices, len(x))
    scales = [(extent - 1 if normalized_coordinates else 1) * spatial_scale for extent in x.shape[-2:]]
    patches = []
    for (start, end), image in zip(_box_corners(table[:, -4:], box_coordinate_mode, scales), images, strict=True):
        rows = _box_points(sampling_mode, start[0], end[0], target_height)
        columns = _box_points(sampling_mode, start[1], end[1], target_width)
        patches.append(_patch(x[image], rows, columns, pad_value))
    return torch.cat(patches) if roi is None else torch.stack(patches)


def _boxes(roi: Tensor | None, boxes: Tensor | None) -> tuple[Tensor, bool]:
    """[N, 4], or [N, 5] with the image first; whether each box is for every image."""
    if boxes is not None and roi is None and boxes.ndim == 2 and boxes.shape[1] == 4:
        return boxes.float(), False
    if roi is not None and boxes is None and roi.ndim == 5 and tuple(roi.shape[1:]) in ((1, 4, 1, 1), (1, 5, 1, 1)):
        return roi.flatten(1).float(), roi.shape[2] == 4
    raise ValueError("either roi must be given, [N, 1, 4 or 5, 1, 1], or boxes, [N, 4]")


def _box_images(table: Tensor, indices: Tensor | None, count: int) -> list[slice]:
    """The image of each box, alone."""
    if table.shape[1] == 5:
        indices = table[:, 0]
    numbers = list(range(len(table))) if indices is None else [int(i) for i in indices.reshape(-1).tolist()]
    if len(numbers) != len(table) or not all(0 <= i < count for i in numbers):
        raise ValueError(f"{len(table)} boxes are of images {numbers}, there are {count}")
    return [slice(i, i + 1) for i in numbers]


def _box_corners(boxes: Tensor, mode: str, scales: list[float]) -> list[tuple[list[float], list[float]]]:
    """(height, width) where each box starts, and where it ends, in pixels."""
    if mode not in BOX_MODES:
        raise ValueError(f"box coordinate mode '{mode}' is not known, it is one of {', '.join(BOX_MODES)}")
    first, second = (boxes[:, :2], boxes[:, 2:])
    if mode.endswith("WIDTH_FIRST"):
        first, second = first.flip(1), second.flip(1)
    if mode.startswith("CENTER_SIZE"):
        first, second = first - second / 2, first + second / 2
    factors = torch.tensor(scales, dtype=boxes.dtype)
    return list(zip((first * factors).tolist(), (second * factors).tolist(), strict=True))


def _box_points(mode: str, start: float, end: float, count: int) -> Tensor:
    return start + math.copysign(1, end - start) * grid_points(mode, abs(end - start) + 1, count)


def _patch(images: Tensor, rows: Tensor, columns: Tensor, pad_value: float) -> Tensor:
    """[..., H, W] at rows and columns of points; the pad value where a point is outside."""
    inside = []
    for axis, points in ((-2, rows), (-1, columns)):
        last = images.shape[axis] - 1
        inside.append((points >= 0) & (points <= last))
        images = interpolated(images, axis, points.clamp(0, last))
    return images.where(inside[0][:, None] & inside[1], pad_value)


@operator
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """y[b, c, h, w] = x[b, c] at the point coordinates[b, h, w], which is (column, row).

    Normalized ones, -1 to 1 or 0 to 1, span the centers of the corner pixels, or their outer edges if corners are not
    aligned. Around the image is a constant, its border, or its reflection, without the border pixels or (symmetric)
    with them. Nearest: halves go to the even pixel.
    """
    if x.ndim != 4 or coordinates.ndim != 4 or coordinates.shape[-1] != 2 or len(x) != len(coordinates):
        raise ValueError("x must be [B, C, H, W], coordinates [B, h, w, 2]")
    points = coordinates.double()
    columns = _pixels(points[..., 0], x.shape[3], coordinates_mode, align_corners)
    rows = _pixels(points[..., 1], x.shape[2], coordinates_mode, align_corners)
    return _sampled(x, rows, columns, sampling_mode, padding_mode, padding_value)


def _pixels(points: Tensor, extent: int, mode: str, align_corners: bool) -> Tensor:
    if mode == "unnormalized":
        return points
    if mode not in ("normalized_minus_one_to_one", "normalized_zero_to_one"):
        raise ValueError(f"coordinates mode '{mode}' is not known")
    share = (points + 1) / 2 if mode == "normalized_minus_one_to_one" else points
    return share * (extent - 1) if align_corners else share * extent - 0.5


def _sampled(x: Tensor, rows: Tensor, columns: Tensor, sampling: str, padding: str, value: float) -> Tensor:
    """Images [B, C, H, W] at points [B, h, w] in pixels."""
    rows, columns = _within(rows, x.shape[2], padding), _within(columns, x.shape[3], padding)
    if sampling == "nearest":
        return _picked(x, rows.round().long(), columns.round().long(), value)
    if sampling != "bilinear":
        raise ValueError(f"sampling mode '{sampling}' is neither bilinear nor nearest")
    top, left = rows.floor().long(), columns.floor().long()
    down, right = (rows - top).to(x.dtype)[:, None], (columns - left).to(x.dtype)[:, None]
    above = _picked(x, top, left, value) * (1 - right) + _picked(x, top, left + 1, value) * right
    below = _picked(x, top + 1, left, value) * (1 - right) + _picked(x, top + 1, left + 1, value) * right
    return above * (1 - down) + below * down


def _within(points: Tensor, extent: int, padding: str) -> Tensor:
    """Points of the image with the same values; for a constant, those far away come near, where it is all there is."""
    if padding == "constant":
        return points.clamp(-2, extent + 1)
    if padding in ("reflection", "symmetric"):
        low, span = (0.0, extent - 1) if padding == "reflection" else (-0.5, extent)
        # there and back: 0 to span, then span to 0
        way = (points - low).remainder(2 * span) if span else torch.zeros_like(points)
        points = low + torch.minimum(way, 2 * span - way)
    elif padding != "border":
        raise ValueError(f"padding mode '{padding}' is not known")
    return points.clamp(0, extent - 1)


def _picked(x: Tensor, rows: Tensor, columns: Tensor, value: float) -> Tensor:
    """The pixels of these indices [B, h, w], a value outside: [B, C, h, w]."""
    height, width = x.shape[2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    found = x.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    return found.reshape(*x.shape[:2], *places.shape[1:]).where(inside[:, None], value)


@operator
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Column u, row v of y is x at (a0 u + a1 v + a2, b0 u + b1 v + b2), 0 outside; all from -1 to 1.

    The six of a row of the matrix are a0 a1 a2 b0 b1 b2; one row for every image, or one for all. -1 and 1 are the
    centers of the corner pixels; a single result is at 0.
    """
    if (sampling_mode.lower(), padding_mode.lower(), padding_value) != ("bilinear", "constant", 0):
        raise UnsupportedModeError("affine: Core ML knows only bilinear sampling, and padding with a constant 0")
    if coordinates_mode.lower() != "normalized_minus_one_to_one" or not align_corners:
        raise UnsupportedModeError("affine: Core ML knows only normalized_minus_one_to_one with aligned corners")
    if x.ndim != 4 or tuple(transform_matrix.shape) not in ((1, 6), (len(x), 6)):
        raise ValueError("x must be [B, C, H, W], transform_matrix [1 or B, 6]")
    u, v = (
        torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(n, dtype=torch.float64)
        for n in (output_width, output_height)
    )
    at = torch.stack([u.expand(len(v), -1), v[:, None].expand(-1, len(u)), torch.ones(len(v), len(u), dtype=u.dtype)])
    points = torch.einsum("bkj,jhw->bkhw", transform_matrix.double().reshape(-1, 2, 3), at).expand(len(x), -1, -1, -1)
    columns = _pixels(points[:, 0], x.shape[3], "normalized_minus_one_to_one", True)
    rows = _pixels(points[:, 1], x.shape[2], "normalized_minus_one_to_one", True)
    return _sampled(x, rows, columns, "bilinear", "constant", 0.0)
