"""TFLite: the pivot lowered to NHWC TensorFlow, then TensorFlow's converter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from facex.exporters._quiet import quiet
from facex.types import FileFacts, KernelFacts, Precision, Session, TargetInfo

if TYPE_CHECKING:
    from facex.exporters import Job
    from facex.exporters._foreign import ForeignFile

INFO = TargetInfo(
    name="tflite",
    suffix=".tflite",
    precisions=(Precision.FP32, Precision.FP16, Precision.W8A8),
    int8=Precision.W8A8,
    extra="tflite",
    packages=("tensorflow",),
    runtimes=("ai-edge-litert", "tflite-runtime", "tensorflow"),
    channels_last=True,
    image_dtype="uint8",
)

NO_PROFILE = (
    "LiteRT tells Python no time by operator: neither its interpreter nor its compiled model hands out what a profiler "
    "saw, and its benchmark for Python has no such option; facex inspect times what XNNPACK leaves to other kernels, "
    "and --device adb --profile asks the benchmark_model of a phone"
)


def export(job: Job) -> None:
    """Convert the pivot (fp32, fp16) or its quantized form (w8a8), name its tensors and save."""
    with quiet():
        import tensorflow as tf
    from facex.exporters import _litert, _nhwc, _nodes, _pivot
    from facex.exporters._rewrites import output_names

    quantized = job.precision is Precision.W8A8
    source = job.qdq if quantized else job.pivot
    assert source is not None
    model = _nodes.load(source)
    function = _nhwc.lower(model, quantized=quantized)
    outputs = output_names(job.detector.contract, job.head)
    image = tf.TensorSpec([1, job.size.height, job.size.width, 3], tf.float32 if quantized else tf.uint8, name="image")

    def ordered(image: Any) -> list[Any]:
        named = function(image)
        if job.selection:
            from facex.exporters import _detections_tf

            named = _detections_tf.chosen(named, job.selection)
        return [named[name] for name in outputs]

    with quiet():
        concrete = tf.function(ordered, input_signature=[image]).get_concrete_function()
        flatbuffer = _converter(tf, concrete, job.precision).convert()
    told = {p.key: p.value for p in model.metadata_props} | _pivot.metadata(job.detector, job.head, job.selection)
    told["facex.precision"] = str(job.precision)
    job.path.write_bytes(_litert.finish(flatbuffer, outputs, told))


def _converter(tf: Any, concrete: Any, precision: Precision) -> Any:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if precision is not Precision.FP32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision is Precision.FP16:
        converter.target_spec.supported_types = [tf.float16]
    if precision is Precision.W8A8:
        # ranges come from the fake quantizations of the graph, so there is no representative dataset
        converter.inference_input_type = tf.uint8
    return converter


def describe(path: Path) -> FileFacts:
    """See `facex.exporters._litert.describe`."""
    from facex.exporters import _litert

    return _litert.describe(path)


def kernels(path: Path) -> KernelFacts:
    """See `facex.exporters._kernels.kernels`."""
    from facex.exporters import _kernels

    return _kernels.kernels(path)


def open_session(path: Path, *, threads: int) -> Session:
    """Load a file into the first installed interpreter.

    Raises:
        MissingExtraError: no interpreter is installed.
        ArtifactError: it cannot read the file.
    """
    from facex.exporters import _litert

    return _litert.LiteRTSession(path, threads)


def read_foreign(path: Path, *, threads: int) -> ForeignFile:
    """See `facex.exporters._foreign_tflite.read`."""
    from facex.exporters import _foreign_tflite

    return _foreign_tflite.read(path, threads)
