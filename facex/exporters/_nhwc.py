"""Lower an ONNX graph (NCHW) to a TensorFlow function (NHWC), operator by operator.

`OPERATORS` is the table: one small function each. A value carries the order of its axes, so a transpose between the two
layouts moves no data; only an operator that needs the ONNX order (reshape, softmax) asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import numpy_helper

from facex.exporters import _nhwc_moves, _nhwc_pools, _nodes
from facex.exporters._nhwc_values import CHANNELS_LAST, TARGET, Scope, Value, channels_last, refuse
from facex.exporters._nodes import Node

PASSED_ON = frozenset({"Clip", "Concat", "Identity", "MaxPool", "Relu", "Reshape", "Resize", "Slice", "Transpose"})
"""Operators through which the converter carries a grid back to the convolution before them, or which it fuses."""
NONNEGATIVE = frozenset({"Exp", "HardSigmoid", "Relu", "Sigmoid"})
SIGN_KEPT = frozenset({"DequantizeLinear", "Identity", "MaxPool", "QuantizeLinear", "Resize", "Slice"})
ROUNDING = 1e-6
"""By how much the slope of a hard sigmoid may miss 1/6: it is stored in float32."""
NEARLY_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
"""A slope that changes a negative number in its last bit; the converter drops a LeakyReLU of slope 1."""


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
            _note_sign(node, scope)
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


def _note_sign(node: Node, scope: Scope) -> None:
    """Keep `Scope.nonnegative` up to date."""
    clipped = node.operator == "Clip" and _nodes.bounds(scope.constants, node)[0] >= 0
    passed = node.operator in SIGN_KEPT and node.inputs[0] in scope.nonnegative
    if node.operator in NONNEGATIVE or clipped or passed:
        scope.nonnegative.add(node.outputs[0])


def _conv(node: Node, scope: Scope) -> Value:
    x = channels_last(scope.value(node.inputs[0]))
    weight, bias = scope.constant(node, 1), scope.constant(node, 2)
    if weight.ndim != 4:
        raise refuse(node, f"a {weight.ndim - 2}-D convolution")
    group = node.attributes.get("group", 1)
    strides = list(node.attributes.get("strides", [1, 1]))
    dilations = list(node.attributes.get("dilations", [1, 1]))
    if node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise refuse(node, f"auto_pad {node.attributes['auto_pad'].decode()}")
    x, padding = _padded(x, list(node.attributes.get("pads", [0, 0, 0, 0])), weight.shape[2:], strides, dilations)
    c_out, c_in_group = weight.shape[:2]
    if group == 1:
        out = tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), [1, *strides, 1], padding, dilations=dilations)
    elif group == x.shape[3] and c_in_group == 1:
        if max(strides) > 1 and max(dilations) > 1:
            raise refuse(node, f"strides {strides} with dilations {dilations} of a depthwise convolution")
        kernel = weight.reshape(group, c_out // group, *weight.shape[2:]).transpose(2, 3, 0, 1)
        out = tf.nn.depthwise_conv2d(x, kernel, [1, *strides, 1], padding, dilations=dilations)
    else:
        raise refuse(node, f"group={group} over {x.shape[3]} channels")
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


def _elementwise(function: Callable[..., Any]) -> Callable[[Node, Scope], Value]:
    def operator(node: Node, scope: Scope) -> Value:
        value = scope.value(node.inputs[0])
        return Value(function(value.tensor), value.order)

    return operator


def _leaky_relu(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    return Value(tf.nn.leaky_relu(value.tensor, alpha=node.attributes.get("alpha", 0.01)), value.order)


def _clip(node: Node, scope: Scope) -> Value:
    value, (low, high) = scope.value(node.inputs[0]), _nodes.bounds(scope.constants, node)
    named = {(0.0, 6.0): tf.nn.relu6, (0.0, np.inf): tf.nn.relu}.get((low, high))
    if named is not None:
        return Value(named(value.tensor), value.order)
    return Value(tf.minimum(tf.maximum(value.tensor, np.float32(low)), np.float32(high)), value.order)


def _hard_sigmoid(node: Node, scope: Scope) -> Value:
    """Torch's is relu6(x + 3) / 6; between 8-bit tensors the sum has the integers of the result."""
    value = scope.value(node.inputs[0])
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    if abs(alpha - 1 / 6) > ROUNDING or beta != 0.5:
        return Value(tf.clip_by_value(value.tensor * np.float32(alpha) + np.float32(beta), 0.0, 1.0), value.order)
    gate = tf.nn.relu6(value.tensor + 3.0)
    if node.inputs[0] in scope.dequantized:
        gate = tf.quantization.fake_quant_with_min_max_vars(gate, 0.0, 6.0, num_bits=8)
    return Value(gate * np.float32(1 / 6), value.order)


