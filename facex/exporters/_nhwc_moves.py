"""The operators of the lowering to TensorFlow that move values and change none."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from facex.exporters import _nodes
from facex.exporters._nhwc_values import CHANNELS_LAST, TARGET, Scope, Value, channels_last, refuse
from facex.exporters._nodes import Node


def concat(node: Node, scope: Scope) -> Value:
    """In the axis order of the first activation, so that a constant beside it costs no transpose at run time."""
    operands = [scope.value(name) for name in node.inputs]
    order = next((scope.values[name].order for name in node.inputs if name in scope.values), operands[0].order)
    tensors = [v.tensor if v.order == order else _reordered(v, order) for v in operands]
    return Value(tf.concat(tensors, axis=order.index(node.attributes["axis"] % len(order))), order)


def _reordered(value: Value, order: tuple[int, ...]) -> Any:
    return tf.transpose(value.natural(), order)


def resize(node: Node, scope: Scope) -> Value:
    x = channels_last(scope.value(node.inputs[0]))
    shape = (x.shape[0], x.shape[3], x.shape[1], x.shape[2])
    vertical, horizontal = _nodes.whole_factors(scope.constants, node, shape, TARGET)
    # floor(i / factor) for a whole factor is what TensorFlow's legacy and half-pixel modes agree on
    sides = [int(x.shape[1]) * vertical, int(x.shape[2]) * horizontal]
    return Value(tf.image.resize(x, sides, method="nearest"), CHANNELS_LAST)


def transpose(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    perm = list(node.attributes.get("perm", reversed(range(len(value.order)))))
    return Value(value.tensor, tuple(perm.index(axis) for axis in value.order))


def reshape(node: Node, scope: Scope) -> Value:
    tensor = scope.value(node.inputs[0]).natural()
    if node.attributes.get("allowzero", 0):
        raise refuse(node, "allowzero")
    wanted = [int(s) if s else int(tensor.shape[i]) for i, s in enumerate(scope.constant(node, 1))]
    if -1 in wanted:
        wanted[wanted.index(-1)] = int(np.prod(tensor.shape)) // -int(np.prod(wanted))
    return Value(tf.reshape(tensor, wanted), tuple(range(len(wanted))))


def slice_(node: Node, scope: Scope) -> Value:
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


def gather(node: Node, scope: Scope) -> Value:
    value = scope.value(node.inputs[0])
    index = scope.constant(node, 1)
    if index.ndim:
        raise refuse(node, "a list of indices")
    axis = node.attributes.get("axis", 0) % len(value.order)
    tensor = value.natural()
    position = int(index) % int(tensor.shape[axis])
    cut = tuple(position if i == axis else slice(None) for i in range(len(value.order)))
    return Value(tensor[cut], tuple(range(len(value.order) - 1)))


def unsqueeze(node: Node, scope: Scope) -> Value:
    tensor = scope.value(node.inputs[0]).natural()
    axes = [int(a) for a in scope.constant(node, 1, node.attributes.get("axes"))]
    rank = len(tensor.shape) + len(axes)
    for axis in sorted(a % rank for a in axes):
        tensor = tf.expand_dims(tensor, axis)
    return Value(tensor, tuple(range(rank)))
