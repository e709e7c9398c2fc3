"""Operators that move elements and compute none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from facex.exporters._mil.registry import Bools, Ints, Tensors, operator

if TYPE_CHECKING:
    from torch import Tensor


def axis_from_start(axis: int, rank: int) -> int:
    """An axis that may count from the end, as one that does not.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is not one of {rank} dimensions")
    return axis % rank


@operator
def shape(x: Tensor) -> Tensor:
    """The extents of x, as integers."""
    return torch.tensor(x.shape, dtype=torch.int32)


@operator
def reshape(x: Tensor, shape: Ints) -> Tensor:
    """The elements in the same order; -1 stands for what is left.

    0 stands for x's own extent at the same place counted from the last one, for 1 where x has none. Before iOS 17 a 0
    needs as many extents as x has, where counting from either end is the same.
    """
    own = (1,) * len(shape) + tuple(x.shape)
    return x.reshape([e or own[i - len(shape)] for i, e in enumerate(shape)])


@operator
def reshape_like(x: Tensor, ref_tensors: Tensors, begins: Tensors, ends: Tensors, end_masks: Tensors) -> Tensor:
    """The elements in the same order, shaped by parts of the references' shapes, one after the other.

    Of each reference the extents from its begin to its end, as Python slices; to the last one where the end is masked.
    """
    if not len(ref_tensors) == len(begins) == len(ends) == len(end_masks):
        raise ValueError(
            f"{len(ref_tensors)} references, {len(begins)} begins, {len(ends)} ends, {len(end_masks)} masks"
        )
    extents: list[int] = []
    for reference, begin, end, mask in zip(ref_tensors, begins, ends, end_masks, strict=True):
        extents += reference.shape[int(begin) : None if bool(mask) else int(end)]
    return x.reshape(extents)


@operator
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """A matrix: the dimensions before the axis are its rows, those from the axis on its columns; none counts as 1."""
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"axis {axis} is not one of {x.ndim} dimensions")
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """New dimensions of extent 1; the axes, negative ones too, are their places in the result."""
    rank = x.ndim + len(axes)
    places = sorted(axis + rank if axis < 0 else axis for axis in axes)
    if len(set(places)) < len(places) or any(not 0 <= p < rank for p in places):
        raise ValueError(f"axes {list(axes)} are not different places among {rank}")
    for place in places:
        x = x.unsqueeze(place)
    return x


@operator
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Without the dimensions of extent 1: all of them, or those of the axes; an axis of another extent stays."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@operator
def transpose(x: Tensor, perm: Ints) -> Tensor:
    """Dimension i of the result is dimension perm[i] of x; negative ones count from the end."""
    return x.permute(perm)


@operator
def concat(values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    """The values one after the other along the axis; interleaved, the first slice of each, then the second.

    Scalars become a vector.
    """
    if values[0].ndim == 0:
        return torch.stack(values, dim=axis)
    if interleave:
        place = axis_from_start(axis, values[0].ndim)
        return torch.stack(values, dim=place + 1).flatten(place, place + 1)
    return torch.cat(values, dim=axis)


@operator
def stack(values: Tensors, axis: int) -> Tensor:
    """The values, all of one shape, one after the other along a new dimension; the axis is its place in the result."""
    return torch.stack(values, dim=axis)


@operator
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> tuple[Tensor, ...]:
    """Consecutive parts of x along the axis, of the given sizes, or so many of equal size."""
    if split_sizes is None:
        if num_splits is None:
            raise ValueError("neither num_splits nor split_sizes is given")
        split_sizes = (_divided(x.shape[axis], num_splits),) * num_splits
    if num_splits is not None and num_splits != len(split_sizes):
        raise ValueError(f"{len(split_sizes)} sizes for {num_splits} parts")
    return tuple(x.split_with_sizes(split_sizes, dim=axis))


@operator
def tile(x: Tensor, reps: Ints) -> Tensor:
    """All of x repeated reps[i] times along dimension i."""
    if len(reps) != x.ndim or any(count < 1 for count in reps):
        raise ValueError(f"reps {list(reps)} are not one positive number for each of {x.ndim} dimensions")
    return x.repeat(reps)


@operator
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Backwards along the axes, along every dimension if none are given."""
    return x.flip(tuple(range(x.ndim)) if axes is None else axes)


@operator
def reverse_sequence(x: Tensor, lengths: Ints, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Slice i along the batch axis has its first lengths[i] places along the sequence axis backwards."""
    batch, sequence = (axis_from_start(axis, x.ndim) for axis in (batch_axis, seq_axis))
    # the documented defaults are both 0, of which no document says the meaning
    if batch == sequence:
        raise ValueError(f"the batch axis and the sequence axis are both {batch}")
    count = x.shape[sequence]
    if len(lengths) != x.shape[batch] or any(not 0 <= n <= count for n in lengths):
        raise ValueError(f"lengths {list(lengths)} are not {x.shape[batch]} numbers from 0 to {count}")
    length, place = torch.tensor(lengths)[:, None], torch.arange(count)
    source = torch.where(place < length, length - 1 - place, place)  # [batch, sequence]
    aligned = [1] * x.ndim
    aligned[batch], aligned[sequence] = source.shape
    source = (source if batch < sequence else source.T).reshape(aligned)
    return x.gather(sequence, source.expand(x.shape))


@operator
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """Windows along the axis, floor((extent - size) / stride) + 1 of them; a window's places are the next dimension."""
    return x.unfold(axis, size, stride).movedim(-1, axis_from_start(axis, x.ndim) + 1)


@operator
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """The matrices of the last two dimensions, zero beyond `lower` diagonals below the main one and `upper` above.

    A negative number keeps that whole side.
    """
    if x.ndim < 2:
        raise ValueError(f"a matrix is needed, not {x.ndim} dimensions")
    below = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-1])
    kept = torch.ones_like(below, dtype=torch.bool)
    if lower >= 0:
        kept &= below <= lower
    if upper >= 0:
        kept &= -below <= upper
    # the documented formula multiplies by 0, its words set to 0: these differ where x is infinite
    return torch.where(kept, x, torch.zeros_like(x))


