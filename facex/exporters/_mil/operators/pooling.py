"""Pooling: one number for every window of the spatial dimensions."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from facex.exporters._mil.operators.convolution import before_and_after, padded, spatial_dimensions
from facex.exporters._mil.registry import Ints, UnsupportedModeError, operator

if TYPE_CHECKING:
    from torch import Tensor

MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def around(
    x: Tensor, kernel_sizes: Ints, strides: Ints, pad_type: str, pad: Ints | None, ceil_mode: bool
) -> list[tuple[int, int]]:
    """What to pad so that the windows which fit are the operator's.

    Along a dimension there are floor((extent + padding - kernel) / stride) + 1 windows. In ceil mode it is the ceiling,
    less one that would begin behind the input and its first padding; the last may then reach beyond the padding.

    Raises:
        ValueError: the numbers do not fit one another, or exclude ceil mode.
        UnsupportedModeError: a window holds padding alone.
    """
    extents = tuple(x.shape[2:])
    pads = before_and_after(pad_type, pad, extents, kernel_sizes, strides, (1,) * len(extents))
    if ceil_mode and (pad_type not in ("valid", "custom") or len(extents) > 2 or any(a != b for a, b in pads)):
        raise ValueError(f"ceil_mode with pad_type '{pad_type}', pad {pad} in {len(extents)} dimensions")
    found = []
    for extent, kernel, stride, (before, after) in zip(extents, kernel_sizes, strides, pads, strict=True):
        room = extent + before + after - kernel
        last = (-(-room // stride) if ceil_mode else room // stride) * stride  # place where the last window begins
        if ceil_mode and before + after and last >= extent + before:
            last -= stride
        if last < 0:
            raise ValueError(f"a window of {kernel} does not fit into {extent} with padding {before} and {after}")
        if before >= kernel or last >= extent + before:
            raise UnsupportedModeError("what a window gives that holds padding alone is not documented")
        found.append((before, max(last + kernel - extent - before, 0)))
    return found


def sums(x: Tensor, kernel_sizes: Ints, strides: Ints) -> Tensor:
    """Of every window that fits."""
    if len(kernel_sizes) == 3:
        return functional.avg_pool3d(x, kernel_sizes, strides, divisor_override=1)
    if len(kernel_sizes) == 2:
        return functional.avg_pool2d(x, kernel_sizes, strides, divisor_override=1)
    return functional.avg_pool2d(x[..., None], (*kernel_sizes, 1), (*strides, 1), divisor_override=1)[..., 0]


@operator
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    """The sum of a window / its size; padding counts with zeros, or neither in the sum nor in the size if excluded."""
    strides = strides or (1,) * spatial_dimensions(x)
    pads = around(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    total = sums(padded(x, pads), kernel_sizes, strides)
    if exclude_padding_from_average:
        return total / sums(padded(torch.ones_like(x[:1, :1]), pads), kernel_sizes, strides)
    # what ceil_mode adds counts too, although torch's does not: Core ML does so (coremltools issue 2772)
    return total / prod(kernel_sizes)


@operator
def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The square root of the sum (not of the mean) of a window's squares; padding adds nothing."""
    spatial = spatial_dimensions(x)
    if spatial > 2:
        raise ValueError("one or two spatial dimensions are needed, not 3")
    strides = strides or (1,) * spatial
    pads = around(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return torch.sqrt(sums(padded(x, pads).square(), kernel_sizes, strides))


@operator
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest element of a window; padding is none."""
    spatial = spatial_dimensions(x)
    strides = strides or (1,) * spatial
    pads = around(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    result: Tensor = MAXIMA[spatial](padded(x, pads, -torch.inf), kernel_sizes, strides)
    return result
