"""ONNX: the pivot itself, in float32, half precision, or with its quantization plan (QDQ)."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import ArtifactError, first_line
from facex.types import FileFacts, FloatIsland, Precision, Profile, TargetInfo, TensorInfo

if TYPE_CHECKING:
    from facex.exporters import Job
    from facex.exporters._foreign import ForeignFile
    from facex.types import FloatArray

INFO = TargetInfo(
    name="onnx",
    suffix=".onnx",
    precisions=(Precision.FP32, Precision.FP16, Precision.W8A8),
    int8=Precision.W8A8,
    extra="",
    packages=("onnx", "onnxsim", "onnxruntime"),
    runtimes=("onnxruntime",),
    channels_last=False,
    image_dtype="float32",
)

# First onnxruntime that implements an opset: the compatibility table of onnxruntime's documentation.
FIRST_ONNXRUNTIME = {
    13: "1.7",
    14: "1.8",
    15: "1.10",
    16: "1.11",
    17: "1.12",
    18: "1.14",
    19: "1.15",
    20: "1.17",
    21: "1.18",
}


def export(job: Job) -> None:
    """Write the job's precision of the pivot."""
    if job.precision is Precision.FP16:
        from facex.exporters import _half

        _half.convert(job.pivot, job.path)
    else:
        source = job.qdq if job.precision is Precision.W8A8 else job.pivot
        assert source is not None
        shutil.copyfile(source, job.path)
    if job.selection:
        from facex.exporters import _detections_onnx

        _detections_onnx.append(job.path, job.selection)


def describe(path: Path) -> FileFacts:
    """Read a model with onnx.

    Raises:
        ArtifactError: it is not an ONNX model that onnx's checker accepts.
    """
    import onnx

    from facex.calibration.graph import Graph
    from facex.exporters import _credits, _integers, _qdq

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    # onnx raises its own errors and those of protobuf for whatever a damaged file holds
    except Exception as error:
        raise ArtifactError(f"{path}: is not an ONNX model: {first_line(error)}") from error
    graph = Graph(model)
    shapes = _shapes(onnx.shape_inference.infer_shapes(model))
    metadata = {p.key: p.value for p in model.metadata_props}
    asked = set(_integers.asked_floats(metadata))
    total, integer, unasked, islands = 0, 0, 0, []
    for node in graph.nodes:
        macs = _macs(node, graph, shapes)
        total += macs
        if macs and _is_integer(node, graph):
            integer += macs
        elif macs:
            islands.append(FloatIsland(name=node.name, operator=node.op_type, macs=macs))
            unasked += node.output[0] not in asked
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    constants = {t.name for t in model.graph.initializer}
    return FileFacts(
        inputs=tuple(_tensor(i) for i in model.graph.input if i.name not in constants),
        outputs=tuple(_tensor(o) for o in model.graph.output),
        operators=dict(sorted(Counter(n.op_type for n in graph.nodes).items())),
        macs=total,
        integer_macs=integer,
        float_islands=tuple(islands) if integer else (),
        minimum_runtime=f"onnxruntime {FIRST_ONNXRUNTIME.get(opset, 'unknown')} (opset {opset})",
        metadata={key: value for key, value in metadata.items() if key not in _credits.KEYS.values()},
        quantization=_qdq.facts(graph, unasked),
        credits=_credits.read(metadata),
    )


def _tensor(value: Any) -> TensorInfo:
    import onnx

    tensor = value.type.tensor_type
    return TensorInfo(
        name=value.name,
        shape=tuple(d.dim_value for d in tensor.shape.dim),
        dtype=str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
    )


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    values = [*model.graph.value_info, *model.graph.output, *model.graph.input]
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}


def _macs(node: Any, graph: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    from facex.calibration.graph import MAC_OPERATORS, macs

    if node.op_type not in MAC_OPERATORS:
        return 0
    data, weight = (_before_dequantization(name, graph) for name in node.input[:2])
    unknown = (0,)  # a size that the file leaves open counts nothing

    def shape(name: str) -> tuple[int, ...]:
        return graph.constants[name].shape if name in graph.constants else shapes.get(name, unknown)

    return macs(node, shape(data), shape(weight), shapes.get(node.output[0], unknown))


def _before_dequantization(name: str, graph: Any) -> str:
    source = graph.producer.get(name)
    return source.input[0] if source is not None and source.op_type == "DequantizeLinear" else name


def _is_integer(node: Any, graph: Any) -> bool:
    """Onnxruntime fuses a convolution to integers when data and weight both come from a DequantizeLinear."""
    sources = [graph.producer.get(name) for name in node.input[:2]]
    return all(s is not None and s.op_type == "DequantizeLinear" for s in sources)


class OnnxSession:
    """An ONNX file in onnxruntime on the CPU; see `facex.types.Session`."""

    untimed = ""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        try:
            self._session = onnxruntime.InferenceSession(
                str(path), session_options(threads), providers=["CPUExecutionProvider"]
            )
        # onnxruntime's exceptions share no base class beneath Exception
        except Exception as error:
            raise ArtifactError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from error
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._names = [o.name for o in self._session.get_outputs()]
        self._feed: dict[str, NDArray[Any]] = {}

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """Run once on uint8 [1, H, W, 3]."""
        self._feed = {"image": np.ascontiguousarray(inputs["image"].transpose(0, 3, 1, 2), dtype=np.float32)}
        return dict(zip(self._names, self._session.run(None, self._feed), strict=True))

    def invoke(self) -> None:
        """Run again on the last input."""
        self._session.run(None, self._feed)


def session_options(threads: int) -> Any:
    """How onnxruntime runs every file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # idle threads that spin would slow down whatever runs next to it: the reference, other artifacts being timed
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def profile(path: Path, image: NDArray[np.uint8], *, threads: int, warmup: int, runs: int) -> Profile:
    """See `facex.exporters._onnx_profile.profile`."""
    from facex.exporters import _onnx_profile

    return _onnx_profile.profile(path, image, threads=threads, warmup=warmup, runs=runs)


def open_session(path: Path, *, threads: int) -> OnnxSession:
    """Load a file for running on this machine."""
    return OnnxSession(path, threads)


def read_foreign(path: Path, *, threads: int) -> ForeignFile:
    """See `facex.exporters._foreign_onnx.read`."""
    from facex.exporters import _foreign_onnx

    return _foreign_onnx.read(path, threads)
