"""TFLite files: finishing touches on the flatbuffer, what a file says of itself, and the interpreters that run it."""

from __future__ import annotations

import importlib
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import ArtifactError, MissingExtraError, first_line
from facex.exporters import version
from facex.exporters._quiet import quiet
from facex.types import FileFacts, FloatIsland, TensorInfo

if TYPE_CHECKING:
    from facex.types import FloatArray

RUNTIMES = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
    "tensorflow": "tensorflow.lite.python.interpreter",
}
"""Distribution -> module with `Interpreter`, in the order of preference."""

MAC_OPERATORS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})


def runtime_module() -> tuple[str, Any]:
    """Name with version, and the `Interpreter` class, of the first installed runtime.

    Raises:
        MissingExtraError: none is installed.
    """
    for distribution, module in RUNTIMES.items():
        found = version(distribution)
        if found is not None:
            with quiet():
                return f"{distribution} {found}", importlib.import_module(module).Interpreter
    raise MissingExtraError("ai-edge-litert", extra="tflite", purpose="running a TFLite file")


def _schema() -> ModuleType | None:
    """The generated flatbuffer classes of the TFLite schema, or None where no installed package has them."""
    for distribution, module in (
        ("ai-edge-litert", "ai_edge_litert.schema_py_generated"),
        ("tensorflow", "tensorflow.lite.python.schema_py_generated"),
    ):
        if version(distribution) is not None:
            try:
                with quiet():
                    return importlib.import_module(module)
            except ModuleNotFoundError:  # older ai-edge-litert wheels do not carry it
                continue
    return None


