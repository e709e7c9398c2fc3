"""The integers of an ML program: its operators under their ONNX names, for `_qdq` to read.

Both formats write an 8-bit tensor as a quantization and a dequantization around float operators. Core ML computes
between them on integers where the hardware can (int8 with int8 since A17 Pro and M4, says coremltools' guide).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from facex.calibration.graph import MAC_OPERATORS, Graph
from facex.calibration.twin import DEQUANTIZE, QUANTIZE
from facex.exporters import _qdq

if TYPE_CHECKING:
    from facex.exporters._mil.program import Operation, Program
    from facex.types import QuantizationFacts

ONNX_NAMES: Mapping[str, str] = {
    "quantize": QUANTIZE, "dequantize": DEQUANTIZE, "conv": "Conv", "conv_transpose": "ConvTranspose",
    "linear": "Gemm", "matmul": "MatMul", "relu": "Relu", "relu6": "Relu", "add": "Add", "sub": "Sub",
    "sigmoid": "Sigmoid", "softmax": "Softmax", "concat": "Concat", "reshape": "Reshape", "transpose": "Transpose",
    "slice_by_index": "Slice", "split": "Split", "squeeze": "Squeeze", "expand_dims": "Unsqueeze",
    "identity": "Identity", "cast": "Identity", "non_maximum_suppression": "NonMaxSuppression",
    "greater_equal": "GreaterOrEqual",
}  # fmt: skip
"""Of the operators that `_qdq` must tell from others."""

INPUTS = {
    "quantize": ("input", "scale"), "dequantize": ("input", "scale"), "conv": ("x", "weight"),
    "conv_transpose": ("x", "weight"), "linear": ("x", "weight"), "matmul": ("x", "y"),
}  # fmt: skip
"""Operator -> the inputs that matter, in ONNX's order; all computed ones of any other."""


EIGHT_BIT_WEIGHTS = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}
"""Operator that widens weights -> its input of integers."""


def integer_products(program: Program) -> frozenset[str]:
    """Results of the multiply-accumulates between 8-bit activations and 8-bit weights."""
    makers = {name: operation for operation in program.operations for name, _ in operation.outputs}

    def maker(operation: Operation, parameter: str) -> Operation | None:
        given = operation.inputs.get(parameter, ("",))[0]
        return makers.get(given) if isinstance(given, str) else None

    def eight_bit_weight(operation: Operation) -> bool:
        widened = maker(operation, INPUTS[operation.type][1])
        if widened is None or widened.type not in EIGHT_BIT_WEIGHTS:
            return False
        given = widened.inputs[EIGHT_BIT_WEIGHTS[widened.type]][0]
        source = makers[given].inputs["val"][0] if isinstance(given, str) else given
        return not isinstance(source, str) and source.type.dtype in ("int8", "uint8")

    found = []
    for operation in program.operations:
        if ONNX_NAMES.get(operation.type) in MAC_OPERATORS:
            data = maker(operation, "x")
            if data is not None and data.type == "dequantize" and eight_bit_weight(operation):
                found.append(operation.outputs[0][0])
    return frozenset(found)


def facts(program: Program, constants: Mapping[str, Any], unasked_floats: int) -> QuantizationFacts | None:
    """See `_integers.facts`.

    Args:
        program: of a saved package.
        constants: value -> tensor, of what depends on no input.
        unasked_floats: number of multiply-accumulates in float that nobody asked for.
    """
    from onnx import helper, numpy_helper

    nodes, known = [], {}
    for operation in program.operations:
        outputs = [name for name, _ in operation.outputs]
        if outputs[0] in constants:
            continue
        inputs = []
        for parameter in INPUTS.get(operation.type, tuple(operation.inputs)):
            for i, given in enumerate(operation.inputs.get(parameter, ())):
                if isinstance(given, str) and given not in constants:
                    inputs.append(given)
                elif operation.type in INPUTS:
                    name = given if isinstance(given, str) else f"{outputs[0]}.{parameter}.{i}"
                    known[name] = constants[given] if isinstance(given, str) else given.value
                    inputs.append(name)
        nodes.append(helper.make_node(ONNX_NAMES.get(operation.type, operation.type), inputs, outputs, outputs[0]))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in known.items()]
    results = [helper.make_empty_tensor_value_info(name) for name in program.outputs]
    return _qdq.facts(
        Graph(helper.make_model(helper.make_graph(nodes, "program", [], results, tensors))), unasked_floats
    )