@operator
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """x[begin : end : stride] in every dimension, as NumPy slices: clamped, negative indices from the end.

    A masked begin or end is open; a dimension of the squeeze mask keeps only `begin`, and goes.
    """
    index, backwards = _section(tuple(x.shape), begin, end, stride, begin_mask, end_mask, squeeze_mask)
    return x[index].flip(backwards)


@operator
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """The elements of x, with `update` in the place of what `slice_by_index` would take; the shapes are the same."""
    index, backwards = _section(tuple(x.shape), begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = x.clone()
    if update.ndim == 0 or result[index].shape != update.shape:
        raise ValueError(f"the update is {list(update.shape)}, the slice {list(result[index].shape)}; a scalar is none")
    result[index] = update.flip(backwards)
    return result


@operator
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """size[i] places of dimension i from begin[i] on, all that are left where it is -1; a negative begin from the end.

    Raises:
        ValueError: x has fewer places.
    """
    if len(begin) != x.ndim or len(size) != x.ndim:
        raise ValueError(f"{len(begin)} begins and {len(size)} sizes for {x.ndim} dimensions")
    for axis, (start, count, extent) in enumerate(zip(begin, size, x.shape, strict=True)):
        first = start + extent if start < 0 else start
        length = extent - first if count == -1 else count
        if not 0 <= first <= first + length <= extent:
            raise ValueError(f"{count} places from {start} on are not in an extent of {extent}")
        x = x.narrow(axis, first, length)
    return x


@operator
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """Without so many rows at the top and at the bottom, and columns at the left and at the right."""
    if x.ndim < 3:
        raise ValueError(f"at least 3 dimensions are needed, not {x.ndim}")
    return _cropped(x, crop_height, crop_width)


@operator
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """More places before and after the last len(pad) / 2 dimensions, in their order.

    They hold a constant, the nearest place (`replicate`), or the places mirrored at the first or last one, which is not
    repeated (`reflect`). Constant padding is unlimited, the others end with the places that x has.
    """
    if len(pad) % 2 or len(pad) > 2 * x.ndim or any(amount < 0 for amount in pad):
        raise ValueError(f"pad {list(pad)} is not two amounts for each of {x.ndim} dimensions or fewer")
    if mode not in ("constant", "reflect", "replicate"):
        raise ValueError(f"mode '{mode}' is not known")
    count = len(pad) // 2
    amounts = [(i - count, pad[2 * i], pad[2 * i + 1]) for i in range(count)]
    if mode == "constant":
        return functional.pad(x, [n for _, *pair in reversed(amounts) for n in pair], value=constant_val)
    for axis, before, after in amounts:
        if before == after == 0:
            continue
        extent = x.shape[axis]
        # the documentation's limits, which coremltools does not check
        if max(before, after) > (extent - 1 if mode == "reflect" else extent):
            raise ValueError(f"{before} and {after} places cannot be made of {extent} by '{mode}'")
        place = torch.arange(-before, extent + after)
        if mode == "reflect":
            place = extent - 1 - (extent - 1 - place.abs()).abs()
        x = x.index_select(axis, place.clamp(0, extent - 1))
    return x


@operator
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Channel (i * b + j) * c + k becomes place (i, j) of every block of b x b in channel k, of c channels."""
    n, c, h, w = _image(x)
    c = _divided(c, block_size**2)
    blocks = x.reshape(n, block_size, block_size, c, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c, h * block_size, w * block_size)


@operator
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """Place (i, j) of every block of b x b in channel k, of c channels, becomes channel (i * b + j) * c + k."""
    n, c, h, w = _image(x)
    h, w = _divided(h, block_size), _divided(w, block_size)
    blocks = x.reshape(n, c, h, block_size, w, block_size).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * block_size**2, h, w)


@operator
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Channel (k * f + i) * f + j becomes place (i, j) of every block of f x f in channel k."""
    n, c, h, w = _image(x)
    c = _divided(c, upscale_factor**2)
    blocks = x.reshape(n, c, upscale_factor, upscale_factor, h, w).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c, h * upscale_factor, w * upscale_factor)


