"""Write TFLite files of classifiers layer by layer, with random weights: files to be timed, never to be believed.

How long a convolution takes does not depend on its weights, so published networks can be timed without their
checkpoints, and without a converter. Float tensors are float32; the 8-bit ones are int8, with weights per output
channel, as the TFLite converter writes them. Fields and enums are those of
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ACTIVATION_SCALE = 0.05
_WEIGHT_SCALE = 0.002
_POOL_OF_VALUES = 65_537
"""Random values that all weights repeat; a prime, so that no channel repeats another."""


class Builder:
    """A graph that grows by one layer a call. Tensors are their indices; shapes are NHWC.

    Args:
        int8: whether activations and weights are int8; otherwise float32.
    """

    def __init__(self, *, int8: bool) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._int8 = int8
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._buffers = [schema.BufferT()]
        self._codes: dict[int, int] = {}
        random = np.random.default_rng(0)
        if int8:
            self._values: NDArray[Any] = random.integers(-127, 128, _POOL_OF_VALUES).astype(np.int8)
        else:
            self._values = random.standard_normal(_POOL_OF_VALUES).astype(np.float32)

    def shape(self, tensor: int) -> tuple[int, int, int, int]:
        """Batch, height, width, channels."""
        batch, height, width, channels = self._graph.tensors[tensor].shape
        return batch, height, width, channels

    def image(self, height: int, width: int | None = None) -> int:
        """The input, of three channels."""
        tensor = self._activation((1, height, width or height, 3))
        self._graph.inputs = [tensor]
        return tensor

    def conv(
        self,
        x: int,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        *,
        activation: str = "RELU6",
        same: bool = True,
    ) -> int:
        """A convolution with bias."""
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        weight = self._constant((channels, *size, self.shape(x)[3]), channel_axis=0)
        options = self._schema.Conv2DOptionsT()
        return self._convolve("CONV_2D", options, x, weight, channels, size, stride, activation, same)

    def depthwise(self, x: int, kernel: int, stride: int = 1, *, activation: str = "RELU6", same: bool = True) -> int:
        """A convolution of every channel by itself, with bias."""
        channels = self.shape(x)[3]
        weight = self._constant((1, kernel, kernel, channels), channel_axis=3)
        options = self._schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = 1
        size = (kernel, kernel)
        return self._convolve("DEPTHWISE_CONV_2D", options, x, weight, channels, size, stride, activation, same)

    def _convolve(
        self,
        name: str,
        options: Any,
        x: int,
        weight: int,
        channels: int,
        size: tuple[int, int],
        stride: int,
        activation: str,
        same: bool,
    ) -> int:
        self._window(options, stride, same)
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = getattr(self._schema.ActivationFunctionType, activation)
        inputs = [x, weight, self._bias(channels)]
        return self._operator(name, options, inputs, (1, *self._windows(x, size, stride, same), channels))

    def max_pool(self, x: int, kernel: int, stride: int, *, same: bool = False) -> int:
        """The largest value of each window."""
        return self._pool("MAX_POOL_2D", x, (kernel, kernel), stride, same)

    def average_pool(self, x: int, kernel: int, stride: int = 1, *, same: bool = True) -> int:
        """The mean of each window."""
        return self._pool("AVERAGE_POOL_2D", x, (kernel, kernel), stride, same)

    def global_pool(self, x: int) -> int:
        """The mean of each channel."""
        _, height, width, _ = self.shape(x)
        return self._pool("AVERAGE_POOL_2D", x, (height, width), 1, same=False)

    def _pool(self, name: str, x: int, size: tuple[int, int], stride: int, same: bool) -> int:
        options = self._schema.Pool2DOptionsT()
        self._window(options, stride, same)
        options.filterHeight, options.filterWidth = size
        return self._operator(name, options, [x], (1, *self._windows(x, size, stride, same), self.shape(x)[3]))

    def add(self, x: int, y: int, *, activation: str = "NONE") -> int:
        """The sum of two tensors of one shape."""
        options = self._schema.AddOptionsT()
        options.fusedActivationFunction = getattr(self._schema.ActivationFunctionType, activation)
        return self._operator("ADD", options, [x, y], self.shape(x))

    def relu(self, x: int) -> int:
        """A ReLU that no other layer can take in."""
        return self._operator("RELU", None, [x], self.shape(x))

    def enlarged(self, x: int) -> int:
        """Every element four times: twice the height and the width."""
        batch, height, width, channels = self.shape(x)
        size = self._tensor((2,), self._stored(np.array([2 * height, 2 * width], np.int32)), None)
        self._graph.tensors[size].type = self._schema.TensorType.INT32
        options = self._schema.ResizeNearestNeighborOptionsT()
        return self._operator("RESIZE_NEAREST_NEIGHBOR", options, [x, size], (batch, 2 * height, 2 * width, channels))

    def concat(self, parts: Sequence[int]) -> int:
        """Channels behind each other."""
        options = self._schema.ConcatenationOptionsT()
        options.axis = 3
        channels = sum(self.shape(part)[3] for part in parts)
        return self._operator("CONCATENATION", options, list(parts), (*self.shape(parts[0])[:3], channels))

    def dense(self, x: int, outputs: int) -> int:
        """A matrix product with bias; `x` is 1x1."""
        options = self._schema.FullyConnectedOptionsT()
        weight = self._constant((outputs, self.shape(x)[3]), channel_axis=None)
        return self._operator("FULLY_CONNECTED", options, [x, weight, self._bias(outputs)], (1, outputs))

    def finish(self, output: int) -> bytes:
        """The file."""
        import flatbuffers

        schema, model = self._schema, self._schema.ModelT()
        self._graph.outputs = [output]
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [self._graph], self._buffers, []
        for number in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _window(self, options: Any, stride: int, same: bool) -> None:
        options.padding = self._schema.Padding.SAME if same else self._schema.Padding.VALID
        options.strideH = options.strideW = stride

    def _windows(self, x: int, size: tuple[int, int], stride: int, same: bool) -> tuple[int, int]:
        """Height and width after windows have slid over a tensor."""
        _, height, width, _ = self.shape(x)
        lost = (0, 0) if same else (size[0] - 1, size[1] - 1)
        return -(-(height - lost[0]) // stride), -(-(width - lost[1]) // stride)

    def _operator(self, name: str, options: Any, inputs: list[int], shape: Sequence[int]) -> int:
        schema = self._schema
        operator = schema.OperatorT()
        number = getattr(schema.BuiltinOperator, name)
        operator.opcodeIndex = self._codes.setdefault(number, len(self._codes))
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            operator.builtinOptions = options
        output = self._activation(shape)
        operator.inputs, operator.outputs = inputs, [output]
        self._graph.operators.append(operator)
        return output

    def _activation(self, shape: Sequence[int]) -> int:
        return self._tensor(shape, 0, self._grid([_ACTIVATION_SCALE], 0) if self._int8 else None)

    def _constant(self, shape: Sequence[int], *, channel_axis: int | None) -> int:
        count = int(np.prod(shape))
        values = np.resize(self._values, count)
        if not self._int8:
            values = values * np.float32(np.sqrt(2 / np.prod(shape[1:])))  # keeps the variance of activations near 1
        scales = [_WEIGHT_SCALE] * (1 if channel_axis is None else shape[channel_axis])
        return self._tensor(shape, self._stored(values), self._grid(scales, channel_axis or 0) if self._int8 else None)

    def _bias(self, count: int) -> int:
        dtype = np.int32 if self._int8 else np.float32
        grid = self._grid([_ACTIVATION_SCALE * _WEIGHT_SCALE] * count, 0) if self._int8 else None
        index = self._tensor((count,), self._stored(np.zeros(count, dtype)), grid)
        if self._int8:
            self._graph.tensors[index].type = self._schema.TensorType.INT32
        return index

    def _stored(self, values: NDArray[Any]) -> int:
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
        self._buffers.append(buffer)
        return len(self._buffers) - 1

    def _grid(self, scales: Sequence[float], axis: int) -> Any:
        grid = self._schema.QuantizationParametersT()
        grid.scale, grid.zeroPoint, grid.quantizedDimension = list(scales), [0] * len(scales), axis
        return grid

    def _tensor(self, shape: Sequence[int], buffer: int, grid: Any) -> int:
        tensor = self._schema.TensorT()
        tensor.shape, tensor.buffer, tensor.name = list(shape), buffer, str(len(self._graph.tensors))
        tensor.type = self._schema.TensorType.INT8 if self._int8 else self._schema.TensorType.FLOAT32
        tensor.quantization = grid
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


Architecture = Callable[[Builder], int]
"""Adds the layers of a network and returns its output."""


def written(architecture: Architecture, *, int8: bool) -> bytes:
    """The TFLite file of a network."""
    builder = Builder(int8=int8)
    return builder.finish(architecture(builder))
