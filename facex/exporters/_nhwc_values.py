"""What the lowering to TensorFlow works with: tensors that know the order of their axes, and where they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from facex.errors import UnsupportedOperatorError
from facex.exporters import _nodes
from facex.exporters._nodes import Node

TARGET = "TFLite"
CHANNELS_LAST = (0, 2, 3, 1)


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

    `dequantized` are the results of DequantizeLinear; `islands` what float convolutions make of them; `nonnegative`
    what is known never to be below zero.
    """

    def __init__(self, constants: dict[str, np.ndarray]) -> None:
        self.constants = constants
        self.values: dict[str, Value] = {}
        self.grids: dict[str, tuple[float, int]] = {}
        self.dequantized: set[str] = set()
        self.islands: set[str] = set()
        self.nonnegative: set[str] = set()

    def value(self, name: str) -> Value:
        """An activation, or a constant lifted to one."""
        if name in self.values:
            return self.values[name]
        constant = self.constants[name]
        return Value(tf.constant(constant), tuple(range(constant.ndim)))

    def constant(self, node: Node, index: int, default: Any = None) -> Any:
        """The constant behind an input; an operator cannot be lowered when it is computed at run time."""
        return _nodes.constant(self.constants, node, index, default)


def refuse(node: Node, what: str) -> UnsupportedOperatorError:
    return _nodes.refusal(node, what, TARGET)


def channels_last(value: Value) -> Any:
    if value.order == CHANNELS_LAST:
        return value.tensor
    return tf.transpose(value.natural(), CHANNELS_LAST)
