"""Half precision for the trunk of an ONNX graph.

Before: float32 throughout. After: image -> Cast(float16) -> trunk in float16 -> Cast(float32) at every tensor that the
head reads. The head keeps float32 because float16 steps by 0.5 px between 512 and 1024.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facex.calibration.graph import Graph

CONFIGURATION_INPUTS = {"Resize": (1, 2, 3), "Reshape": (1,), "Slice": (1, 2, 3, 4), "Pad": (1,)}
"""Inputs that configure an operator and keep their type."""


def convert(source: Path, path: Path) -> None:
    """Write the half-precision form of the float32 model at `source`."""
    model = onnx.load(str(source))
    graph = Graph(model)
    given = {i.name for i in model.graph.input}
    halves: dict[str, Any] = {}
    nodes: list[Any] = [_cast(name, f"{name}_half", TensorProto.FLOAT16) for name in sorted(given)]
    cast_back: set[str] = set()
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.output[0] in graph.trunk_tensors:
            _halve(copy, graph, given, halves)
        else:
            for i, name in enumerate(node.input):
                if name not in graph.trunk_tensors:
                    continue
                if name not in cast_back:
                    nodes.append(_cast(name, f"{name}_float", TensorProto.FLOAT))
                    cast_back.add(name)
                copy.input[i] = f"{name}_float"
        nodes.append(copy)
    _replace(model, nodes, halves)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _cast(name: str, output: str, to: int) -> Any:
    return helper.make_node("Cast", [name], [output], name=f"{output}/Cast", to=to)


def _halve(node: Any, graph: Graph, given: set[str], halves: dict[str, Any]) -> None:
    kept = CONFIGURATION_INPUTS.get(node.op_type, ())
    for i, name in enumerate(node.input):
        if name in given:
            node.input[i] = f"{name}_half"
        elif i not in kept and name in graph.constants and graph.constants[name].dtype == np.float32:
            halves[f"{name}_half"] = graph.constants[name].astype(np.float16)
            node.input[i] = f"{name}_half"


def _replace(model: Any, nodes: list[Any], added: dict[str, Any]) -> None:
    used = {name for node in nodes for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*kept, *(numpy_helper.from_array(v, n) for n, v in added.items())])
