"""Lower an ONNX graph (NCHW) to a TensorFlow function (NHWC), operator by operator.

`OPERATORS` is the table: one small function each. A value carries the order of its axes, so a transpose between the two
layouts moves no data; only an operator that needs the ONNX order (reshape, softmax) asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import numpy_helper

from facex.errors import UnsupportedOperatorError
from facex.exporters import _nodes
from facex.exporters._nodes import Node

TARGET = "TFLite"
CHANNELS_LAST = (0, 2, 3, 1)
PASSED_ON = frozenset({"Concat", "Identity", "Relu", "Reshape", "Resize", "Transpose"})
"""Operators through which the converter carries a grid back to the convolution before them, or which it fuses."""
NEARLY_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
"""A slope that changes a negative number in its last bit; the converter drops a LeakyReLU of slope 1."""


@dataclass(frozen=True)
class Value:
    """A TensorFlow tensor that stands for an ONNX one: its axis `i` is the ONNX axis `order[i]`."""

    tensor: Any
    order: tuple[int, ...]

    def natural(self) -> Any:
        """The tensor with its axes in ONNX order."""
        if self.order == tuple(range(len(self.order))):
            return self.tensor
        return tf.transpose(self.tensor, np.argsort(self.order))


class Scope:
    """Values, constants, and scale and zero point of quantized tensors by ONNX name, while a graph is being lowered.

    `dequantized` are the results of DequantizeLinear; `islands` what float convolutions make of them.
    """

    def __init__(self, constants: dict[str, np.ndarray]) -> None:
        self.constants = constants
        self.values: dict[str, Value] = {}
        self.grids: dict[str, tuple[float, int]] = {}
        self.dequantized: set[str] = set()
        self.islands: set[str] = set()

    def value(self, name: str) -> Value:
        """An activation, or a constant lifted to one."""
        if name in self.values:
            return self.values[name]
        constant = self.constants[name]
        return Value(tf.constant(constant), tuple(range(constant.ndim)))

    def constant(self, node: Node, index: int, default: Any = None) -> Any:
        """The constant behind an input; an operator cannot be lowered when it is computed at run time."""
        return _nodes.constant(self.constants, node, index, default)


def lower(model: onnx.ModelProto, *, quantized: bool) -> Callable[..., dict[str, Any]]:
    """A Python function for `tf.function`: image [1, H, W, 3] -> named outputs in ONNX axis order.

    Args:
        model: one image input, NCHW; all shapes static.
        quantized: the image is float32 and the graph carries QuantizeLinear / DequantizeLinear pairs; else it is uint8.

    Raises:
        UnsupportedOperatorError: at once, for every operator outside the table; the message names each with its place.
    """
    graph = model.graph
    nodes, constants = _nodes.nodes(model, OPERATORS, TARGET), _nodes.constants(model)

    def function(image: Any) -> dict[str, Any]:
        scope = Scope(dict(constants))
        scope.values[graph.input[0].name] = Value(image if quantized else tf.cast(image, tf.float32), CHANNELS_LAST)
        for node in nodes:
            result = OPERATORS[node.operator](node, scope)
            if result is not None:
                scope.values[node.outputs[0]] = result
            _note_island(node, scope)
        return {o.name: tf.identity(scope.value(o.name).natural(), name=o.name) for o in graph.output}

    return function


def _note_island(node: Node, scope: Scope) -> None:
    """Keep `Scope.dequantized` and `Scope.islands` up to date."""
    output = node.outputs[0]
    if node.operator == "DequantizeLinear":
        scope.dequantized.add(output)
    elif node.operator == "Conv":
        data, weight = (name in scope.dequantized for name in node.inputs[:2])
        if data and not weight:
            scope.islands.add(output)
    elif node.operator in PASSED_ON and not scope.islands.isdisjoint(node.inputs):
        scope.islands.add(output)


def _refuse(node: Node, what: str) -> UnsupportedOperatorError:
    return _nodes.refusal(node, what, TARGET)


def _conv(node: Node, scope: Scope) -> Value:
    x = _channels_last(scope.value(node.inputs[0]))
    weight, bias = scope.constant(node, 1), scope.constant(node, 2)
    if weight.ndim != 4:
        raise _refuse(node, f"a {weight.ndim - 2}-D convolution")
    group = node.attributes.get("group", 1)
    strides = list(node.attributes.get("strides", [1, 1]))
    dilations = list(node.attributes.get("dilations", [1, 1]))
    if node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _refuse(node, f"auto_pad {node.attributes['auto_pad'].decode()}")
    x, padding = _padded(x, list(node.attributes.get("pads", [0, 0, 0, 0])), weight.shape[2:], strides, dilations)
    c_out, c_in_group = weight.shape[:2]
    if group == 1:
        out = tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), [1, *strides, 1], padding, dilations=dilations)
    elif group == x.shape[3] and c_in_group == 1:
        if max(strides) > 1 and max(dilations) > 1:
            raise _refuse(node, f"strides {strides} with dilations {dilations} of a depthwise convolution")
        kernel = weight.reshape(group, c_out // group, *weight.shape[2:]).transpose(2, 3, 0, 1)
        out = tf.nn.depthwise_conv2d(x, kernel, [1, *strides, 1], padding, dilations=dilations)
    else:
        raise _refuse(node, f"group={group} over {x.shape[3]} channels")
    return Value(out if bias is None else tf.nn.bias_add(out, bias), CHANNELS_LAST)


def _padded(
    x: Any, pads: list[int], kernel: tuple[int, ...], strides: list[int], dilations: list[int]
) -> tuple[Any, str]:
    """TensorFlow pads SAME at the end when it must pad unevenly, ONNX says where; only symmetric stride 1 agrees."""
    if not any(pads):
        return x, "VALID"
    same = [(k - 1) * d // 2 for k, d in zip(kernel, dilations, strict=True)]
    odd = all(k % 2 for k in kernel)
    if strides == [1, 1] and odd and pads == [*same, *same]:
        return x, "SAME"
    return tf.pad(x, [[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]]), "VALID"


def _channels_last(value: Value) -> Any:
    if value.order == CHANNELS_LAST:
        return value.tensor
    return tf.transpose(value.natural(), CHANNELS_LAST)


def _elementwise(function: Callable[..., Any]) -> Callable[[Node, Scope], Value]:
    def operator(node: Node, scope: Scope) -> Value:
        value = scope.value(node.inputs[0])
        return Value(function(value.tensor), value.order)

    return operator


def _leaky_relu(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    return Value(tf.nn.leaky_relu(value.tensor, alpha=node.attributes.get("alpha", 0.01)), value.order)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Node, Scope], Value]:
    """Operands meet in the axis order of the activation; constants are broadcast to its rank and transposed."""

    def operator(node: Node, scope: Scope) -> Value:
        operands = [scope.value(name) for name in node.inputs]
        order = max((scope.values[name].order for name in node.inputs if name in scope.values), key=len, default=())
        aligned = []
        for name, operand in zip(node.inputs, operands, strict=True):
            if operand.order == order:
                aligned.append(operand.tensor)
            elif name in scope.constants and len(operand.order) <= len(order):
                constant = scope.constants[name]
                full = constant.reshape((1,) * (len(order) - constant.ndim) + constant.shape)
                aligned.append(tf.constant(np.ascontiguousarray(full.transpose(order))))
            elif len(operand.order) == len(order):
                aligned.append(tf.transpose(operand.natural(), order))
            else:
                raise _refuse(node, f"'{name}' of rank {len(operand.order)} beside an activation of rank {len(order)}")
        return Value(function(*aligned), order)

    return operator


def _concat(node: Node, scope: Scope) -> Value:
    """In the axis order of the first activation, so that a constant beside it costs no transpose at run time."""
    operands = [scope.value(name) for name in node.inputs]
    order = next((scope.values[name].order for name in node.inputs if name in scope.values), operands[0].order)
    tensors = [v.tensor if v.order == order else _reordered(v, order) for v in operands]
    return Value(tf.concat(tensors, axis=order.index(node.attributes["axis"] % len(order))), order)


def _reordered(value: Value, order: tuple[int, ...]) -> Any:
    return tf.transpose(value.natural(), order)


def _resize(node: Node, scope: Scope) -> Value:
    x = _channels_last(scope.value(node.inputs[0]))
    shape = (x.shape[0], x.shape[3], x.shape[1], x.shape[2])
    vertical, horizontal = _nodes.whole_factors(scope.constants, node, shape, TARGET)
    # floor(i / factor) for a whole factor is what TensorFlow's legacy and half-pixel modes agree on
    sides = [int(x.shape[1]) * vertical, int(x.shape[2]) * horizontal]
    return Value(tf.image.resize(x, sides, method="nearest"), CHANNELS_LAST)


def _transpose(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    perm = list(node.attributes.get("perm", reversed(range(len(value.order)))))
    return Value(value.tensor, tuple(perm.index(axis) for axis in value.order))


def _reshape(node: Node, scope: Scope) -> Value:
    tensor = scope.value(node.inputs[0]).natural()
    if node.attributes.get("allowzero", 0):
        raise _refuse(node, "allowzero")
    wanted = [int(s) if s else int(tensor.shape[i]) for i, s in enumerate(scope.constant(node, 1))]
    if -1 in wanted:
        wanted[wanted.index(-1)] = int(np.prod(tensor.shape)) // -int(np.prod(wanted))
    return Value(tf.reshape(tensor, wanted), tuple(range(len(wanted))))


def _softmax(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    axis = node.attributes.get("axis", -1) % len(value.order)
    tensor = value.natural()
    if axis != len(value.order) - 1:
        raise _refuse(node, f"axis {axis} of {len(value.order)}")
    return Value(tf.nn.softmax(tensor), tuple(range(len(value.order))))


def _slice(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    starts, ends = scope.constant(node, 1), scope.constant(node, 2)
    axes = scope.constant(node, 3, np.arange(len(starts)))
    steps = scope.constant(node, 4, np.ones_like(starts))
    cut = [slice(None)] * len(value.order)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        position = value.order.index(axis % len(value.order))
        first, last, by = slice(int(start), int(end), int(step)).indices(int(value.tensor.shape[position]))
        # -1 is "before the first" to `indices`, and "the last" to a subscript
        cut[position] = slice(first, None if last < 0 else last, by)
    return Value(value.tensor[tuple(cut)], value.order)


def _gather(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    index = scope.constant(node, 1)
    if index.ndim:
        raise _refuse(node, "a list of indices")
    axis = node.attributes.get("axis", 0) % len(value.order)
    tensor = value.natural()
    position = int(index) % int(tensor.shape[axis])
    cut = tuple(position if i == axis else slice(None) for i in range(len(value.order)))
    return Value(tensor[cut], tuple(range(len(value.order) - 1)))


def _unsqueeze(node: Node, scope: Scope) -> Value:
    tensor = scope.value(node.inputs[0]).natural()
    axes = [int(a) for a in scope.constant(node, 1, node.attributes.get("axes"))]
    rank = len(tensor.shape) + len(axes)
    for axis in sorted(a % rank for a in axes):
        tensor = tf.expand_dims(tensor, axis)
    return Value(tensor, tuple(range(rank)))


def _reduce_sum(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    axes = scope.constant(node, 1, node.attributes.get("axes"))
    rank = len(value.order)
    if axes is None or not len(axes):
        if node.attributes.get("noop_with_empty_axes", 0):
            return value
        axes = range(rank)
    reduced = tuple(int(a) % rank for a in axes)
    keep = bool(node.attributes.get("keepdims", 1))
    total = tf.reduce_sum(value.natural(), axis=reduced, keepdims=keep)
    return Value(total, tuple(range(rank if keep else rank - len(reduced))))


def _constant(node: Node, scope: Scope) -> None:
    if "value" not in node.attributes:
        raise _refuse(node, f"attributes {sorted(node.attributes)}")
    scope.constants[node.outputs[0]] = numpy_helper.to_array(node.attributes["value"])


def _quantize_linear(node: Node, scope: Scope) -> Value:
    """Activations only: the integer grid becomes a fake quantization, which the TFLite converter takes for its own.

    A convolution between two of them becomes an integer one, whatever its weights. One that is to stay in float is
    parted from the second by a LeakyReLU that passes on what it is given, which the converter cannot see through.
    """
    value = scope.value(node.inputs[0])
    if node.inputs[0] in scope.islands:
        value = Value(tf.nn.leaky_relu(value.tensor, alpha=NEARLY_ONE), value.order)
    scale, zero = scope.constant(node, 1), scope.constant(node, 2, np.uint8(0))
    if scale.ndim or zero.dtype not in (np.int8, np.uint8):
        raise _refuse(node, "anything but one 8-bit scale for an activation")
    info = np.iinfo(zero.dtype)
    low, high = (np.float32((bound - int(zero)) * float(scale)) for bound in (info.min, info.max))
    scope.grids[node.outputs[0]] = (float(scale), int(zero))
    return Value(tf.quantization.fake_quant_with_min_max_vars(value.tensor, low, high, num_bits=8), value.order)


def _dequantize_linear(node: Node, scope: Scope) -> Value | None:
    if node.inputs[0] in scope.values:
        grid = float(scope.constant(node, 1)), int(scope.constant(node, 2, 0))
        if scope.grids.get(node.inputs[0]) != grid:
            raise _refuse(node, "a scale or zero point that is not its QuantizeLinear's")
        return scope.values[node.inputs[0]]
    scope.constants[node.outputs[0]] = _nodes.dequantized(scope.constants, node)
    return None


OPERATORS: dict[str, Callable[[Node, Scope], Value | None]] = {
    "Add": _binary(tf.add),
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "DequantizeLinear": _dequantize_linear,
    "Exp": _elementwise(tf.exp),
    "Gather": _gather,
    "Identity": _elementwise(tf.identity),
    "LeakyRelu": _leaky_relu,
    "Mul": _binary(tf.multiply),
    "QuantizeLinear": _quantize_linear,
    "Neg": _elementwise(tf.negative),
    "ReduceSum": _reduce_sum,
    "Relu": _elementwise(tf.nn.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _elementwise(tf.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sub": _binary(tf.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
