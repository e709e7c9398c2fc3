"""A QDQ ONNX model read back: its activation grids, and the same model without them.

Before: x -> QuantizeLinear -> DequantizeLinear -> y. After: y is x. Weights behind a DequantizeLinear become the float
values that it gives, so that the twin differs from the quantized model by the rounding of activations alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration.graph import Graph, attribute
from facex.errors import ArtifactError

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The integers of one activation tensor.

    Attributes:
        tensor: the float tensor that is quantized.
        dequantized: what readers get in its place.
        operator: type of the node that computes it; `input` for an input of the model.
        scale: real value of one step.
        zero_point: the integer of zero.
        low: real value of the smallest integer.
        high: real value of the largest integer.
        constants: the scale's and the zero point's names in the model, the latter empty where there is none.
    """

    tensor: str
    dequantized: tuple[str, ...]
    operator: str
    scale: float
    zero_point: int
    low: float
    high: float
    constants: tuple[str, str]


class Twin:
    """A QDQ model, its grids in the order of the graph, and its float twin.

    Attributes:
        quantized: the model as it is.
        constants: every constant tensor of it by name, dequantized weights included.
    """

    def __init__(self, model: Any) -> None:
        self.quantized = model
        self._graph = Graph(model)
        self.constants = folded(self._graph)

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """See the class.

        Raises:
            ArtifactError: a tensor has a grid per channel, or one that is not in the file, or is not dequantized again.
        """
        return tuple(
            self._grid(node)
            for node in self._graph.nodes
            if node.op_type == QUANTIZE and node.input[0] not in self.constants
        )

    def _grid(self, node: Any) -> Grid:
        scale_name, zero_name = node.input[1], node.input[2] if len(node.input) > 2 else ""
        known = [name for name in (scale_name, zero_name) if name]
        values = [self.constants.get(name) for name in known]
        if any(value is None or value.size != 1 for value in values):
            raise ArtifactError(
                f"the grid of '{node.input[0]}' is not one constant scale", hint="supported: per-tensor QDQ models"
            )
        scale = float(np.ravel(self.constants[scale_name])[0])
        zero = np.ravel(self.constants[zero_name])[0] if zero_name else np.uint8(0)
        bounds = np.iinfo(zero.dtype)
        producer = self._graph.producer.get(node.input[0])
        readers = self._graph.consumers.get(node.output[0], [])
        if not readers or any(reader.op_type != DEQUANTIZE for reader in readers):
            raise ArtifactError(
                f"the integers of '{node.input[0]}' are read by another operator than DequantizeLinear",
                hint="supported: per-tensor QDQ models",
            )
        return Grid(
            tensor=node.input[0],
            dequantized=tuple(reader.output[0] for reader in readers),
            operator=producer.op_type if producer is not None else "input",
            scale=scale,
            zero_point=int(zero),
            low=scale * (bounds.min - int(zero)),
            high=scale * (bounds.max - int(zero)),
            constants=(scale_name, zero_name),
        )

    def read_as(self, tensor: str) -> str:
        """What the quantized model's nodes read in place of a float tensor: itself where it has no grid."""
        return next((g.dequantized[0] for g in self.grids if g.tensor == tensor), tensor)

    @cached_property
    def float_model(self) -> Any:
        """The float twin: tensors keep the names they have before their QuantizeLinear; so do the outputs."""
        from onnx import numpy_helper

        model = type(self.quantized)()
        model.CopyFrom(self.quantized)
        source = {name: grid.tensor for grid in self.grids for name in grid.dequantized}
        given = {o.name for o in model.graph.output}
        nodes = []
        for node in self._graph.nodes:
            if node.output[0] in self.constants or node.op_type == QUANTIZE:
                continue
            if node.output[0] in source and node.output[0] not in given:
                continue
            nodes.append(_reading(node, source))
        read = {name for node in nodes for name in node.input}
        kept = {name: value for name, value in self.constants.items() if name in read}
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in kept.items())
        return model


def _reading(node: Any, source: Mapping[str, str]) -> Any:
    """A copy of a node that reads tensors before their grids; an output's own DequantizeLinear becomes an Identity."""
    from onnx import NodeProto, helper

    if node.output[0] in source:
        return helper.make_node("Identity", [source[node.output[0]]], [node.output[0]], name=node.name)
    copy = NodeProto()
    copy.CopyFrom(node)
    for i, name in enumerate(node.input):
        copy.input[i] = source.get(name, name)
    return copy


def folded(graph: Graph) -> dict[str, NDArray[Any]]:
    """The constants of a graph with what QuantizeLinear and DequantizeLinear make of them."""
    found = dict(graph.constants)
    for node in graph.nodes:
        if node.op_type in (QUANTIZE, DEQUANTIZE) and all(name in found for name in node.input if name):
            values = [found[name] for name in node.input if name]
            apply = _quantized if node.op_type == QUANTIZE else _dequantized
            found[node.output[0]] = apply(*values, axis=attribute(node, "axis", 1))
    return found


def _along(value: NDArray[Any], rank: int, axis: int) -> NDArray[Any]:
    """A scale or zero point as it broadcasts over a tensor: one value, or one for every index of the axis."""
    if value.size == 1:
        return value.reshape(())
    return value.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _dequantized(
    q: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None = None, *, axis: int
) -> NDArray[np.float32]:
    offset = np.int32(0) if zero is None else _along(zero, q.ndim, axis).astype(np.int32)
    real: NDArray[np.float32] = (q.astype(np.int32) - offset).astype(np.float32) * _along(scale, q.ndim, axis)
    return real


def _quantized(x: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None = None, *, axis: int) -> NDArray[Any]:
    offset = np.zeros((), np.uint8) if zero is None else _along(zero, x.ndim, axis)
    bounds = np.iinfo(offset.dtype)
    raw = np.rint(x / _along(scale, x.ndim, axis)) + offset.astype(np.float64)
    integers: NDArray[Any] = np.clip(raw, bounds.min, bounds.max).astype(offset.dtype)
    return integers


def with_outputs(model: Any, names: Iterable[str]) -> Any:
    """A copy of a model whose outputs are these float32 tensors, each once, and nothing else."""
    from onnx import TensorProto, helper

    copy = type(model)()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in dict.fromkeys(names)
    )
    return copy
