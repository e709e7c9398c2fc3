"""Weights that are stored compressed, and activations stored as integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from facex.exporters._mil.registry import Ints, UnsupportedModeError, operator

if TYPE_CHECKING:
    from torch import Tensor

PALETTES = {2: 1, 4: 2, 16: 4, 64: 6, 256: 8}
"""Entries of a table of iOS16 -> bits of an index."""

RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


@operator
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """(data - zero point) * scale; scale and zero point run along the axis where they are no scalars."""
    return _dequantized(quantized_data, scale, zero_point, axis)


@operator
def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """round(input / scale) + zero point, in the type's range: halves to even, what is beyond to the range's ends.

    Scale and zero point run along the axis where they are no scalars; no zero point is 0.
    """
    if output_dtype not in RANGES:
        raise ValueError(f"output_dtype '{output_dtype}' is neither int8 nor uint8")
    rounded = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        rounded = rounded + _along(zero_point, input, axis)
    return rounded.clamp(*RANGES[output_dtype]).to(torch.int32)


@operator
def dequantize(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """(input - zero point) * scale; both run along the axis where they are no scalars; no zero point is 0."""
    return _dequantized(input, scale, zero_point, axis)


def _dequantized(data: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None) -> Tensor:
    shifted = data if zero_point is None else data - _along(zero_point, data, axis)
    return _along(scale, data, axis) * shifted.float()


def _along(value: Tensor, data: Tensor, axis: int | None) -> Tensor:
    """A scalar, or a vector in the place of one dimension of the data."""
    if value.numel() == 1 and value.ndim < 2:
        return value.reshape(())
    if axis is None:
        raise ValueError(f"{value.numel()} scales or zero points need an axis")
    if not -data.ndim <= axis < data.ndim or tuple(value.shape) != (data.shape[axis],):
        raise ValueError(f"scales or zero points {list(value.shape)} do not fit axis {axis} of {list(data.shape)}")
    return value.reshape([-1 if i == axis % data.ndim else 1 for i in range(data.ndim)])


@operator
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """The same values, float16 ones as float32."""
    if output_dtype != "fp32":
        raise UnsupportedModeError(f"constexpr_cast gives fp32, not '{output_dtype}'")
    return source_val.float()


@operator
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    """Entries of a table by their indices.

    With a shape (iOS16): one table, and indices of 1, 2, 4, 6 or 8 bits packed in bytes. Without (iOS18): a table for
    every block of the indices, lut[block..., index], whose entries are vectors that lie along the axis.
    """
    if shape is None:
        return _looked_up(indices, lut, vector_axis)
    if vector_axis is not None:
        raise ValueError("a table with a shape has no vectors, and no vector_axis")
    if lut.ndim != 1 or lut.numel() not in PALETTES:
        raise ValueError(f"a table is of {list(lut.shape)}, not of {', '.join(map(str, PALETTES))} entries")
    return lut[_unpacked(indices, PALETTES[lut.numel()], _count(shape))].reshape(shape)


def _looked_up(indices: Tensor, lut: Tensor, vector_axis: int | None) -> Tensor:
    blocks, (entries, width) = lut.shape[:-2], lut.shape[-2:]
    tables = torch.arange(_count(tuple(blocks))).reshape(blocks)
    found = lut.reshape(-1, entries, width)[_spread(tables, indices), indices.long()]
    if width == 1:
        return found.squeeze(-1)
    axis = _vector_axis(indices, vector_axis)
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _vector_axis(indices: Tensor, axis: int | None) -> int:
    if axis is None or not -indices.ndim <= axis < indices.ndim:
        raise ValueError(f"a table of vectors needs a vector_axis of {indices.ndim} dimensions, not {axis}")
    return axis % indices.ndim


def _spread(value: Tensor, data: Tensor) -> Tensor:
    """A value per block of the data, repeated so that every element of the data has one."""
    fits = value.ndim == data.ndim and all(n % k == 0 for n, k in zip(data.shape, value.shape, strict=True))
    if not fits:
        raise ValueError(f"blocks {list(value.shape)} do not divide {list(data.shape)}")
    for axis, (extent, blocks) in enumerate(zip(data.shape, value.shape, strict=True)):
        if 1 < blocks < extent:
            value = value.repeat_interleave(extent // blocks, dim=axis)
    return value.expand(data.shape)


def _unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    """Integers of a few bits, the first ones in the lowest bits of the first byte; they may cross bytes."""
    if packed.numel() != -(-count * bits // 8):
        raise ValueError(f"{packed.numel()} bytes are not {count} numbers of {bits} bits")
    each = (packed.reshape(-1, 1).long() >> torch.arange(8)) & 1
    return (each.reshape(-1)[: count * bits].reshape(count, bits) << torch.arange(bits)).sum(dim=1)


def _count(shape: Ints) -> int:
    return int(torch.tensor(shape, dtype=torch.int64).prod())


@operator
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    """The data, in order, where the mask is 1; 0 elsewhere.

    With a shape (iOS16) the mask is packed, a bit for each element, the first ones in the lowest bits.
    """
    return _dense(nonzero_data, mask if shape is None else _unpacked(mask, 1, _count(shape)).reshape(shape))


def _dense(values: Tensor, mask: Tensor) -> Tensor:
    present = mask != 0
    if values.ndim != 1 or values.numel() != int(present.sum()):
        raise ValueError(f"data {list(values.shape)} are not the {int(present.sum())} of the mask")
    result = torch.zeros(mask.shape, dtype=values.dtype)
    result[present] = values
    return result


@operator
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """(data - offset) * scale, with a scale and an offset for every block of the data; no offset is 0."""
    return _shifted(data, scale, offset)


def _shifted(data: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    if offset is not None and offset.shape != scale.shape:
        raise ValueError(f"offsets {list(offset.shape)} and scales {list(scale.shape)} differ in shape")
    shifted = data if offset is None else data - _spread(offset, data)
    return _spread(scale, data) * shifted.float()


@operator
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """Entries of a table for the indices that the mask has; its form is that of `constexpr_lut_to_dense` in iOS18.

    The mask is repeated along the axis if the entries are vectors; the values follow it, last dimension first.
    """
    dense = _looked_up(_dense(indices_nonzero_data, indices_mask), lut, vector_axis)
    if lut.shape[-1] > 1:
        axis = _vector_axis(indices_mask, vector_axis)
        indices_mask = indices_mask.repeat_interleave(lut.shape[-1], dim=axis)
    return indices_mask, dense[indices_mask != 0]


@operator
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mask; (data - offset) * scale for what it has, with the scale and offset of the block where each lies."""
    return data_mask, _shifted(_dense(nonzero_data, data_mask), scale, offset)[data_mask != 0]
