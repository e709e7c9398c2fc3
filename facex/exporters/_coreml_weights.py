"""Weights of Core ML files in fewer bits: rounded in the network first, then stored as what they are by coremltools."""

from __future__ import annotations

import functools
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

LARGEST_INTEGERS = range(127, 95, -1)
"""What the largest weight of a channel may be on its grid."""

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

    from facex.calibration import edit, equalize, level, rounding
    from facex.calibration.graph import Graph

    model = onnx.load(str(job.pivot))
    bits = PALETTE_BITS.get(job.precision)
    if bits:
        # channels with weights of like size share a palette well
        equalize.apply(model, level.factors(model))
    grid = _palettes(bits) if bits else rounding.eight_bits
    edit.set_constants(model, rounding.rounded(model, grid, job.crops))
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


@functools.cache
def register_eight_bits() -> str:
    """Make coremltools know the pass that stores integers; gives its name. Its option is named `floats`."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import register_pass

    class EightBits(AbstractGraphPass):  # type: ignore[misc]
        """Before: convolutions with float weights on a grid. After: with its integers and scales, the same values."""

        floats: frozenset[str] = frozenset()

        def apply(self, prog: Any) -> None:
            for block in prog.functions.values():
                with block:
                    for op in [op for op in block.operations if op.op_type == "conv"]:
                        const = op.weight.op
                        # half precision appends to the names of what it casts
                        if const.op_type == "const" and op.name.removesuffix("_cast_fp16") not in self.floats:
                            integers, scale = integers_of(op.weight.val)
                            wide = Builder.constexpr_affine_dequantize(
                                quantized_data=integers, scale=scale, zero_point=np.int8(0), axis=0,
                                before_op=const, name=f"{const.name}_widened",
                            )  # fmt: skip
                            block.replace_uses_of_var_after_op(const, op.weight, wide, no_check_var_types=True)
                            block.remove_ops([const])

    register_pass(namespace="facex", name="eight_bits")(EightBits)
    return "facex::eight_bits"


def integers_of(weight: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.floating]]:
    """The int8 weights and scales per output channel that give values nearest to these.

    Of values that lie on a grid, it is that grid: the largest one stands for 127, or, where rounding made it smaller,
    for less, and then 127 would move all the others.

    Args:
        weight: any float, [out, in/groups, kh, kw].

    Returns:
        int8 of the same shape; scales [out], of the weight's type.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    best, error = np.full(len(rows), float(LARGEST_INTEGERS[0])), np.full(len(rows), np.inf)
    for candidate in LARGEST_INTEGERS:
        scaled = rows * (candidate / np.where(largest > 0, largest, 1.0))[:, None]
        found = np.square((scaled - np.rint(scaled)) / candidate).sum(axis=1)
        better = found < error
        best[better], error[better] = candidate, found[better]
    scale = (np.where(largest > 0, largest, best) / best).astype(weight.dtype)
    integers = np.rint(rows * np.where(largest > 0, best / np.where(largest > 0, largest, 1.0), 0.0)[:, None])
    return integers.astype(np.int8).reshape(weight.shape), scale


def palettized(model: Any, precision: Precision) -> Any:
    """Before: float weights of few values. After: indices and palettes; the same values. `model` is coremltools'."""
    import coremltools.optimize.coreml as cto

    bits = PALETTE_BITS[precision]

    def palette(weight: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        from facex.exporters import _palette

        values, indices = _palette.palette(weight, bits)
        return values.astype(weight.dtype), indices.reshape(-1)

    tables = cto.OpPalettizerConfig(mode="custom", lut_function=palette, weight_threshold=FEWEST_PALETTIZED)
    return cto.palettize_weights(model, cto.OptimizationConfig(op_type_configs={"conv": tables}))
