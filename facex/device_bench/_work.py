"""What a file asks of a processor: multiply-accumulates by kind, elements read and written, operators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facex.errors import ArtifactError, MissingExtraError, first_line

JOINED = frozenset({"RELU", "RELU6", "LEAKY_RELU", "PRELU", "HARD_SWISH", "LOGISTIC", "TANH", "PAD"})
"""Operators that ncnn makes part of a convolution: activations and padding."""

FREE = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE", "DELEGATE"})
"""Operators that move nothing."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of one inference, in millions except for `operators`; None where it is not known.

    Attributes:
        mmacs: multiply-accumulates of convolutions and matrix products.
        conv_mmacs: those of convolutions larger than 1x1, and of matrix products.
        pointwise_mmacs: those of 1x1 convolutions.
        depthwise_mmacs: those of convolutions of every channel by itself.
        melements: elements of activations that operators read and write.
        operators: how many compute or move something.
    """

    mmacs: float
    conv_mmacs: float | None = None
    pointwise_mmacs: float | None = None
    depthwise_mmacs: float | None = None
    melements: float | None = None
    operators: int | None = None


def of_tflite(model: Path | bytes, *, joined: bool = False) -> Work:
    """The work of a TFLite file.

    Args:
        model: a path, or the file itself.
        joined: whether activations and padding are part of convolutions.

    Raises:
        ArtifactError: it cannot be read.
    """
    interpreter = opened(model)
    tensors = {int(t["index"]): t for t in interpreter.get_tensor_details()}
    variable = _variable(interpreter)
    macs = {"conv": 0.0, "pointwise": 0.0, "depthwise": 0.0}
    elements = operators = 0
    for operator in interpreter._get_ops_details():  # private, but the only view of the operators
        name = operator["op_name"]
        inputs = [i for i in map(int, operator["inputs"]) if i in variable]
        if name in FREE or not inputs or (joined and name in JOINED):
            continue
        kind, count = _macs(name, operator, tensors)
        if kind:
            macs[kind] += count
        operators += 1
        touched = [*inputs, *map(int, operator["outputs"])]
        elements += sum(math.prod(map(int, tensors[i]["shape"])) for i in touched)
    return Work(
        mmacs=sum(macs.values()) / 1e6,
        conv_mmacs=macs["conv"] / 1e6,
        pointwise_mmacs=macs["pointwise"] / 1e6,
        depthwise_mmacs=macs["depthwise"] / 1e6,
        melements=elements / 1e6,
        operators=operators,
    )


def opened(model: Path | bytes, *, threads: int = 1) -> Any:
    """A LiteRT interpreter, not yet allocated.

    Raises:
        ArtifactError: it cannot read the file.
        MissingExtraError: LiteRT is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise MissingExtraError("ai-edge-litert", extra="tflite", purpose="an estimate of a TFLite file") from error
    given = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
    try:
        return Interpreter(**given, num_threads=threads)
    except (ValueError, RuntimeError) as error:
        name = model if isinstance(model, Path) else "a network of facex"
        raise ArtifactError(f"{name}: LiteRT cannot read it: {first_line(error)}") from error


def _variable(interpreter: Any) -> set[int]:
    """Tensors that depend on the input."""
    found = {int(given["index"]) for given in interpreter.get_input_details()}
    for operator in interpreter._get_ops_details():
        if found.intersection(map(int, operator["inputs"])):
            found.update(map(int, operator["outputs"]))
    return found


def _macs(name: str, operator: Any, tensors: dict[int, Any]) -> tuple[str, float]:
    """The kind of multiply-accumulates of an operator, empty where it has none, and how many."""
    if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return "", 0.0
    weight = [int(d) for d in tensors[int(operator["inputs"][1])]["shape"]]
    outputs = float(math.prod(map(int, tensors[int(operator["outputs"][0])]["shape"])))
    if name == "DEPTHWISE_CONV_2D":
        return "depthwise", outputs * weight[1] * weight[2]
    kind = "pointwise" if name == "CONV_2D" and weight[1:3] == [1, 1] else "conv"
    return kind, outputs * math.prod(weight[1:])
