"""ONNX nodes as lowerings read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from facex.errors import UnsupportedOperatorError

WHOLE_NEAREST = (b"nearest", b"asymmetric", b"floor")
"""Mode, coordinates and rounding of the Resize that repeats every pixel a whole number of times."""


@dataclass(frozen=True)
class Node:
    """An ONNX node with its attributes as Python values."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


def load(path: Path) -> onnx.ModelProto:
    """The ONNX model with the shapes of all its values inferred."""
    return onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True)


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """The initializers of a model, by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def nodes(model: onnx.ModelProto, supported: Collection[str], target: str) -> list[Node]:
    """The nodes of a model, all of them of operators that a lowering supports.

    Args:
        model: to be lowered.
        supported: operators of the lowering.
        target: what it lowers to, for the error.

    Raises:
        UnsupportedOperatorError: naming every node of another operator.
    """
    found = [_node(proto) for proto in model.graph.node]
    unknown: dict[str, list[str]] = {}
    for node in found:
        if node.operator not in supported:
            unknown.setdefault(node.operator, []).append(node.name)
    if unknown:
        places = "; ".join(
            f"{operator} at {', '.join(repr(n) for n in names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}"
            for operator, names in sorted(unknown.items())
        )
        raise UnsupportedOperatorError(
            f"no {target} lowering for {places}", hint=f"supported: {', '.join(sorted(supported))}"
        )
    return found


def _node(proto: onnx.NodeProto) -> Node:
    return Node(
        name=proto.name or "/".join(proto.output),
        operator=proto.op_type,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute},
    )


def refusal(node: Node, what: str, target: str) -> UnsupportedOperatorError:
    """The error for a node whose operator is supported, but not as it is used."""
    return UnsupportedOperatorError(f"{node.operator} '{node.name}': {what} is not supported by the {target} lowering")


def constant(values: Mapping[str, NDArray[Any]], node: Node, index: int, default: Any = None) -> Any:
    """The constant behind an input.

    Raises:
        UnsupportedOperatorError: it is computed at run time.
    """
    if index >= len(node.inputs) or not node.inputs[index]:
        return default
    name = node.inputs[index]
    if name not in values:
        raise UnsupportedOperatorError(
            f"{node.operator} '{node.name}': input {index} ('{name}') must be a constant to be lowered"
        )
    return values[name]


def bounds(values: Mapping[str, NDArray[Any]], node: Node) -> tuple[float, float]:
    """Lower and upper bound of a Clip; infinite where it has none."""
    low, high = constant(values, node, 1, -np.inf), constant(values, node, 2, np.inf)
    return float(low), float(high)


def dequantized(values: Mapping[str, NDArray[Any]], node: Node) -> NDArray[Any]:
    """What a DequantizeLinear makes of a constant: float32, computed in float64 and rounded once."""
    quantized, scale, zero = (constant(values, node, i) for i in range(3))
    shape = [1] * quantized.ndim
    if scale.ndim:
        shape[node.attributes.get("axis", 1)] = -1
    integers = quantized.astype("int64") - (0 if zero is None else zero.reshape(shape).astype("int64"))
    result: NDArray[Any] = (integers * scale.reshape(shape).astype("float64")).astype("float32")
    return result


def whole_factors(values: Mapping[str, NDArray[Any]], node: Node, shape: Sequence[int], target: str) -> tuple[int, int]:
    """By how much a Resize repeats rows and columns.

    Args:
        values: the constants.
        node: the Resize.
        shape: of its input, NCHW.
        target: for the error.

    Raises:
        UnsupportedOperatorError: it does something else.
    """
    attributes = node.attributes
    how = (
        attributes.get("mode", b"nearest"), attributes.get("coordinate_transformation_mode"),
        attributes.get("nearest_mode"),
    )  # fmt: skip
    if how != WHOLE_NEAREST:
        raise refusal(node, f"mode {how[0].decode()} with {how[1:]}", target)
    sizes, scales = constant(values, node, 3), constant(values, node, 2)
    # `axes` (opset 18) gives fewer sizes than axes
    factors = scales if sizes is None else sizes / [float(s) for s in shape[-len(sizes) :]]
    if len(factors) != 4 or (factors[:2] != 1).any() or (factors < 1).any() or (factors % 1).any():
        what = f"scaling by {[float(f) for f in factors]}, not by whole factors of height and width,"
        raise refusal(node, what, target)
    return int(factors[2]), int(factors[3])
