"""The integers of a TFLite file, in the neutral form of `_integers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.exporters._integers import Grid, Kind, Operation, Weight
from facex.exporters._integers import facts as neutral
from facex.types import QuantizationFacts

CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}
"""Operator -> axis of its weight's output channels."""
LAYOUT_OPERATORS = (
    "CONCATENATION", "EXPAND_DIMS", "GATHER", "PACK", "PAD", "RESHAPE", "SLICE", "SPLIT", "SPLIT_V", "SQUEEZE",
    "STRIDED_SLICE", "TRANSPOSE", "UNPACK",
)  # fmt: skip
KINDS: Mapping[str, Kind] = {
    "QUANTIZE": Kind.QUANTIZE,
    "DEQUANTIZE": Kind.DEQUANTIZE,
    "LOGISTIC": Kind.SIGMOID,
    "SOFTMAX": Kind.SIGMOID,
    # an order or a comparison tells nothing of how large a value is
    **dict.fromkeys(("TOPK_V2", "NON_MAX_SUPPRESSION_V4", "GREATER", "GREATER_EQUAL", "LESS", "EQUAL"), Kind.CHOICE),
    **dict.fromkeys(CHANNEL_AXIS, Kind.MULTIPLY_ACCUMULATE),
    **dict.fromkeys(LAYOUT_OPERATORS, Kind.LAYOUT),
}

Details = Mapping[str, Any]


def facts(
    interpreter: Any, operators: Sequence[Details], tensors: Mapping[int, Details], unasked_floats: int
) -> QuantizationFacts | None:
    """See `_integers.facts`.

    Args:
        interpreter: of the file, its tensors not allocated.
        operators: of the file, as the interpreter details them.
        tensors: the same, by index.
        unasked_floats: number of multiply-accumulates in float that nobody asked for.
    """
    computed = {int(i) for o in operators for i in o["outputs"]}
    computed |= {int(t["index"]) for t in interpreter.get_input_details()}
    grids = {str(i): Grid(name=t["name"], step=_step(t)) for i, t in tensors.items() if i in computed and _step(t)}
    outputs = {str(t["index"]): t["name"] for t in interpreter.get_output_details()}
    weights = _weights(interpreter, operators, tensors, computed) if grids else ()
    return neutral(list(_operations(operators, tensors, computed)), grids, outputs, weights, unasked_floats)


def _step(tensor: Details) -> float:
    """The largest step of an integer tensor; 0 of any other."""
    scales = tensor["quantization_parameters"]["scales"]
    return float(np.max(scales)) if len(scales) and np.issubdtype(tensor["dtype"], np.integer) else 0.0


def _operations(
    operators: Sequence[Details], tensors: Mapping[int, Details], computed: set[int]
) -> Iterator[Operation]:
    for operator in operators:
        inputs = [int(i) for i in operator["inputs"] if int(i) in computed]
        kind = KINDS.get(operator["op_name"], Kind.OTHER)
        if kind is Kind.QUANTIZE and inputs and np.issubdtype(tensors[inputs[0]]["dtype"], np.integer):
            kind = Kind.LAYOUT  # from one grid to another, without a float in between
        yield Operation(
            kind=kind, inputs=tuple(map(str, inputs)), outputs=tuple(str(int(i)) for i in operator["outputs"])
        )


def _weights(
    interpreter: Any, operators: Sequence[Details], tensors: Mapping[int, Details], computed: set[int]
) -> Iterator[Weight]:
    for operator in operators:
        axis = CHANNEL_AXIS.get(operator["op_name"])
        if axis is not None and int(operator["inputs"][1]) not in computed:
            tensor = tensors[int(operator["inputs"][1])]
            yield Weight(name=tensor["name"], values=_real(interpreter.get_tensor(tensor["index"]), tensor), axis=axis)


def _real(values: NDArray[Any], tensor: Details) -> NDArray[np.floating]:
    """The real numbers behind a constant."""
    grid = tensor["quantization_parameters"]
    if not len(grid["scales"]):
        return values.astype(np.float32)
    shape = [1] * values.ndim
    if len(grid["scales"]) > 1:
        shape[grid["quantized_dimension"]] = -1
    offset = values.astype(np.float64) - grid["zero_points"].reshape(shape)
    real: NDArray[np.floating] = offset * grid["scales"].reshape(shape)
    return real
