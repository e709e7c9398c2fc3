"""Core ML: the torch network with the same rewrites, as an ML program; for w8a8 the quantization plan, lowered.

Core ML has no ONNX front end.
Half precision keeps the trunk in float16 and the arithmetic of the head in float32, because float16 steps by 0.5 px
between 512 and 1024 px.
"""

from __future__ import annotations

import functools
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facex.errors import SessionUnavailableError, UsageError
from facex.exporters import _package
from facex.exporters._quiet import quiet
from facex.recipe import DEPLOYMENT_TARGETS
from facex.types import (
    Credits,
    FileFacts,
    FloatIsland,
    Precision,
    Runtime,
    ShownTensor,
    StandardMetadata,
    TargetInfo,
    TensorInfo,
)

if TYPE_CHECKING:
    from facex.exporters import Job
    from facex.exporters._foreign import ForeignFile
    from facex.exporters._mil.halves import Seen
    from facex.exporters._mil.session import ExecutorSession
    from facex.types import FloatArray, QuantizationFacts, Selection

INFO = TargetInfo(
    name="coreml",
    suffix=".mlpackage",
    precisions=(Precision.FP16, Precision.FP32, Precision.W8, Precision.P6, Precision.P4, Precision.W8A8),
    int8=Precision.W8,
    extra="coreml",
    packages=("coremltools",),
    runtimes=("coremltools",),
    channels_last=False,
    image_dtype="image",
    oldest_deployment={Precision.W8: "iOS16", Precision.P6: "iOS16", Precision.P4: "iOS16", Precision.W8A8: "iOS17"},
    shown=(Precision.FP16, Precision.W8, Precision.P6, Precision.W8A8),
    half_compute=(Precision.FP16, Precision.W8, Precision.P6, Precision.P4),
)

COMPUTE_UNITS = {
    Runtime.NATIVE: "ALL", Runtime.NATIVE_CPU: "CPU_ONLY", Runtime.NATIVE_GPU: "CPU_AND_GPU",
    Runtime.NATIVE_ANE: "CPU_AND_NE",
}  # fmt: skip
"""Their names in coremltools."""

EXACT_HALVES = "exact_halves"
FEWEST_HALVED = 64
"""Elements from which half precision saves more than the operation that widens it costs."""

MAC_OPERATORS = frozenset({"conv", "conv_transpose", "linear", "matmul"})
SPECIFICATION_OS = {6: "iOS 15", 7: "iOS 16", 8: "iOS 17", 9: "iOS 18"}
"""Core ML specification version -> first system that loads it (coremltools' release notes)."""

NO_PROFILE = (
    "facex's executor is no runtime of a device; on a Mac, --device apple tells the unit and the estimated cost of "
    "every operation"
)


def export(job: Job) -> None:
    """Trace or lower, convert, describe, and save byte for byte reproducibly.

    Raises:
        UsageError: the deployment target asked for cannot load the precision.
        UnsupportedOperatorError: w8a8: the plan holds an operator without a lowering.
    """
    _refuse_older(job)
    with quiet():
        import coremltools as ct

    from facex.exporters import _coreml_weights, _kept, _pivot
    from facex.exporters._rewrites import output_names

    shape = (1, 3, job.size.height, job.size.width)
    system = getattr(ct.target, str(job.options.deployment_target))
    source, floats = _lowered(job, system) if job.precision is Precision.W8A8 else (_traced(job, shape), frozenset())
    # a program that facex lowered, or that chooses faces, names its outputs itself
    outputs = [
        ct.TensorType(name=name, dtype=np.float32) for name in output_names(job.detector.contract, job.head.traced)
    ]
    with quiet():
        model = ct.convert(
            source,
            inputs=[ct.ImageType(name="image", shape=shape, color_layout=ct.colorlayout.RGB)],
            **({} if job.precision is Precision.W8A8 or job.selection else {"outputs": outputs}),
            convert_to="mlprogram",
            minimum_deployment_target=system,
            compute_precision=_compute_precision(ct, job),
            skip_model_load=True,
            pass_pipeline=_passes(ct, job, floats),
        )
        if job.precision in _coreml_weights.PALETTE_BITS:
            model = _coreml_weights.palettized(model, job.precision)
        metadata = _pivot.metadata(job.detector, job.head, job.selection) | _left_in_float(model.get_spec(), floats)
        metadata |= _kept.told(job.fp32_ops) | {"facex.precision": str(job.precision)}
        _describe_model(model, metadata, job.options.credits)
        model.save(str(job.path))
    _package.finish(job.path)


