"""Write a quantization plan as a standard QDQ ONNX model, which onnxruntime runs and every later stage reads.

Before: x -> Conv(w, b) -> y. After: x -> Q -> DQ -> Conv(DQ(w8), DQ(b32)) -> y -> Q -> DQ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration.graph import MAC_OPERATORS, Graph
from facex.calibration.plan import Affine, QuantizationPlan, affine, quantize_bias, quantize_weight
from facex.errors import UnsupportedOperatorError

FLOAT_OPERATORS = "facex.float_operators"
"""Metadata of a model in which operators were left in float on purpose: a JSON list of their outputs."""
ELEMENTWISE = frozenset({"Add", "Sub", "Mul"})


class _Writer:
    def __init__(self, graph: Graph, plan: QuantizationPlan) -> None:
        self.graph, self.plan = graph, plan
        self.nodes: list[Any] = []
        self.initializers: dict[str, NDArray[Any]] = {}

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.initializers[name] = np.array(value, order="C")  # ascontiguousarray would make a scalar a vector
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes))

    def pair(self, name: str, grid: Affine) -> None:
        """`name` -> QuantizeLinear -> DequantizeLinear -> `name`_dq."""
        scale = self.constant(f"{name}_scale", np.float32(grid.scale))
        zero = self.constant(f"{name}_zero", np.int8(grid.zero_point))
        self.node("QuantizeLinear", [name, scale, zero], f"{name}_q")
        self.node("DequantizeLinear", [f"{name}_q", scale, zero], f"{name}_dq")

    def weights(self, node: Any) -> list[str]:
        """Integer weight and bias of a convolution, each behind a DequantizeLinear.

        They are named after its output: two convolutions may share a bias, but not its integers.
        """
        if node.op_type != "Conv":
            raise UnsupportedOperatorError(
                f"no quantized form of {node.op_type} at '{node.name or node.output[0]}'", hint="supported: Conv"
            )
        x = node.input[0]
        quantized, scale = quantize_weight(self.graph.constants[node.input[1]], axis=0)
        names = [self.dequantized(f"{node.output[0]}_weight", quantized, scale)]
        if len(node.input) > 2 and node.input[2]:
            unit = self.plan.activations[x].scale
            bias = quantize_bias(self.graph.constants[node.input[2]], unit, scale)
            bias_scale = (np.float64(unit) * scale).astype(np.float32)
            names.append(self.dequantized(f"{node.output[0]}_bias", bias, bias_scale))
        return names

    def dequantized(
        self, name: str, quantized: NDArray[Any], scale: NDArray[np.float32] | np.float32, zero: int = 0
    ) -> str:
        inputs = [
            self.constant(f"{name}_q", quantized),
            self.constant(f"{name}_scale", scale),
            self.constant(f"{name}_zero", np.full(scale.shape, zero, quantized.dtype)),
        ]
        self.node("DequantizeLinear", inputs, f"{name}_dq", **({"axis": 0} if scale.ndim else {}))
        return f"{name}_dq"

    def operand(self, node: Any, index: int) -> str:
        """A constant operand on the grid that the kernels give it: its own, or that of its concatenation."""
        value = self.graph.constants[node.input[index]]
        own = affine(float(value.min()), float(value.max()))
        grid = self.plan.activations[node.output[0]] if node.op_type == "Concat" else own
        quantized = np.clip(np.rint(value / grid.scale) + grid.zero_point, -128, 127).astype(np.int8)
        name = f"{node.output[0]}_operand{index}"
        return self.dequantized(name, quantized, np.float32(grid.scale), grid.zero_point)

    def rewrite(self, node: Any) -> None:
        from onnx import NodeProto

        copy = NodeProto()
        copy.CopyFrom(node)
        for i, name in enumerate(node.input):
            if name in self.plan.activations:
                copy.input[i] = f"{name}_dq"
        trunk = node.output[0] in self.graph.trunk_tensors and node.output[0] not in self.plan.floats
        if trunk and node.op_type in MAC_OPERATORS:
            copy.input[1 : len(node.input)] = self.weights(node)
        elif trunk and (node.op_type in ELEMENTWISE or node.op_type == "Concat"):
            for i, name in enumerate(node.input):
                if name in self.graph.constants:
                    copy.input[i] = self.operand(node, i)
        self.nodes.append(copy)


def write(model: Any, plan: QuantizationPlan, path: Path) -> None:
    """The float model with the plan applied, to `path`; the model itself is used up.

    The head's arithmetic stays in float, after one DequantizeLinear per head convolution.

    Raises:
        UnsupportedOperatorError: the trunk multiplies by other means than convolutions.
    """
    import onnx
    from onnx import numpy_helper

    writer = _Writer(Graph(model), plan)
    for given in model.graph.input:
        if given.name in plan.activations:
            writer.pair(given.name, plan.activations[given.name])
    for node in model.graph.node:
        writer.rewrite(node)
        for name in node.output:
            if name in plan.activations:
                writer.pair(name, plan.activations[name])
    used = {name for node in writer.nodes for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    added = [numpy_helper.from_array(value, name) for name, value in writer.initializers.items()]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(writer.nodes)
    model.graph.initializer.extend([*kept, *added])
    if plan.floats:
        left = [n.output[0] for n in writer.graph.trunk if n.op_type in MAC_OPERATORS and n.output[0] in plan.floats]
        model.metadata_props.add(key=FLOAT_OPERATORS, value=json.dumps(left))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
