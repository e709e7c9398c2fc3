"""The QDQ side: a model that onnxruntime runs operator by operator, each on integers that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from .regions import KINDS, UNCOUNTED, Convolution, Grid, PairingError, Region, walk


class Plan:
    """A QDQ model, cut at its pairs. A quantized tensor goes by the output of its QuantizeLinear."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(str(path))
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}
        self.producer = {name: n for n in self.model.graph.node for name in n.output if n.op_type != "Constant"}
        self.inputs = [i.name for i in self.model.graph.input if i.name not in self.constants]
        self.pairs = {n.output[0]: n for n in self.model.graph.node if n.op_type == "QuantizeLinear"}

    @property
    def outputs(self) -> list[str]:
        """The model's own outputs."""
        return [o.name for o in self.model.graph.output]

    def name_of(self, tensor: str) -> str:
        """The float tensor that a QuantizeLinear reads."""
        return str(self.pairs[tensor].input[0])

    def grid(self, tensor: str) -> Grid:
        """Scale and zero point that a tensor is quantized with."""
        scale, zero = (self.constants[name] for name in self.pairs[tensor].input[1:3])
        return float(scale), int(zero)

    def operator_of(self, name: str) -> tuple[str, list[str]] | None:
        """Kind and inputs of what computes a tensor."""
        node = self.producer.get(name)
        if node is None:
            return None
        if node.op_type not in KINDS and node.op_type not in UNCOUNTED:
            raise PairingError(f"{node.op_type} '{node.name}' in the trunk has no known counterpart in a TFLite file")
        return node.op_type, [i for i in node.input if i]

    def convolution_node(self, tensor: str) -> Any | None:
        """The integer convolution, its ReLU apart, that computes a tensor; None where something else does."""
        node = self.producer.get(self.name_of(tensor))
        if node is not None and node.op_type in ("Clip", "Relu"):
            node = self.producer.get(node.input[0])
        if node is None or node.op_type != "Conv":
            return None
        dequantized = [self.producer.get(name) for name in node.input[:2]]
        return node if all(d is not None and d.op_type == "DequantizeLinear" for d in dequantized) else None

    def convolution(self, tensor: str) -> Convolution | None:
        """Integers of the convolution that computes a tensor."""
        node = self.convolution_node(tensor)
        if node is None:
            return None
        weight, scale = (self.constants[name] for name in self.producer[node.input[1]].input[:2])
        bias = np.zeros(len(weight), np.int64)
        if len(node.input) > 2 and node.input[2]:
            bias = self.constants[self.producer[node.input[2]].input[0]].astype(np.int64)
        scale = np.broadcast_to(scale.astype(np.float64), len(weight))
        return Convolution(weight=weight.astype(np.int64), scale=scale, bias=bias)

    @cached_property
    def regions(self) -> list[Region[str]]:
        """What computes each quantized tensor, in order."""
        stops = [*self.pairs, *self.inputs]
        found = []
        for tensor in self.pairs:
            kinds, sources = walk(tensor, stops, self.operator_of)
            found.append(
                Region(
                    tensor=tensor,
                    kinds=kinds,
                    sources=sources,
                    grid=self.grid(tensor),
                    convolution=self.convolution(tensor),
                )
            )
        return found

    def run(
        self, image: NDArray[np.uint8], given: Mapping[str, NDArray[np.int8]], grids: Mapping[str, Grid]
    ) -> dict[str, NDArray[Any]]:
        """Every operator on given integers: what each QuantizeLinear makes of them, and the outputs; unfused.

        Args:
            image: uint8 [1, H, W, 3].
            given: int8 NCHW that each tensor's readers are told it holds.
            grids: what those integers mean.
        """
        import onnxruntime

        cut = onnx.ModelProto()
        cut.CopyFrom(self.model)
        for node in cut.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in self.pairs:
                tensor = node.input[0]
                for i, part in enumerate(("given", "scale", "zero")):
                    node.input[i] = f"{part}/{tensor}"
        for tensor, (scale, zero) in grids.items():
            value = onnx.helper.make_tensor_value_info(f"given/{tensor}", onnx.TensorProto.INT8, given[tensor].shape)
            cut.graph.input.append(value)
            cut.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), f"scale/{tensor}"))
            cut.graph.initializer.append(numpy_helper.from_array(np.array(zero, np.int8), f"zero/{tensor}"))
        cut.graph.output.extend(onnx.helper.make_empty_tensor_value_info(tensor) for tensor in self.pairs)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(cut.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {f"given/{tensor}": values for tensor, values in given.items()}
        feeds |= {name: image.transpose(0, 3, 1, 2).astype(np.float32) for name in self.inputs}
        read = {i.name for i in session.get_inputs()}
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(names, {k: v for k, v in feeds.items() if k in read}), strict=True))