def _traced(job: Job, shape: tuple[int, ...]) -> Any:
    """The torch network, traced."""
    import torch

    from facex.exporters import _coreml_weights
    from facex.exporters._rewrites import ImageModel

    network = ImageModel(job.detector, job.size, job.head.traced).eval()
    if job.precision in _coreml_weights.COMPRESSED:
        _coreml_weights.round_weights(network, job)
    with quiet(), torch.inference_mode():
        return torch.jit.trace(network, torch.zeros(shape))  # type: ignore[no-untyped-call]


def _lowered(job: Job, system: Any) -> tuple[Any, frozenset[str]]:
    """The quantization plan as an ML program, and the names of the convolutions that it leaves in float."""
    from facex.exporters import _nchw, _nodes

    assert job.qdq is not None
    model = _nodes.load(job.qdq)
    return _nchw.lower(model, system), _nchw.float_convolutions(model)


def _left_in_float(spec: Any, floats: frozenset[str]) -> dict[str, str]:
    """Metadata that names the convolutions left in float on purpose; coremltools may have marked their names."""
    from facex.calibration.qdq import FLOAT_OPERATORS

    results = [op.outputs[0].name for op in _package.operations(spec) if op.type in MAC_OPERATORS]
    left = [name for name in results if name.removesuffix("_cast_fp16") in floats]
    return {FLOAT_OPERATORS: json.dumps(left)} if left else {}


def _refuse_older(job: Job) -> None:
    """Refuse a deployment target that cannot load what will be written."""
    asked, needed = str(job.options.deployment_target), INFO.oldest_deployment.get(job.precision)
    if needed and DEPLOYMENT_TARGETS.index(asked) < DEPLOYMENT_TARGETS.index(needed):
        raise UsageError(f"--deployment-target {asked}: coreml {job.precision} needs {needed}")


def _passes(ct: Any, job: Job, floats: frozenset[str]) -> Any:
    """Those of coremltools, and then facex's own, where the system knows what they write."""
    from facex.exporters import _coreml_weights

    pipeline = ct.PassPipeline.DEFAULT
    if job.selection:
        pipeline.insert_pass(0, _choosing(job, job.selection))
    if job.precision in (Precision.W8, Precision.W8A8):
        name = _coreml_weights.register_eight_bits()
        pipeline.append_pass(name)
        pipeline.set_options(name, {"floats": floats})
    if job.options.deployment_target != "iOS15":
        _register_exact_halves()
        pipeline.append_pass(f"facex::{EXACT_HALVES}")
    return pipeline


def _choosing(job: Job, selection: Selection) -> str:
    """The pass that makes a program choose faces; first of all, while every value is as the network gives it."""
    from facex.exporters import _detections_mil
    from facex.exporters._rewrites import output_names

    names = output_names(job.detector.contract, job.head.traced)
    newer = DEPLOYMENT_TARGETS.index(str(job.options.deployment_target))
    return _detections_mil.register(selection, names, newer >= DEPLOYMENT_TARGETS.index(_detections_mil.NEWER))


@functools.cache
def _register_exact_halves() -> None:
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import register_pass

    class ExactHalves(AbstractGraphPass):  # type: ignore[misc]
        """Before: float32 constants. After: those that half precision holds exactly are stored in it, and widened."""

        def apply(self, prog: Any) -> None:
            for block in prog.functions.values():
                with block:
                    for op in [op for op in block.operations if op.op_type == "const"]:
                        value = op.outputs[0].val
                        if _halves(value) and op.outputs[0] not in block.outputs:
                            wide = Builder.constexpr_cast(
                                source_val=value.astype(np.float16), output_dtype="fp32", before_op=op, name=op.name
                            )
                            block.replace_uses_of_var_after_op(op, op.outputs[0], wide, no_check_var_types=True)
                            block.remove_ops([op])

    register_pass(namespace="facex", name=EXACT_HALVES)(ExactHalves)


