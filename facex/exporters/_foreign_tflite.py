"""Any TFLite file: float, half behind a dequantization, or integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import ArtifactError, BackendError, first_line
from facex.exporters import _litert
from facex.exporters._foreign import Convolution, Fed, ForeignFile, Opened, Outputs, along, to_integers
from facex.exporters._quiet import quiet

if TYPE_CHECKING:
    from facex.exporters._foreign import DoubleArray

TO_OIHW = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2)}
"""Operator -> permutation of its weight: [out, height, width, in], and [1, height, width, out]."""

Details = Mapping[str, Any]


def read(path: Path, threads: int) -> ForeignFile:
    """See `ForeignFile`.

    Raises:
        MissingExtraError: no interpreter is installed.
        ArtifactError: it cannot read the file.
    """
    _, interpreter = _litert._interpreter(path, threads)
    inputs = tuple(map(_fed, interpreter.get_input_details()))
    return ForeignFile(
        convolutions=tuple(_convolutions(interpreter)),
        inputs=inputs,
        open=lambda shape: _opened(path, inputs, shape, threads),
        metadata=_litert.as_text(_litert._metadata(path)),
    )


def _grid(tensor: Details) -> tuple[NDArray[Any], NDArray[Any], int] | None:
    """Scales, zero points and their axis, of a quantized tensor."""
    found = tensor["quantization_parameters"]
    if not len(found["scales"]):
        return None
    return found["scales"].astype(np.float64), found["zero_points"], int(found["quantized_dimension"])


def _fed(tensor: Details) -> Fed:
    signature = tensor.get("shape_signature", tensor["shape"])
    dtype, grid = np.dtype(tensor["dtype"]), _grid(tensor)
    quantized = grid is not None and dtype.kind in "iu"
    return Fed(
        name=tensor["name"],
        shape=tuple(max(0, int(d)) for d in signature),
        dtype=dtype.name,
        scale=float(grid[0][0]) if grid and quantized else 0.0,
        zero_point=int(grid[1][0]) if grid and quantized else 0,
    )


def _real(values: NDArray[Any], tensor: Details) -> DoubleArray:
    """The real numbers behind a tensor."""
    grid = _grid(tensor)
    if grid is None or values.dtype.kind not in "iu":
        return values.astype(np.float64)
    scales, zeros, axis = grid
    real: DoubleArray = (values.astype(np.float64) - along(zeros, axis, values.ndim)) * along(scales, axis, values.ndim)
    return real


def _convolutions(interpreter: Any) -> Iterator[Convolution]:
    tensors = {int(t["index"]): t for t in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    makers = {int(i): o for o in operators for i in o["outputs"]}
    given = {int(t["index"]) for t in interpreter.get_input_details()}

    def constant(index: int) -> Details | None:
        while index in makers and makers[index]["op_name"] == "DEQUANTIZE":
            index = int(makers[index]["inputs"][0])
        return None if index < 0 or index in makers or index in given else tensors[index]

    for operator in operators:
        if operator["op_name"] not in TO_OIHW:
            continue
        stored = [constant(int(i)) for i in operator["inputs"][1:3]]
        if stored[0] is None:
            continue
        real = [_real(interpreter.get_tensor(t["index"]), t) if t is not None else None for t in stored]
        weight = np.asarray(real[0]).transpose(TO_OIHW[operator["op_name"]])
        bias = real[1] if len(real) > 1 and real[1] is not None else np.zeros(len(weight))
        dtype = np.dtype(stored[0]["dtype"])
        yield Convolution(
            name=tensors[int(operator["outputs"][0])]["name"],
            weight=weight,
            bias=bias,
            groups=max(1, int(tensors[int(operator["inputs"][0])]["shape"][-1]) // weight.shape[1]),
            stored=dtype.name,
            bits=8 * dtype.itemsize,
        )


def _opened(path: Path, inputs: tuple[Fed, ...], shape: tuple[int, ...], threads: int) -> Opened:
    runtime, interpreter = _litert._interpreter(path, threads)
    (fed,), (place,) = inputs, interpreter.get_input_details()
    try:
        with quiet():
            if tuple(place["shape"]) != shape:
                interpreter.resize_tensor_input(place["index"], shape)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path}: cannot be prepared: {first_line(error)}") from error

    def run(values: NDArray[np.float32]) -> Outputs:
        try:
            interpreter.set_tensor(place["index"], to_integers(values, fed))
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise BackendError(f"{path}: {runtime} cannot run it: {first_line(error)}") from error
        outputs = interpreter.get_output_details()
        return tuple((o["name"], _real(interpreter.get_tensor(o["index"]), o).astype(np.float32)) for o in outputs)

    return Opened(runtime=runtime, run=run)
