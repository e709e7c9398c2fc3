"""Changing an ONNX model in place: constants, convolutions, and nodes in the place of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def convolution(
    model: Any,
    like: Any,
    source: str,
    output: str,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    **attributes: Any,
) -> Any:
    """A convolution with the attributes of another, except those given."""
    from onnx import helper

    inputs = [source, constant(model, f"{output}_weight", weight), constant(model, f"{output}_bias", bias)]
    kept = {a.name: helper.get_attribute_value(a) for a in like.attribute}
    return helper.make_node("Conv", inputs, [output], name=output, **{**kept, **attributes})


def constant(model: Any, name: str, value: NDArray[Any]) -> str:
    """Add or replace an initializer, as float32."""
    from onnx import numpy_helper

    for i, tensor in enumerate(model.graph.initializer):
        if tensor.name == name:
            del model.graph.initializer[i]
            break
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32, order="C"), name))
    return name


def set_constants(model: Any, values: Mapping[str, NDArray[Any]]) -> None:
    """Add or replace initializers, as float32."""
    for name, value in values.items():
        constant(model, name, value)


def replace(model: Any, old: list[Any], new: list[Any]) -> None:
    """Put `new` in the place of the last of `old`; drop shapes, which may have changed, and unread constants."""
    from onnx import NodeProto

    gone = {node.output[0] for node in old}
    kept: list[Any] = []
    for node in model.graph.node:
        if node.output[0] not in gone:
            kept.append(node)
        elif node.output[0] == old[-1].output[0]:
            kept.extend(new)
    copies = []
    for node in kept:  # they are views into the list that is about to be cleared
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)
    read = {name for node in copies for name in node.input}
    unread = [t for t in model.graph.initializer if t.name not in read]
    for tensor in unread:
        model.graph.initializer.remove(tensor)