def finish(flatbuffer: bytes, outputs: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """Before: tensors named by the converter. After: `image` and the outputs by name, in order, with a signature.

    Args:
        flatbuffer: a converted model whose outputs are already in the order of `outputs`.
        outputs: their names.
        metadata: stored as metadata entries, and what is of use to tools once more as TFLite Metadata.
    """
    import flatbuffers

    from facex.exporters import _tflite_metadata

    schema = _schema()
    assert schema is not None, "the converter's package carries the schema"
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer, 0))
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [], []
    for names, indices, maps in (
        (["image"], graph.inputs, signature.inputs),
        (outputs, graph.outputs, signature.outputs),
    ):
        for name, index in zip(names, indices, strict=True):
            graph.tensors[index].name = name
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, int(index)
            maps.append(entry)
    model.signatureDefs = [signature]
    model.description = ""  # tools put the converter's before the description of the metadata
    _, height, width, _ = graph.tensors[graph.inputs[0]].shape
    standard = _tflite_metadata.build((int(height), int(width)), outputs, metadata)
    entries = {**{key: value.encode() for key, value in metadata.items()}, _tflite_metadata.ENTRY: standard}
    for key, value in entries.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(value, dtype=np.uint8)
        entry.name, entry.buffer = key, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(flatbuffer) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def describe(path: Path) -> FileFacts:
    """Read a file through an interpreter that never runs it; metadata through the schema where a package has it.

    Raises:
        ArtifactError: no interpreter can read it, or what it reads makes no sense.
    """
    _, interpreter = _interpreter(path, threads=1)
    try:
        return _facts(path, interpreter)
    # what Python's readers meet in a damaged file where the interpreter's own did not look
    except (struct.error, LookupError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: is damaged: {type(error).__name__}: {first_line(error)}") from error


def _facts(path: Path, interpreter: Any) -> FileFacts:
    from facex.exporters import _credits, _integers, _tflite_integers, _tflite_metadata

    tensors = {t["index"]: t for t in interpreter.get_tensor_details()}
    # private, but the only view of the operators that all three runtimes share
    operators = interpreter._get_ops_details()
    total, integer, islands = 0, 0, []
    for operator in operators:
        if operator["op_name"] not in MAC_OPERATORS:
            continue
        macs, is_integer = _macs(operator, tensors)
        total += macs
        if is_integer:
            integer += macs
        else:
            islands.append(
                FloatIsland(name=tensors[operator["outputs"][0]]["name"], operator=operator["op_name"], macs=macs)
            )
    entries = _metadata(path)
    metadata = as_text(entries)
    # the converter renames what it converts, so of the operators left in float on purpose only the number is known here
    unasked = max(0, len(islands) - len(_integers.asked_floats(metadata)))
    return FileFacts(
        inputs=tuple(map(_tensor, interpreter.get_input_details())),
        outputs=tuple(map(_tensor, interpreter.get_output_details())),
        operators=dict(sorted(Counter(o["op_name"] for o in operators).items())),
        macs=total,
        integer_macs=integer,
        float_islands=tuple(islands) if integer else (),
        minimum_runtime=f"TFLite {metadata.pop('min_runtime_version', 'unknown')}",
        metadata={key: value for key, value in metadata.items() if key.startswith("facex.")},
        quantization=_tflite_integers.facts(interpreter, operators, tensors, unasked),
        credits=_credits.read(metadata),
        standard_metadata=_tflite_metadata.read(entries.get(_tflite_metadata.ENTRY, b"")),
    )


def _tensor(details: Mapping[str, Any]) -> TensorInfo:
    return TensorInfo(
        name=details["name"], shape=tuple(int(d) for d in details["shape"]), dtype=np.dtype(details["dtype"]).name
    )


def _macs(operator: Mapping[str, Any], tensors: Mapping[int, Mapping[str, Any]]) -> tuple[int, bool]:
    """Multiply-accumulates of one operator, and whether data and weight are integers."""
    kind = operator["op_name"]
    # a transposed convolution is told its output's shape first
    data, weight = (
        tensors[i] for i in (operator["inputs"][2:0:-1] if kind == "TRANSPOSE_CONV" else operator["inputs"][:2])
    )
    output = tensors[operator["outputs"][0]]
    shape = [int(d) for d in weight["shape"]]
    macs = {
        "CONV_2D": lambda: int(np.prod(output["shape"])) * int(np.prod(shape[1:])),
        "DEPTHWISE_CONV_2D": lambda: int(np.prod(output["shape"])) * int(np.prod(shape[1:3])),
        "FULLY_CONNECTED": lambda: int(np.prod(output["shape"])) * shape[-1],
        "TRANSPOSE_CONV": lambda: int(np.prod(data["shape"])) * int(np.prod(shape[:3])),
    }[kind]()
    is_integer = all(np.issubdtype(t["dtype"], np.integer) for t in (data, weight, output))
    return macs, is_integer


def _metadata(path: Path) -> dict[str, bytes]:
    schema = _schema()
    if schema is None:
        return {}
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    found = {}
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        buffer = model.Buffers(entry.Buffer())
        data = b"" if buffer.DataLength() == 0 else buffer.DataAsNumpy().tobytes()
        found[(entry.Name() or b"").decode()] = data
    return found


def as_text(entries: Mapping[str, bytes]) -> dict[str, str]:
    """Metadata entries, all of them read as text."""
    return {key: data.rstrip(b"\0").decode("utf-8", "replace") for key, data in entries.items()}


def _interpreter(path: Path, threads: int) -> tuple[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    name, interpreter_class = runtime_module()
    if path.read_bytes()[4:8] != b"TFL3":
        raise ArtifactError(f"{path}: is not a TFLite file (its identifier is missing)")
    try:
        with quiet():
            return name, interpreter_class(model_path=str(path), num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path}: {name} cannot read it: {first_line(error)}") from error


class LiteRTSession:
    """A TFLite file in an interpreter on the CPU; see `facex.types.Session`."""

    untimed = ""

    def __init__(self, path: Path, threads: int) -> None:
        self.runtime, self._interpreter = _interpreter(path, threads)
        try:
            with quiet():
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"{path}: cannot be prepared: {first_line(error)}") from error
        inputs = self._interpreter.get_input_details()
        if len(inputs) != 1:
            raise ArtifactError(f"{path}: has {len(inputs)} inputs, a detector has one")
        (self._input,) = inputs
        self._outputs = self._interpreter.get_output_details()

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """Run once on uint8 [1, H, W, 3]."""
        image = inputs["image"].astype(self._input["dtype"], copy=False)
        self._interpreter.set_tensor(self._input["index"], image)
        self._interpreter.invoke()
        return {o["name"]: self._interpreter.get_tensor(o["index"]) for o in self._outputs}

    def invoke(self) -> None:
        """Run again on the last input."""
        self._interpreter.invoke()
