"""The operators of the lowering to TensorFlow that make one value of several pixels."""

from __future__ import annotations

import tensorflow as tf

from facex.exporters._nhwc_values import CHANNELS_LAST, Scope, Value, channels_last, refuse
from facex.exporters._nodes import Node


def maximum(node: Node, scope: Scope) -> Value:
    """Beyond the border there is nothing to be the largest, whereas TensorFlow's SAME begins elsewhere.

    Zeros there are as good as nothing where no value is below zero. Elsewhere the border is mirrored: a window that
    reaches j pixels over it holds the j pixels before it as well, so that it sees no value that it does not see anyway.
    """
    x = channels_last(scope.value(node.inputs[0]))
    given = node.attributes
    kernel, strides = list(given["kernel_shape"]), list(given.get("strides", [1, 1]))
    if len(kernel) != 2 or len(node.outputs) > 1:
        raise refuse(node, f"{len(kernel)} axes with {len(node.outputs)} outputs")
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise refuse(node, f"auto_pad {given['auto_pad'].decode()}")
    if given.get("ceil_mode", 0) or any(d != 1 for d in given.get("dilations", [1, 1])):
        raise refuse(node, "ceil_mode or a dilation")
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    if 2 * max(top, bottom) > kernel[0] or 2 * max(left, right) > kernel[1]:
        raise refuse(node, f"padding of more than half of {kernel}")
    if any((top, left, bottom, right)):
        mode = "CONSTANT" if node.inputs[0] in scope.nonnegative else "SYMMETRIC"
        x = tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]], mode=mode)
    return Value(tf.nn.max_pool2d(x, kernel, strides, "VALID"), CHANNELS_LAST)


def mean(node: Node, scope: Scope) -> Value:
    """Of every channel."""
    value = scope.value(node.inputs[0])
    axes = [i for i, axis in enumerate(value.order) if axis > 1]
    return Value(tf.reduce_mean(value.tensor, axis=axes, keepdims=True), value.order)