@operator
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """Place (i, j) of every block of f x f in channel k becomes channel (k * f + i) * f + j."""
    n, c, h, w = _image(x)
    h, w = _divided(h, downscale_factor), _divided(w, downscale_factor)
    blocks = x.reshape(n, c, h, downscale_factor, w, downscale_factor).permute(0, 1, 3, 5, 2, 4)
    return blocks.reshape(n, c * downscale_factor**2, h, w)


@operator
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """Padded with zeros; then place (i, j) of every block becomes image (i * width + j) * n + k for image k of n."""
    (bh, bw), (top, bottom, left, right) = block_shape, paddings
    if min(paddings) < 0:
        raise ValueError(f"paddings {list(paddings)} are negative")
    n, c, h, w = _image(x)
    h, w = _divided(h + top + bottom, bh), _divided(w + left + right, bw)
    blocks = functional.pad(x, [left, right, top, bottom]).reshape(n, c, h, bh, w, bw).permute(3, 5, 0, 1, 2, 4)
    return blocks.reshape(bh * bw * n, c, h, w)


@operator
def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    """Image (i * width + j) * n + k becomes place (i, j) of every block of image k of n; then cropped."""
    bh, bw = block_shape
    n, c, h, w = _image(x)
    n = _divided(n, bh * bw)
    whole = x.reshape(bh, bw, n, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n, c, h * bh, w * bw)
    return _cropped(whole, crops[:2], crops[2:])


def _section(
    extents: Ints,
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Bools | None,
    end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> tuple[Any, Ints]:
    """An index with ascending slices alone, as torch wants them, and the result's dimensions to turn around."""
    rank, no = len(extents), (False,) * len(extents)
    given = (begin, end, stride or (1,) * rank, begin_mask or no, end_mask or no, squeeze_mask or no)
    if any(len(g) != rank for g in given):
        raise ValueError(f"a slice has {[len(g) for g in given]} numbers and masks for {rank} dimensions")
    index: list[slice | int] = []
    backwards, kept = [], 0
    for extent, first, last, step, opened, endless, gone in zip(extents, *given, strict=True):
        if gone:
            index.append(0 if opened else first)
            continue
        # a begin that is masked is documented as 0, which would leave nothing of a negative stride
        places = range(extent)[None if opened else first : None if endless else last : step]
        if step < 0:
            places = places[::-1]
            backwards.append(kept)
        index.append(slice(places.start, places.stop, places.step) if places else slice(0, 0))
        kept += 1
    return tuple(index), tuple(backwards)


def _cropped(x: Tensor, rows: Ints, columns: Ints) -> Tensor:
    (top, bottom), (left, right), (height, width) = rows, columns, x.shape[-2:]
    if min(top, bottom, left, right) < 0 or top + bottom > height or left + right > width:
        raise ValueError(f"rows {list(rows)} and columns {list(columns)} cannot be cropped from {height} x {width}")
    return x[..., top : height - bottom, left : width - right]


def _image(x: Tensor) -> Ints:
    """Extents of a batch of images."""
    if x.ndim != 4:
        raise ValueError(f"4 dimensions are needed, not {x.ndim}")
    return tuple(x.shape)


def _divided(extent: int, parts: int) -> int:
    if parts < 1 or extent % parts:
        raise ValueError(f"an extent of {extent} does not divide into {parts}")
    return extent // parts