def _halves(value: Any) -> bool:
    """Whether an array of float32 is worth storing in half precision, and loses nothing by it."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.size < FEWEST_HALVED:
        return False
    with np.errstate(over="ignore"):
        return bool((value.astype(np.float16).astype(np.float32) == value).all())


def _compute_precision(ct: Any, job: Job) -> Any:
    from facex.exporters import _kept

    if job.precision is Precision.FP32:
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(op_selector=_kept.selector(_trunk_selector(), job.fp32_ops))


def _trunk_selector() -> Callable[[Any], bool]:
    """Selects the operators from which a convolution can be reached, and those themselves; see `calibration.graph`."""
    known: dict[str, bool] = {}

    def reaches(op: Any) -> bool:
        # depth first without recursion: the graph is deeper than Python's stack is safe for
        stack = [op]
        while stack:
            current = stack[-1]
            if current.name not in known and current.op_type in MAC_OPERATORS:
                known[current.name] = True
            if current.name in known:
                stack.pop()
                continue
            children = [child for output in current.outputs for child in output.child_ops]
            unknown = [child for child in children if child.name not in known]
            if unknown:
                stack.extend(unknown)
            else:
                known[current.name] = any(known[child.name] for child in children)
        return known[op.name]

    return reaches


def _describe_model(model: Any, metadata: Mapping[str, str], credits: Credits) -> None:
    from facex.exporters import _descriptions

    _, model.short_description = _descriptions.model(metadata)
    model.author, model.license, model.version = credits.author, credits.license, credits.version
    for key, value in metadata.items():
        model.user_defined_metadata[key] = value
    spec = model.get_spec()
    for tensor in spec.description.input:
        model.input_description[tensor.name] = _descriptions.IMAGE.text
    for tensor in spec.description.output:
        model.output_description[tensor.name] = _descriptions.output(tensor.name, metadata["facex.head"]).text


def describe(path: Path) -> FileFacts:
    """Read the saved program back with coremltools; works on every system.

    Raises:
        ArtifactError: it is not an ML program that coremltools can read.
        MissingExtraError: coremltools is not installed.
    """
    spec, weights = _package.load(path)
    from facex.exporters._mil import residency

    told = spec.description.metadata
    operations = _package.operations(spec)
    shapes = {o.name: _package.shape(o.type) for op in operations for o in op.outputs}
    shapes |= {i.name: _package.shape(i.type) for i in spec.mlProgram.functions["main"].inputs}
    macs = {op.outputs[0].name: _macs(op, shapes) for op in operations if op.type in MAC_OPERATORS}
    metadata = {k: v for k, v in told.userDefined.items() if k.startswith("facex.")}
    integer, quantization = frozenset[str](), None
    if any(op.type == "quantize" for op in operations):
        integer, quantization = _integers_of(spec, weights, macs, metadata)
    left = [op for op in operations if op.type in MAC_OPERATORS and op.outputs[0].name not in integer]
    return FileFacts(
        inputs=tuple(map(_feature, spec.description.input)),
        outputs=tuple(map(_feature, spec.description.output)),
        operators=dict(sorted(Counter(op.type for op in operations if op.type != "const").items())),
        macs=sum(macs.values()),
        integer_macs=sum(macs[name] for name in integer),
        float_islands=tuple(
            FloatIsland(name=op.outputs[0].name, operator=op.type, macs=macs[op.outputs[0].name]) for op in left
        ) if integer else (),
        minimum_runtime=f"{SPECIFICATION_OS.get(spec.specificationVersion, 'unknown')} "
        f"(specification {spec.specificationVersion})",
        metadata=metadata,
        quantization=quantization,
        credits=Credits(author=told.author, license=told.license, version=told.versionString),
        neural_engine_forecast=residency.of(spec, weights, macs),
        standard_metadata=_standard(spec),
    )  # fmt: skip


def _standard(spec: Any) -> StandardMetadata:
    """What Xcode and Netron show of a package: Core ML has a short description, and no name of the model."""
    described = [*spec.description.input, *spec.description.output]
    contents = {"imageType": "image"}
    return StandardMetadata(
        format="Core ML",
        name="",
        description=spec.description.metadata.shortDescription,
        tensors=tuple(
            ShownTensor(
                name=f.name, content=contents.get(f.type.WhichOneof("Type"), ""), description=f.shortDescription
            )
            for f in described
        ),
    )


def _integers_of(
    spec: Any, weights: Path, macs: Mapping[str, int], metadata: Mapping[str, str]
) -> tuple[frozenset[str], QuantizationFacts | None]:
    """Results of the integer multiply-accumulates of a program with 8-bit activations, and what it does with them."""
    from facex.exporters import _integers, _mil_integers
    from facex.exporters._mil import program
    from facex.exporters._mil.executor import Executor

    found = program.parse(spec, weights)
    integer = _mil_integers.integer_products(found)
    unasked = macs.keys() - integer - set(_integers.asked_floats(metadata))
    return integer, _mil_integers.facts(found, Executor(found).constants, len(unasked))


def _macs(operation: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if operation.type not in MAC_OPERATORS:
        return 0

    def size(name: str, first: int = 0) -> int:
        return int(np.prod(shapes[operation.inputs[name].arguments[0].name][first:]))

    if operation.type == "conv_transpose":
        return size("x") * size("weight", 1)
    # a product of two activations is taken to transpose neither
    inner = size("x", -1) if operation.type == "matmul" else size("weight", 1)
    return int(np.prod(_package.shape(operation.outputs[0].type))) * inner


def _feature(feature: Any) -> TensorInfo:
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        return TensorInfo(name=feature.name, shape=(1, 3, int(image.height), int(image.width)), dtype="image")
    array = feature.type.multiArrayType
    dtype = {65568: "float32", 65552: "float16", 131104: "int32"}.get(array.dataType, f"type {array.dataType}")
    return TensorInfo(name=feature.name, shape=tuple(int(d) for d in array.shape), dtype=dtype)


class CoreMLSession:
    """An `.mlpackage` in Core ML; only on macOS. See `facex.types.Session`."""

    untimed = ""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        with quiet():
            import coremltools as ct

            self._model = ct.models.MLModel(str(path), compute_units=getattr(ct.ComputeUnit, COMPUTE_UNITS[runtime]))
        self.runtime = f"Core ML of macOS {platform.mac_ver()[0]}, compute units {COMPUTE_UNITS[runtime]}"
        self._feed: dict[str, Any] = {}

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """Run once on uint8 [1, H, W, 3]."""
        from PIL import Image

        self._feed = {"image": Image.fromarray(inputs["image"][0])}
        found = {k: np.asarray(v) for k, v in self._model.predict(self._feed).items()}
        return {k: v if v.dtype.kind == "i" else v.astype(np.float32) for k, v in found.items()}

    def invoke(self) -> None:
        """Run again on the last input."""
        self._model.predict(self._feed)


def halves(path: Path, images: Iterable[NDArray[np.uint8]], *, threads: int) -> tuple[Seen, ...]:
    """What half precision would do to every value of a package in single precision; see `exporters`.

    Raises:
        ArtifactError: it is not a sound ML program, or is in half precision already.
        UnsupportedOperatorError: it has an operator that facex does not execute.
        MissingExtraError: coremltools is not installed.
    """
    spec, weights = _package.load(path)
    from facex.calibration.simulate import torch_threads
    from facex.exporters._mil import program, ranges, session

    found = program.parse(spec, weights)
    with torch_threads(threads):
        return ranges.observe(found, (session.fed(image, found.colours) for image in images), MAC_OPERATORS)


def open_session(path: Path, *, threads: int) -> ExecutorSession:
    """Read a package back for facex's own executor, which gives the same values on every system.

    Raises:
        ArtifactError: it is not a sound ML program.
        UnsupportedOperatorError: it has an operator that facex does not execute.
        MissingExtraError: coremltools is not installed.
    """
    spec, weights = _package.load(path)
    from facex.exporters._mil.session import ExecutorSession

    return ExecutorSession(spec, weights, threads=threads)


def open_native(path: Path, runtime: Runtime) -> CoreMLSession:
    """Load a package into Core ML itself, which chooses its threads.

    Raises:
        SessionUnavailableError: this is not a Mac.
    """
    if platform.system() != "Darwin":
        raise SessionUnavailableError(f"Core ML runs on macOS only, this is {platform.system()}")
    return CoreMLSession(path, runtime)


def read_foreign(path: Path, *, threads: int) -> ForeignFile:
    """See `facex.exporters._foreign_coreml.read`."""
    from facex.exporters import _foreign_coreml

    return _foreign_coreml.read(path, threads)
