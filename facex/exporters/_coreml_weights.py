"""Weights of Core ML files in fewer bits: rounded in the network first, then stored as what they are by coremltools."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import BackendError
from facex.types import Precision

if TYPE_CHECKING:
    from facex.calibration.rounding import Grid, Nearest
    from facex.exporters import Job

PALETTE_BITS = {Precision.P6: 6, Precision.P4: 4}
FEWEST_PALETTIZED = 1200
"""Weights of a convolution from which a palette is used: below are most depthwise ones, few and sensitive."""

COMPRESSED = frozenset({Precision.W8, *PALETTE_BITS})


def round_weights(network: Any, job: Job) -> None:
    """Before: any weights. After: only values that the job's precision can store, and biases that make up for it.

    Args:
        network: the `ImageModel` to be traced, whose parameters the pivot holds by the same names; changed in place.
        job: of a precision in `COMPRESSED`.

    Raises:
        BackendError: the pivot lacks a parameter.
        UnsupportedOperatorError: there are crops, and the trunk cannot be simulated on them.
    """
    import onnx
    import torch

    from facex.calibration import equalize, level, rewrites, rounding
    from facex.calibration.graph import Graph

    model = onnx.load(str(job.pivot))
    bits = PALETTE_BITS.get(job.precision)
    if bits:
        # channels with weights of like size share a palette well
        equalize.apply(model, level.factors(model))
    grid = _palettes(bits) if bits else rounding.eight_bits
    rewrites.set_constants(model, rounding.rounded(model, grid, job.crops))
    constants = Graph(model).constants
    parameters = dict(network.named_parameters())
    missing = parameters.keys() - constants.keys()
    if missing:
        raise BackendError(f"the ONNX model has no constant '{min(missing)}', a weight of the network")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(constants[name].copy()))


def _palettes(bits: int) -> Grid:
    from facex.calibration import rounding
    from facex.exporters import _palette

    def grid(weight: NDArray[np.float32]) -> Nearest | None:
        if weight.size < FEWEST_PALETTIZED:
            return None
        return rounding.one_of(_palette.palette(weight, bits)[0].astype(np.float16))

    return grid


def stored(model: Any, precision: Precision, floats: Collection[str] = ()) -> Any:
    """Before: float weights of few values. After: integers and scales, or indices and palettes; the same values.

    Args:
        model: of coremltools.
        precision: says which.
        floats: names of convolutions whose weights stay as they are.
    """
    import coremltools.optimize.coreml as cto

    if precision in PALETTE_BITS:
        bits = PALETTE_BITS[precision]

        def palette(weight: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
            from facex.exporters import _palette

            values, indices = _palette.palette(weight, bits)
            return values.astype(weight.dtype), indices.reshape(-1)

        tables = cto.OpPalettizerConfig(mode="custom", lut_function=palette, weight_threshold=FEWEST_PALETTIZED)
        return cto.palettize_weights(model, cto.OptimizationConfig(op_type_configs={"conv": tables}))
    integers = cto.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel", weight_threshold=0)
    # half precision appends to the names of what it casts
    left = {f"{name}{end}": None for name in floats for end in ("", "_cast_fp16")}
    config = cto.OptimizationConfig(op_type_configs={"conv": integers}, op_name_configs=left)
    return cto.linear_quantize_weights(model, config)
