"""Convolutions and products of matrices: sums in float32, rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from facex.exporters._mil.registry import Ints, Tensors, UnsupportedModeError, operator

if TYPE_CHECKING:
    from torch import Tensor

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}

EQUATIONS = frozenset({"abcd,adce->abce", "abc,cbd->abd"})
"""Of `einsum`, with the letters in the order in which they appear."""


def spatial_dimensions(x: Tensor) -> int:
    """How many there are behind batch and channels.

    Raises:
        ValueError: not one, two or three.
    """
    if not 3 <= x.ndim <= 5:
        raise ValueError(f"an input of rank 3, 4 or 5 is needed, not {x.ndim}")
    return x.ndim - 2


def before_and_after(
    kind: str, pad: Ints | None, extents: Ints, kernel: Ints, strides: Ints, dilations: Ints
) -> list[tuple[int, int]]:
    """What to pad before and after every spatial dimension.

    `valid`: nothing. `custom`: as given. `same`: so that the result has ceil(extent / stride) places, the odd one of
    an uneven number at the end; `same_lower`: at the beginning.

    Raises:
        ValueError: the kind is none of these, or the numbers do not fit it or one another.
    """
    if not len(extents) == len(kernel) == len(strides) == len(dilations):
        raise ValueError(f"kernel {kernel}, strides {strides}, dilations {dilations} for {len(extents)} dimensions")
    if pad is not None and (len(pad) != 2 * len(extents) or min(pad) < 0):
        raise ValueError(f"pad is {pad}, two numbers from 0 up are needed for each of {len(extents)} dimensions")
    if kind != "custom" and any(pad or ()):
        raise ValueError(f"pad is {pad}, which pad_type '{kind}' does not take")
    if kind in ("valid", "custom"):
        given = pad or (0,) * (2 * len(extents))
        return [(given[2 * i], given[2 * i + 1]) for i in range(len(extents))]
    if kind not in ("same", "same_lower"):
        raise ValueError(f"pad_type '{kind}' is not known")
    # the documentation also gives a formula without extent and stride, which does not reach that number of places;
    # these are the amounts of SamePadding in NeuralNetwork.proto
    found = []
    for extent, k, stride, dilation in zip(extents, kernel, strides, dilations, strict=True):
        total = max((-(-extent // stride) - 1) * stride + (k - 1) * dilation + 1 - extent, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if kind == "same" else (more, less))
    return found


def padded(x: Tensor, pads: list[tuple[int, int]], value: float = 0.0) -> Tensor:
    """The last dimensions, in order, with a constant around them; a negative amount is cut off."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


@operator
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """y[n, o, p] = bias[o] + sum over c and k of weight[o, c, k] * x[n, c, p * stride + k * dilation - pad].

    Of g groups, the i-th g-th of the results sees only the i-th g-th of the channels.
    """
    spatial = spatial_dimensions(x)
    strides, dilations = strides or (1,) * spatial, dilations or (1,) * spatial
    pads = before_and_after(pad_type, pad, tuple(x.shape[2:]), tuple(weight.shape[2:]), strides, dilations)
    padding = (0,) * spatial
    if all(before == after for before, after in pads):
        padding = tuple(before for before, _ in pads)
    else:
        x = padded(x, pads)
    result: Tensor = CONVOLUTIONS[spatial](x, weight, bias, strides, padding, dilations, groups)
    return result


def kept(
    kind: str, pad: Ints | None, places: Ints | None, extents: Ints, kernel: Ints, strides: Ints, dilations: Ints
) -> list[tuple[int, int]]:
    """What to add (less than 0: to cut off) before and after the whole of a transposed convolution.

    What is left is what `conv` of the same kind would turn into the extents. With a stride there are several such
    numbers of places; unless they are given it is extent * stride for `same`, the smallest for the others.

    Raises:
        ValueError: the kind is unknown, or the numbers do not fit it or one another.
        UnsupportedModeError: the places are none of those numbers.
    """
    if kind not in ("valid", "custom", "same"):
        raise ValueError(f"pad_type '{kind}' is not known")
    around = before_and_after(kind, pad, extents, kernel, strides, dilations)
    found = []
    for i, (before, after) in enumerate(around):
        whole = (extents[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        least = (extents[i] - 1) * strides[i] + 1 if kind == "same" else whole - before - after
        usual = extents[i] * strides[i] if kind == "same" else least
        count = places[i] if places else usual
        # NeuralNetwork.proto says that a given shape overrules the padding, not how; Core ML's own processors
        # disagree where the two contradict each other (coremltools issue 2281)
        if not least <= count < least + strides[i]:
            raise UnsupportedModeError(f"output_shape asks for {count} places where pad_type '{kind}' leaves {usual}")
        begin = max(whole - count, 0) // 2 if kind == "same" else before
        found.append((-begin, begin + count - whole))
    return found


@operator
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """y[n, o, p * stride + k * dilation - pad] = bias[o] + the sum of weight[c, o, k] * x[n, c, p] that fall there.

    The transpose of `conv` with the same numbers. Places that no product falls on are the bias alone.
    """
    spatial = spatial_dimensions(x)
    strides, dilations = strides or (1,) * spatial, dilations or (1,) * spatial
    first = (x.shape[0], weight.shape[1] * groups)
    if output_shape and (len(output_shape) != x.ndim or output_shape[:2] != first):
        raise ValueError(f"output_shape is {output_shape}, {x.ndim} numbers are needed that begin with {first}")
    places = output_shape[2:] if output_shape else None
    around = kept(pad_type, pad, places, tuple(x.shape[2:]), tuple(weight.shape[2:]), strides, dilations)
    whole = TRANSPOSED[spatial](x, weight, None, strides, 0, 0, groups, dilations)
    result = padded(whole, around)
    return result if bias is None else result + bias.reshape(first[1], *[1] * spatial)


@operator
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Over the last dimension, x weight^T + bias; integer constants beside a float x are taken as floats."""
    given = [value for value in (weight, bias) if value is not None]
    if not x.is_floating_point() and any(value.is_floating_point() for value in given):
        raise UnsupportedModeError("how integers are multiplied with weights that are floats is not documented")
    return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


@operator
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Matrix x by matrix y, the last two dimensions of each, transposed first if asked; the others broadcast.

    A vector is a row on the left and a column on the right, never transposed; its dimension of 1 goes again. Of a float
    and an integer, one of which is a constant, both are taken as floats.
    """
    x = x.transpose(-1, -2) if transpose_x and x.ndim > 1 else x
    y = y.transpose(-1, -2) if transpose_y and y.ndim > 1 else y
    common = torch.promote_types(x.dtype, y.dtype)
    return torch.matmul(x.to(common), y.to(common))


@operator
def einsum(values: Tensors, equation: str) -> Tensor:
    """Products of matrices over dimensions -3 and -1: z[n, c, h, u] = sum over w of x[n, c, h, w] * y[n, w, h, u].

    Dimension n may be absent from all three; n and h broadcast.
    """
    letters: dict[str, str] = {}
    renamed = "".join(c if c in ",->" else letters.setdefault(c, chr(ord("a") + len(letters))) for c in equation)
    rank = equation.find(",")
    if renamed not in EQUATIONS or [value.ndim for value in values] != [rank, rank]:
        shapes = ", ".join(str(list(value.shape)) for value in values)
        raise ValueError(f"'{equation}' of {shapes} is not 'nchw,nwhu->nchu' or 'chw,whu->chu'")
    x, y = (value.transpose(-3, -2) for value in values)
    return torch.matmul(x, y).transpose(-3, -2)
