"""A saved `.mlpackage` as plain values: the operations of its ML program, with the weights they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import ArtifactError, first_line

DTYPES = {
    1: "bool", 2: "string", 10: "fp16", 11: "fp32", 21: "int8", 22: "int16", 23: "int32", 25: "int4", 31: "uint8",
    32: "uint16", 33: "uint32", 35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6", 39: "uint3",
}  # fmt: skip
"""Numbers of `DataType` in Core ML's MIL.proto."""

NUMPY = {
    "bool": np.dtype(bool), "fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32), "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16), "int32": np.dtype(np.int32), "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16), "uint32": np.dtype(np.uint32),
}  # fmt: skip
SUB_BYTE_BITS = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}
IN_BYTES = frozenset({"fp16", "int8", "int16", "uint8", "uint16", "uint32", *SUB_BYTE_BITS})
"""Types of which a literal inside the program is a string of bytes."""

COLOURS = {20: "RGB", 30: "BGR"}
"""Numbers of `ImageFeatureType.ColorSpace` in Core ML's FeatureTypes.proto, those of three channels."""


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """Of a value; an extent that the program leaves open is None."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Literal:
    """A value that the file holds: text, or an array; integers of less than a byte have a byte each."""

    type: TensorType
    value: NDArray[Any] | str


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of a program.

    Attributes:
        type: of the operator, such as `conv`.
        name: its own.
        inputs: parameter -> names of values, or literals; more than one where the parameter is a tuple.
        outputs: name and type of each result.
    """

    type: str
    name: str
    inputs: Mapping[str, tuple[str | Literal, ...]]
    outputs: tuple[tuple[str, TensorType], ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """One function of an ML program.

    Attributes:
        function: its name.
        inputs: name -> type.
        operations: in order.
        outputs: names of the results.
        colours: image-typed input -> "RGB" or "BGR".
    """

    function: str
    inputs: Mapping[str, TensorType]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    colours: Mapping[str, str]


def parse(spec: Any, weights: Path, function: str = "main", *, executable: bool = True) -> Program:
    """Read one function of a model.

    Args:
        spec: `Model` of Core ML's Model.proto, of type mlProgram.
        weights: folder of the weight files that it names.
        function: which.
        executable: whether it must be; otherwise an operation that holds programs of its own is given without them.

    Raises:
        ArtifactError: it holds no such function, a value of a kind that is not known, or names weights that are not
            there.
    """
    found = spec.mlProgram.functions
    if function not in found:
        raise ArtifactError(f"the program has no function '{function}'", hint=f"it has {', '.join(sorted(found))}")
    main, files = found[function], _WeightFiles(weights)
    block = main.block_specializations[main.opset]
    if not block.operations:
        raise ArtifactError(f"function '{function}' has no operations for its operator set {main.opset!r}")
    return Program(
        function=function,
        inputs={i.name: _type(i.type, i.name) for i in main.inputs},
        operations=tuple(_operation(op, files, executable) for op in block.operations),
        outputs=tuple(block.outputs),
        colours=_colours(spec.description, function),
    )


def _colours(description: Any, function: str) -> dict[str, str]:
    own = next((f for f in description.functions if f.name == function), description)
    images = [i for i in own.input if i.type.WhichOneof("Type") == "imageType"]
    for image in images:
        if image.type.imageType.colorSpace not in COLOURS:
            raise ArtifactError(f"image input '{image.name}' is neither RGB nor BGR")
    return {i.name: COLOURS[i.type.imageType.colorSpace] for i in images}


def _operation(op: Any, files: _WeightFiles, executable: bool) -> Operation:
    name = op.attributes["name"].immediateValue.tensor.strings.values[0] if "name" in op.attributes else ""
    name = name or (op.outputs[0].name if op.outputs else "")
    if op.blocks and executable:
        raise ArtifactError(f"operator '{op.type}' ('{name}') holds a program of its own, which is not executed")
    # attributes are inputs that cannot be computed: the value of a const, the tables of an older constexpr
    inputs: dict[str, tuple[str | Literal, ...]] = {
        key: (_literal(value, files, name),) for key, value in op.attributes.items() if key != "name"
    }
    for key, argument in op.inputs.items():
        inputs[key] = tuple(
            b.name if b.WhichOneof("binding") == "name" else _literal(b.value, files, name) for b in argument.arguments
        )
    return Operation(type=op.type, name=name, inputs=inputs, outputs=tuple((o.name, _type(o.type, o.name))
                                                                           for o in op.outputs))  # fmt: skip


def _type(value_type: Any, name: str) -> TensorType:
    kind = value_type.WhichOneof("type")
    if kind != "tensorType":
        raise ArtifactError(f"'{name}' is a {kind.removesuffix('Type')}, not a tensor")
    tensor = value_type.tensorType
    if tensor.dataType not in DTYPES:
        raise ArtifactError(f"'{name}' is of data type {tensor.dataType}, which is not known")
    shape = tuple(int(d.constant.size) if d.WhichOneof("dimension") == "constant" else None for d in tensor.dimensions)
    return TensorType(dtype=DTYPES[tensor.dataType], shape=shape)


def _literal(value: Any, files: _WeightFiles, name: str) -> Literal:
    declared = _type(value.type, name)
    if declared.dtype == "string":
        return Literal(type=declared, value=str(value.immediateValue.tensor.strings.values[0]))
    if value.WhichOneof("value") == "blobFileValue":
        data = files.read(value.blobFileValue, declared.dtype)
    else:
        data = _immediate(value.immediateValue.tensor, declared)
    shape = tuple(d or 0 for d in declared.shape)
    if data.size != int(np.prod(shape)):
        raise ArtifactError(f"the value of '{name}' has {data.size} elements, its type has {int(np.prod(shape))}")
    return Literal(type=declared, value=data.reshape(shape))


def _immediate(tensor: Any, declared: TensorType) -> NDArray[Any]:
    stored = tensor.WhichOneof("value")
    values: Any = getattr(tensor, stored).values if stored else ()
    if declared.dtype not in IN_BYTES:
        return np.array(values, NUMPY[declared.dtype])
    if declared.dtype not in SUB_BYTE_BITS:
        return np.frombuffer(values or b"", NUMPY[declared.dtype])
    return unpacked(values or b"", declared.dtype, int(np.prod([d or 0 for d in declared.shape])))


def unpacked(packed: bytes, dtype: str, count: int) -> NDArray[Any]:
    """Integers of less than a byte, first ones in the lowest bits, as int8 or uint8."""
    width = SUB_BYTE_BITS[dtype]
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")[: count * width].reshape(-1, width)
    values: NDArray[np.uint8] = (bits << np.arange(width, dtype=np.uint8)).sum(axis=1).astype(np.uint8)
    if dtype.startswith("u"):
        return values
    high = 1 << (width - 1)
    signed: NDArray[np.int8] = ((values ^ high).astype(np.int16) - high).astype(np.int8)
    return signed


class _WeightFiles:
    """The files of weights of a package; each is opened when it is first named."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Any] = {}

    def read(self, where: Any, dtype: str) -> NDArray[Any]:
        """The values at an offset, one-dimensional."""
        from coremltools.libmilstoragepython import _BlobStorageReader

        name = where.fileName.replace("\\", "/").rsplit("/", 1)[-1]  # @model_path/weights/weight.bin
        path = self._folder / name
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file, though the program names it")
        kind = {"fp32": "float"}.get(dtype, dtype)
        try:
            reader = self._open.setdefault(name, None) or _BlobStorageReader(str(path))
            self._open[name] = reader
            values = np.asarray(getattr(reader, f"read_{kind}_data")(where.offset))
        # the storage library's exceptions have no common base beneath Exception
        except Exception as error:
            raise ArtifactError(f"{path}: cannot be read at {where.offset}: {first_line(error)}") from error
        return values.view(np.float16) if dtype == "fp16" else values
