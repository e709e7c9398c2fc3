"""The TFLite side: a finished file, read through the schema of its flatbuffer and run with its tensors exposed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .regions import KINDS, Convolution, Grid, Integers, Region, walk

PADS = ("MIRROR_PAD", "PAD")


class File:
    """A finished TFLite file, read through the schema of its flatbuffer."""

    def __init__(self, path: Path) -> None:
        from facex.exporters import _litert

        schema = _litert._schema()
        assert schema is not None, "tensors can only be exposed through the schema"
        self.schema: Any = schema
        self.model = self.schema.ModelT.InitFromObj(self.schema.Model.GetRootAs(path.read_bytes(), 0))
        self.graph = self.model.subgraphs[0]
        names = {v: k for k, v in vars(self.schema.BuiltinOperator).items() if isinstance(v, int)}
        codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in self.model.operatorCodes]
        self.kind = {id(o): names[codes[o.opcodeIndex]] for o in self.graph.operators}
        self.producer = {int(i): o for o in self.graph.operators for i in o.outputs}

    @cached_property
    def quantized(self) -> list[int]:
        """Computed int8 tensors in order; what a PAD gives is inside the operator that reads it."""
        int8 = self.schema.TensorType.INT8
        made = [(int(i), o) for o in self.graph.operators for i in o.outputs]
        return [i for i, o in made if self.graph.tensors[i].type == int8 and self.kind[id(o)] not in PADS]

    def grid(self, index: int) -> Grid:
        """Scale and zero point of an activation."""
        told = self.graph.tensors[index].quantization
        (scale,), (zero,) = told.scale, told.zeroPoint
        return float(scale), int(zero)

    def operator_of(self, index: int) -> tuple[str, list[int]] | None:
        """Kind and inputs of what computes a tensor."""
        operator = self.producer.get(index)
        return None if operator is None else (self.kind[id(operator)], [int(i) for i in operator.inputs if i >= 0])

    def constant(self, index: int, dtype: type) -> Integers:
        """Integers stored in the file."""
        tensor = self.graph.tensors[index]
        return np.asarray(self.model.buffers[tensor.buffer].data).view(dtype).reshape(tensor.shape).astype(np.int64)

    def convolution(self, index: int) -> Convolution | None:
        """Integers of the convolution that computes a tensor."""
        operator = self.producer[index]
        kind = self.kind[id(operator)]
        if KINDS.get(kind) != "CONV":
            return None
        stored = self.constant(operator.inputs[1], np.int8)
        scale = np.asarray(self.graph.tensors[operator.inputs[1]].quantization.scale, np.float64)
        weight = stored.transpose((0, 3, 1, 2) if kind == "CONV_2D" else (3, 0, 1, 2))
        biased = len(operator.inputs) > 2 and operator.inputs[2] >= 0
        bias = self.constant(operator.inputs[2], np.int32) if biased else np.zeros(len(weight), np.int64)
        return Convolution(weight=weight, scale=np.broadcast_to(scale, len(weight)), bias=bias)

    @cached_property
    def regions(self) -> list[Region[int]]:
        """What computes each quantized tensor, in order."""
        stops = [*self.quantized, *map(int, self.graph.inputs)]
        found = []
        for index in self.quantized:
            kinds, sources = walk(index, stops, self.operator_of)
            found.append(
                Region(
                    tensor=index,
                    kinds=kinds,
                    sources=sources,
                    grid=self.grid(index),
                    convolution=self.convolution(index),
                )
            )
        return found

    def run(self, image: NDArray[np.uint8], exposed: Sequence[int], *, delegate: bool) -> dict[int | str, NDArray[Any]]:
        """Values of exposed tensors by index (NHWC) and of the outputs by name.

        Args:
            image: uint8 [1, H, W, 3].
            exposed: made outputs beside the file's own.
            delegate: with XNNPACK, as an app runs it; else with the built-in kernels.
        """
        import flatbuffers
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        own = [int(i) for i in self.graph.outputs]
        builder = flatbuffers.Builder(1 << 20)
        self.graph.outputs = np.array([*own, *(i for i in exposed if i not in own)], np.int32)
        try:
            builder.Finish(self.model.Pack(builder), b"TFL3")
        finally:
            self.graph.outputs = np.array(own, np.int32)
        resolver = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(model_content=bytes(builder.Output()), experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        delegated = any(o["op_name"] == "DELEGATE" for o in interpreter._get_ops_details())
        assert delegated == delegate, "other kernels would run than were asked for"
        interpreter.set_tensor(int(self.graph.inputs[0]), image)
        interpreter.invoke()
        named = {self.graph.tensors[i].name.decode(): interpreter.get_tensor(i) for i in own}
        return {**named, **{i: interpreter.get_tensor(i) for i in exposed}}