def _hard_swish(x: Any) -> Any:
    """In the form that the converter knows."""
    return x * tf.nn.relu6(x + 3.0) * np.float32(1 / 6)


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
                raise refuse(node, f"'{name}' of rank {len(operand.order)} beside an activation of rank {len(order)}")
        return Value(function(*aligned), order)

    return operator


def _softmax(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    axis = node.attributes.get("axis", -1) % len(value.order)
    tensor = value.natural()
    if axis != len(value.order) - 1:
        raise refuse(node, f"axis {axis} of {len(value.order)}")
    return Value(tf.nn.softmax(tensor), tuple(range(len(value.order))))


def _reduction(function: Callable[..., Any]) -> Callable[[Node, Scope], Value]:
    def operator(node: Node, scope: Scope) -> Value:
        value = scope.value(node.inputs[0])
        axes = scope.constant(node, 1, node.attributes.get("axes"))
        rank = len(value.order)
        if axes is None or not len(axes):
            if node.attributes.get("noop_with_empty_axes", 0):
                return value
            axes = range(rank)
        reduced = tuple(int(a) % rank for a in axes)
        if node.attributes.get("keepdims", 1):
            return Value(
                function(value.tensor, axis=[value.order.index(a) for a in reduced], keepdims=True), value.order
            )
        return Value(function(value.natural(), axis=reduced), tuple(range(rank - len(reduced))))

    return operator


def _constant(node: Node, scope: Scope) -> None:
    if "value" not in node.attributes:
        raise refuse(node, f"attributes {sorted(node.attributes)}")
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
        raise refuse(node, "anything but one 8-bit scale for an activation")
    info = np.iinfo(zero.dtype)
    low, high = (np.float32((bound - int(zero)) * float(scale)) for bound in (info.min, info.max))
    scope.grids[node.outputs[0]] = (float(scale), int(zero))
    return Value(tf.quantization.fake_quant_with_min_max_vars(value.tensor, low, high, num_bits=8), value.order)


def _dequantize_linear(node: Node, scope: Scope) -> Value | None:
    if node.inputs[0] in scope.values:
        grid = float(scope.constant(node, 1)), int(scope.constant(node, 2, 0))
        if scope.grids.get(node.inputs[0]) != grid:
            raise refuse(node, "a scale or zero point that is not its QuantizeLinear's")
        return scope.values[node.inputs[0]]
    scope.constants[node.outputs[0]] = _nodes.dequantized(scope.constants, node)
    return None


OPERATORS: dict[str, Callable[[Node, Scope], Value | None]] = {
    "Add": _binary(tf.add),
    "Clip": _clip,
    "Concat": _nhwc_moves.concat,
    "Constant": _constant,
    "Conv": _conv,
    "DequantizeLinear": _dequantize_linear,
    "Exp": _elementwise(tf.exp),
    "Gather": _nhwc_moves.gather,
    "GlobalAveragePool": _nhwc_pools.mean,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _elementwise(_hard_swish),
    "Identity": _elementwise(tf.identity),
    "LeakyRelu": _leaky_relu,
    "MaxPool": _nhwc_pools.maximum,
    "Mul": _binary(tf.multiply),
    "QuantizeLinear": _quantize_linear,
    "Neg": _elementwise(tf.negative),
    "ReduceMean": _reduction(tf.reduce_mean),
    "ReduceSum": _reduction(tf.reduce_sum),
    "Relu": _elementwise(tf.nn.relu),
    "Reshape": _nhwc_moves.reshape,
    "Resize": _nhwc_moves.resize,
    "Sigmoid": _elementwise(tf.sigmoid),
    "Slice": _nhwc_moves.slice_,
    "Softmax": _softmax,
    "Sub": _binary(tf.subtract),
    "Transpose": _nhwc_moves.transpose,
    "Unsqueeze": _nhwc_moves.unsqueeze,
}
