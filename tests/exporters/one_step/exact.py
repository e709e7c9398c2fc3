"""A quantized convolution from its definition, in float64, with none of the packages that are being compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .plan import Plan
from .regions import Convolution, Grid


def exactly(
    plan: Plan, tensor: str, given: Mapping[str, NDArray[np.int8]], grids: Mapping[str, Grid]
) -> NDArray[np.int64] | None:
    """The integers of a planned convolution's output from those of its input; None where it is something else.

    Args:
        plan: the QDQ model.
        tensor: a quantized tensor of it.
        given: int8 NCHW by tensor.
        grids: what those integers mean.
    """
    node, convolution = plan.convolution_node(tensor), plan.convolution(tensor)
    if node is None or convolution is None:
        return None
    source = plan.producer[node.input[0]].input[0]
    scale, zero = grids[source]
    attributes = {a.name: list(a.ints) or a.i for a in node.attribute}
    sums = accumulate(given[source].astype(np.float64) - zero, convolution, attributes) * scale
    # the bias is stored in units of the planned scale
    sums += convolution.bias[:, None, None] * plan.grid(source)[0]
    real: NDArray[np.float64] = sums * convolution.scale[:, None, None]
    after = plan.producer[plan.name_of(tensor)].op_type
    if after in ("Clip", "Relu"):
        real = np.clip(real, 0, 6 if after == "Clip" else None)
    scale, zero = plan.grid(tensor)
    integers: NDArray[np.int64] = np.clip(np.rint(real / scale) + zero, -128, 127).astype(np.int64)
    return integers


def accumulate(x: NDArray[np.float64], convolution: Convolution, attributes: Mapping[str, Any]) -> NDArray[np.float64]:
    """Sums of products of integers, exact in float64; x [1, C, H, W] with its zero point subtracted."""
    weight = convolution.weight.astype(np.float64)
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    (dy, dx), (sy, sx) = attributes.get("dilations", [1, 1]), attributes.get("strides", [1, 1])
    groups = attributes.get("group", 1)
    padded = np.pad(x[0], ((0, 0), (top, bottom), (left, right)))
    height = (padded.shape[1] - dy * (weight.shape[2] - 1) - 1) // sy + 1
    width = (padded.shape[2] - dx * (weight.shape[3] - 1) - 1) // sx + 1
    total = np.zeros((len(weight), height, width))
    for row, column in np.ndindex(*weight.shape[2:]):
        seen = padded[:, row * dy :: sy, column * dx :: sx][:, :height, :width].reshape(groups, -1, height * width)
        at = weight[:, :, row, column].reshape(groups, -1, weight.shape[1])
        total += (at @ seen).reshape(total.shape)
    return total[None]
