"""Lower an ONNX graph to an ML program, operator by operator; both keep channels before rows and columns.

`OPERATORS` is the table: one small function each. It exists for what the network in torch does not hold: the grids and
the learned weights of a quantization plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from coremltools.converters.mil import Builder as mb  # noqa: N813  (its name everywhere)
from numpy.typing import NDArray

from facex.errors import UnsupportedOperatorError
from facex.exporters import _nodes
from facex.exporters._nodes import Node

TARGET = "Core ML"


class Scope:
    """Computed values and constants by ONNX name, while a graph is being lowered."""

    def __init__(self, constants: Mapping[str, NDArray[Any]]) -> None:
        self.constants = dict(constants)
        self.values: dict[str, Any] = {}

    def operand(self, name: str) -> Any:
        """A computed value or a constant, as the builder takes them."""
        return self.values[name] if name in self.values else self.constants[name]

    def constant(self, node: Node, index: int, default: Any = None) -> Any:
        """See `_nodes.constant`."""
        return _nodes.constant(self.constants, node, index, default)


def lower(model: onnx.ModelProto, opset: Any) -> Any:
    """An ML program with the same input, outputs and names.

    Args:
        model: one input called `image`; all shapes static. Weights behind a DequantizeLinear become floats.
        opset: of coremltools' targets, that the program is written for; iOS17 or newer where activations have grids.

    Raises:
        UnsupportedOperatorError: for every operator outside the table, naming each with its place.
    """
    nodes, given = _nodes.nodes(model, OPERATORS, TARGET), model.graph.input[0]
    scope = Scope(_nodes.constants(model))

    def program(image: Any) -> Any:  # the argument names the program's input
        scope.values[given.name] = image
        for node in nodes:
            result = OPERATORS[node.operator](node, scope)
            if result is not None:
                scope.values[node.outputs[0]] = result
        return [scope.values[o.name] for o in model.graph.output]

    shape = tuple(d.dim_value for d in given.type.tensor_type.shape.dim)
    return mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=opset)(program)


def float_convolutions(model: onnx.ModelProto) -> frozenset[str]:
    """Names in the program of the convolutions whose weights are no integers in the model."""
    nodes = _nodes.nodes(model, OPERATORS, TARGET)
    integer = {n.outputs[0] for n in nodes if n.operator == "DequantizeLinear"}
    return frozenset(_called(n) for n in nodes if n.operator == "Conv" and n.inputs[1] not in integer)


def _refuse(node: Node, what: str) -> UnsupportedOperatorError:
    return _nodes.refusal(node, what, TARGET)


def _called(node: Node) -> str:
    """A name that an ML program may have: coremltools would change others without saying how."""
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in node.outputs[0].lstrip("/"))


def _conv(node: Node, scope: Scope) -> Any:
    weight, bias = scope.constant(node, 1), scope.constant(node, 2)
    if weight.ndim != 4:
        raise _refuse(node, f"a {weight.ndim - 2}-D convolution")
    attributes = node.attributes
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _refuse(node, f"auto_pad {attributes['auto_pad'].decode()}")
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    pads = {"pad_type": "custom", "pad": [top, bottom, left, right]} if any((top, left, bottom, right)) else {
        "pad_type": "valid"
    }  # fmt: skip
    return mb.conv(
        x=scope.operand(node.inputs[0]), weight=weight, **pads, name=_called(node),
        **({} if bias is None else {"bias": bias}), strides=list(attributes.get("strides", [1, 1])),
        dilations=list(attributes.get("dilations", [1, 1])), groups=attributes.get("group", 1),
    )  # fmt: skip


def _elementwise(function: str) -> Callable[[Node, Scope], Any]:
    def operator(node: Node, scope: Scope) -> Any:
        return getattr(mb, function)(x=scope.operand(node.inputs[0]), name=_called(node))

    return operator


def _binary(function: str) -> Callable[[Node, Scope], Any]:
    def operator(node: Node, scope: Scope) -> Any:
        x, y = map(scope.operand, node.inputs)
        return getattr(mb, function)(x=x, y=y, name=_called(node))

    return operator


def _leaky_relu(node: Node, scope: Scope) -> Any:
    slope = float(node.attributes.get("alpha", 0.01))
    return mb.leaky_relu(x=scope.operand(node.inputs[0]), alpha=slope, name=_called(node))


def _neg(node: Node, scope: Scope) -> Any:
    return mb.mul(x=scope.operand(node.inputs[0]), y=np.float32(-1), name=_called(node))


def _softmax(node: Node, scope: Scope) -> Any:
    return mb.softmax(x=scope.operand(node.inputs[0]), axis=node.attributes.get("axis", -1), name=_called(node))


def _concat(node: Node, scope: Scope) -> Any:
    return mb.concat(
        values=[scope.operand(name) for name in node.inputs], axis=node.attributes["axis"], name=_called(node)
    )


def _resize(node: Node, scope: Scope) -> Any:
    x = scope.operand(node.inputs[0])
    vertical, horizontal = _nodes.whole_factors(scope.constants, node, x.shape, TARGET)
    return mb.upsample_nearest_neighbor(
        x=x, scale_factor_height=vertical, scale_factor_width=horizontal, name=_called(node)
    )


def _transpose(node: Node, scope: Scope) -> Any:
    x = scope.operand(node.inputs[0])
    order = list(node.attributes.get("perm", reversed(range(len(x.shape)))))
    return mb.transpose(x=x, perm=order, name=_called(node))


def _reshape(node: Node, scope: Scope) -> Any:
    x = scope.operand(node.inputs[0])
    if node.attributes.get("allowzero", 0):
        raise _refuse(node, "allowzero")
    wanted = [int(s) if s else int(x.shape[i]) for i, s in enumerate(scope.constant(node, 1))]
    return mb.reshape(x=x, shape=wanted, name=_called(node))


def _slice(node: Node, scope: Scope) -> Any:
    x = scope.operand(node.inputs[0])
    starts, ends = scope.constant(node, 1), scope.constant(node, 2)
    axes = scope.constant(node, 3, np.arange(len(starts)))
    steps = scope.constant(node, 4, np.ones_like(starts))
    begin, end, stride = [0] * len(x.shape), [int(side) for side in x.shape], [1] * len(x.shape)
    for first, last, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = int(axis) % len(x.shape)
        begin[at], end[at], stride[at] = slice(int(first), int(last), int(step)).indices(int(x.shape[at]))
    # -1 is "before the first" to `indices`, and "the last" to an ML program
    open_end = [side < 0 for side in end]
    return mb.slice_by_index(x=x, begin=begin, end=end, stride=stride, end_mask=open_end, name=_called(node))


def _gather(node: Node, scope: Scope) -> Any:
    x, index = scope.operand(node.inputs[0]), scope.constant(node, 1)
    if index.ndim:
        raise _refuse(node, "a list of indices")
    axis = node.attributes.get("axis", 0) % len(x.shape)
    begin, end = [0] * len(x.shape), [int(side) for side in x.shape]
    begin[axis] = int(index) % end[axis]
    end[axis] = begin[axis] + 1
    cut = [i == axis for i in range(len(x.shape))]
    return mb.slice_by_index(x=x, begin=begin, end=end, squeeze_mask=cut, name=_called(node))


def _unsqueeze(node: Node, scope: Scope) -> Any:
    axes = [int(a) for a in scope.constant(node, 1, node.attributes.get("axes"))]
    return mb.expand_dims(x=scope.operand(node.inputs[0]), axes=axes, name=_called(node))


def _reduction(function: str) -> Callable[[Node, Scope], Any]:
    def operator(node: Node, scope: Scope) -> Any:
        x, axes = scope.operand(node.inputs[0]), scope.constant(node, 1, node.attributes.get("axes"))
        if axes is None or not len(axes):
            if node.attributes.get("noop_with_empty_axes", 0):
                return x
            axes = range(len(x.shape))
        keep = bool(node.attributes.get("keepdims", 1))
        return getattr(mb, function)(x=x, axes=[int(a) for a in axes], keep_dims=keep, name=_called(node))

    return operator


def _mean_of_channels(node: Node, scope: Scope) -> Any:
    x = scope.operand(node.inputs[0])
    return mb.reduce_mean(x=x, axes=list(range(2, len(x.shape))), keep_dims=True, name=_called(node))


def _max_pool(node: Node, scope: Scope) -> Any:
    """Both leave out of a window what lies beyond the border."""
    given = node.attributes
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _refuse(node, f"auto_pad {given['auto_pad'].decode()}")
    if given.get("ceil_mode", 0) or any(d != 1 for d in given.get("dilations", [1, 1])) or len(node.outputs) > 1:
        raise _refuse(node, "ceil_mode, a dilation or a second output")
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    return mb.max_pool(
        x=scope.operand(node.inputs[0]), kernel_sizes=list(given["kernel_shape"]),
        strides=list(given.get("strides", [1, 1])), pad_type="custom", pad=[top, bottom, left, right],
        name=_called(node),
    )  # fmt: skip


def _clip(node: Node, scope: Scope) -> Any:
    x, (low, high) = scope.operand(node.inputs[0]), _nodes.bounds(scope.constants, node)
    if low == 0 and high in (6, np.inf):
        return getattr(mb, "relu6" if high == 6 else "relu")(x=x, name=_called(node))
    alpha, beta = np.nan_to_num(np.array([low, high], np.float32))  # infinity becomes the largest number
    return mb.clip(x=x, alpha=alpha, beta=beta, name=_called(node))


def _hard_sigmoid(node: Node, scope: Scope) -> Any:
    alpha, beta = (np.float32(node.attributes.get(k, default)) for k, default in (("alpha", 0.2), ("beta", 0.5)))
    return mb.sigmoid_hard(x=scope.operand(node.inputs[0]), alpha=alpha, beta=beta, name=_called(node))


def _hard_swish(node: Node, scope: Scope) -> Any:
    x = scope.operand(node.inputs[0])
    gate = mb.sigmoid_hard(x=x, alpha=np.float32(1 / 6), beta=np.float32(0.5), name=f"{_called(node)}_gate")
    return mb.mul(x=x, y=gate, name=_called(node))


def _constant(node: Node, scope: Scope) -> None:
    if "value" not in node.attributes:
        raise _refuse(node, f"attributes {sorted(node.attributes)}")
    scope.constants[node.outputs[0]] = onnx.numpy_helper.to_array(node.attributes["value"])


def _quantize_linear(node: Node, scope: Scope) -> Any:
    x, (scale, zero) = scope.operand(node.inputs[0]), _grid(node, scope)
    return mb.quantize(input=x, scale=scale, zero_point=zero, output_dtype=str(zero.dtype), name=_called(node))


def _dequantize_linear(node: Node, scope: Scope) -> Any:
    if node.inputs[0] not in scope.values:
        scope.constants[node.outputs[0]] = _nodes.dequantized(scope.constants, node)
        return None
    scale, zero = _grid(node, scope)
    return mb.dequantize(input=scope.operand(node.inputs[0]), scale=scale, zero_point=zero, name=_called(node))


def _grid(node: Node, scope: Scope) -> tuple[np.float32, Any]:
    scale, zero = scope.constant(node, 1), scope.constant(node, 2, np.uint8(0))
    if scale.ndim or zero.dtype not in (np.int8, np.uint8):
        raise _refuse(node, "anything but one 8-bit scale for an activation")
    return np.float32(scale), zero[()]


OPERATORS: dict[str, Callable[[Node, Scope], Any]] = {
    "Add": _binary("add"),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "DequantizeLinear": _dequantize_linear,
    "Exp": _elementwise("exp"),
    "Gather": _gather,
    "GlobalAveragePool": _mean_of_channels,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _elementwise("identity"),
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "Mul": _binary("mul"),
    "Neg": _neg,
    "QuantizeLinear": _quantize_linear,
    "ReduceMean": _reduction("reduce_mean"),
    "ReduceSum": _reduction("reduce_sum"),
    "Relu": _elementwise("relu"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _elementwise("sigmoid"),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sub": _binary("sub"),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
