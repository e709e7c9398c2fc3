"""Any ONNX file: float, half, QDQ or integer operators, batch norms folded or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.calibration.graph import Graph, attribute
from facex.errors import ArtifactError, BackendError, first_line
from facex.exporters._foreign import Convolution, Fed, ForeignFile, Opened, Outputs, along, to_integers

if TYPE_CHECKING:
    from facex.exporters._foreign import DoubleArray

SAME_VALUES = frozenset({"Identity", "Cast"})
USUAL_EPSILON = 1e-5
"""Of a batch norm that does not state it (ONNX, BatchNormalization)."""


def read(path: Path, threads: int) -> ForeignFile:
    """See `ForeignFile`.

    Raises:
        ArtifactError: it is not an ONNX model that onnx's checker accepts.
    """
    import onnx

    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    # onnx raises its own errors and those of protobuf for whatever a damaged file holds
    except Exception as error:
        raise ArtifactError(f"{path}: is not an ONNX model: {first_line(error)}") from error
    constants = {t.name for t in model.graph.initializer}
    inputs = tuple(_fed(i) for i in model.graph.input if i.name not in constants)
    return ForeignFile(
        convolutions=tuple(_convolutions(Graph(model))),
        inputs=inputs,
        open=lambda _: _opened(path, inputs, threads),
        metadata={p.key: p.value for p in model.metadata_props},
    )


def _fed(value: Any) -> Fed:
    import onnx

    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return Fed(name=value.name, shape=tuple(max(0, d.dim_value) for d in tensor.shape.dim), dtype=dtype.name)


def _opened(path: Path, inputs: tuple[Fed, ...], threads: int) -> Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # onnxruntime's exceptions share no base class beneath Exception
    except Exception as error:
        raise ArtifactError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from error
    (fed,) = inputs
    names = [o.name for o in session.get_outputs()]

    def run(values: NDArray[np.float32]) -> Outputs:
        try:
            found = session.run(None, {fed.name: to_integers(values, fed)})
            return tuple((n, np.asarray(v, np.float32)) for n, v in zip(names, found, strict=True))
        # onnxruntime's own again, or an output that is no array of numbers
        except Exception as error:
            raise BackendError(f"{path}: onnxruntime cannot run it: {first_line(error)}") from error

    return Opened(runtime=f"onnxruntime {onnxruntime.__version__}", run=run)


def _convolutions(graph: Graph) -> Iterator[Convolution]:
    for node in graph.nodes:
        if node.op_type in ("Conv", "ConvInteger"):
            names = node.input[1], node.input[2] if node.op_type == "Conv" and len(node.input) > 2 else ""
            weight, bias = (_value(graph, name) for name in names)
            if weight is not None and node.op_type == "ConvInteger" and len(node.input) > 3:
                zero = _value(graph, node.input[3])
                weight = None if zero is None else weight - along(zero, 0, weight.ndim)
        elif node.op_type == "QLinearConv":
            weight, bias = _integer(graph, node)
        else:
            continue
        if weight is None or weight.ndim != 4:
            continue
        bias = np.zeros(len(weight)) if bias is None else bias
        weight, bias = _normalized(graph, node, weight, bias)
        stored = _stored(graph, node.input[3 if node.op_type == "QLinearConv" else 1])
        yield Convolution(
            name=node.name or node.output[0],
            weight=weight,
            bias=bias,
            groups=int(attribute(node, "group", 1)),
            stored=stored.name,
            bits=8 * stored.itemsize,
        )


def _value(graph: Graph, name: str) -> DoubleArray | None:
    """A constant through what is done to it before it is used; None where it is computed, or left out."""
    if not name:
        return None
    if name in graph.constants:
        return np.asarray(graph.constants[name], np.float64)
    node = graph.producer.get(name)
    if node is None:
        return None
    source = _value(graph, node.input[0])
    if source is None or node.op_type in SAME_VALUES:
        return source
    if node.op_type == "Transpose":
        return np.transpose(source, attribute(node, "perm", None))
    if node.op_type == "Reshape" and node.input[1] in graph.constants:
        return np.reshape(source, tuple(map(int, graph.constants[node.input[1]])))
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return _through(graph, node, source)
    return None


def _through(graph: Graph, node: Any, source: DoubleArray) -> DoubleArray | None:
    """Rounded to integers by a QuantizeLinear, or back to real numbers by a DequantizeLinear."""
    scale = _value(graph, node.input[1])
    if scale is None:
        return None
    zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
    axis = int(attribute(node, "axis", 1))
    step: DoubleArray = along(scale, axis, source.ndim)
    offset: DoubleArray = along(np.asarray(0 if zero is None else zero, np.float64), axis, source.ndim)
    if node.op_type == "DequantizeLinear":
        real: DoubleArray = (source - offset) * step
        return real
    limits = np.iinfo(np.uint8 if zero is None else zero.dtype)
    integers: DoubleArray = np.clip(np.rint(source / step) + offset, limits.min, limits.max)
    return integers


def _integer(graph: Graph, node: Any) -> tuple[DoubleArray | None, DoubleArray | None]:
    """Weight and bias of a QLinearConv, whose bias counts in steps of input times weight."""
    weight, given, step, zero = (_value(graph, node.input[i]) for i in (3, 1, 4, 5))
    bias = _value(graph, node.input[8]) if len(node.input) > 8 else None
    if weight is None or given is None or step is None or zero is None:
        return None, None
    real = (weight - along(zero, 0, weight.ndim)) * along(step, 0, weight.ndim)
    return real, None if bias is None else bias * given * step


def _normalized(graph: Graph, node: Any, weight: DoubleArray, bias: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """With the batch norm that alone follows: y = (x - mean) * gain / sqrt(variance + epsilon) + shift."""
    after = graph.only_consumer(node.output[0])
    if after is None or after.op_type != "BatchNormalization":
        return weight, bias
    gain, shift, mean, variance = (_value(graph, name) for name in after.input[1:5])
    if gain is None or shift is None or mean is None or variance is None:
        return weight, bias
    factor = gain / np.sqrt(variance + float(attribute(after, "epsilon", USUAL_EPSILON)))
    return weight * factor[:, None, None, None], (bias - mean) * factor + shift


def _stored(graph: Graph, name: str) -> np.dtype[Any]:
    while name not in graph.constants:
        name = graph.producer[name].input[0]
    return graph.constants[name].dtype
