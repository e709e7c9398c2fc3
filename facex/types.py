"""The frozen values that travel between rooms.

Frames and units: *input pixels* are the pixels of the letterboxed network input, origin at the top left corner,
x to the right, y down. Boxes are `xyxy`. Priors (anchors) are ordered by pyramid level, row, column, min size.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


class _Word(str, enum.Enum):
    """A string enum whose `str()` is its value on every supported Python."""

    def __str__(self) -> str:
        return str(self.value)


class Precision(_Word):
    """Number format of an artifact, as written in its file name; pN is weights from palettes of 2^N values."""

    FP32 = "fp32"
    FP16 = "fp16"
    W8 = "w8"
    P6 = "p6"
    P4 = "p4"
    W8A8 = "w8a8"


class Effort(_Word):
    """How hard calibration tries: plain extremes, statistics and algebra, or learning as well."""

    MINMAX = "minmax"
    FAST = "fast"
    BEST = "best"


class Fp32Ops(_Word):
    """Operations of a half-precision trunk to keep in single precision: none, or those that photographs endanger."""

    NONE = "none"
    AUTO = "auto"


class Head(_Word):
    """What an artifact returns: boxes in input pixels by prior, the network's own tensors, or the faces found."""

    DECODED = "decoded"
    RAW = "raw"
    DETECTIONS = "detections"

    @property
    def traced(self) -> Head:
        """The head that is traced and calibrated; faces are chosen by operators added to a decoded one at the end."""
        return Head.DECODED if self is Head.DETECTIONS else self


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How a file with a `detections` head chooses faces.

    Attributes:
        score_threshold: lowest score of a face; also of those that may suppress others.
        nms_iou: a box that overlaps a better one by more than this is dropped.
        max_faces: rows of the outputs; of more faces the best are kept.
    """

    score_threshold: float = 0.5
    nms_iou: float = 0.4
    max_faces: int = 100


class ChannelOrder(_Word):
    """Order of the colour channels that the network was trained with."""

    BGR = "bgr"
    RGB = "rgb"


class ReportPhotographs(_Word):
    """Which photographs a page of a run shows: those in which an artifact differs most from the reference, or none."""

    WORST = "worst"
    NONE = "none"


class Verdict(_Word):
    """Result of a check. A crash is never one of these."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True, order=True)
class Size:
    """Input size of an artifact, in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a state dict does not say about its detector.

    Attributes:
        family: module name in `facex.reference.families`.
        backbone: name of the backbone, as the family calls it.
        activation_slope: negative slope of the backbone's activations; 0.0 is ReLU, and stands where the architecture
            has activations of its own (ResNet, MobileNetV2, MobileNetV3).
        pyramid_slope: that of the activations of pyramid and context modules; None where there are none.
        strides: one per pyramid level, input pixels per cell.
        min_sizes: prior side lengths per level, input pixels.
        variances: scale of the centre offsets, scale of the log sizes (Liu et al. 2016, SSD, eq. 2).
        landmarks: number of landmark points per face.
        mesh: number of values a prior of the dense regression (a mesh code); 0 where there is none.
        channel_order: order of the channels at the network's first convolution.
        mean: subtracted from 0-255 pixels, in the network's channel order.
        scale: multiplied after the mean is subtracted, in the network's channel order.
    """

    family: str
    backbone: str
    activation_slope: float
    pyramid_slope: float | None = None
    strides: tuple[int, ...]
    min_sizes: tuple[tuple[float, ...], ...]
    variances: tuple[float, float]
    landmarks: int
    channel_order: ChannelOrder
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]
    mesh: int = 0

    @property
    def mean_rgb(self) -> tuple[float, float, float]:
        """The mean in RGB order, for code that handles RGB pixels."""
        a, b, c = self.mean
        return (a, b, c) if self.channel_order is ChannelOrder.RGB else (c, b, a)


@dataclass(frozen=True, kw_only=True)
class ContractOptions:
    """The parts of a contract that the user states; None is left to the checkpoint and the family's default.

    `activation_slope` is that of every activation that the architecture leaves open, `pyramid_slope` an exception.
    """

    activation_slope: float | None = None
    pyramid_slope: float | None = None
    min_sizes: tuple[tuple[float, ...], ...] | None = None
    variances: tuple[float, float] | None = None
    channel_order: ChannelOrder | None = None
    mean: tuple[float, float, float] | None = None
    scale: tuple[float, float, float] | None = None
    landmarks: int | None = None


class SettledBy(_Word):
    """How a field of a contract came about."""

    STATED = "stated"
    PROVED = "proved"
    PROBED = "probed"
    ASSUMED = "assumed"


@dataclass(frozen=True, kw_only=True)
class Settled:
    """How one field of a contract came about.

    Attributes:
        field: of `Contract`.
        how: the user stated it, keys and shapes prove it, a probe of the checkpoint decides it, or it is assumed.
        confidence: of the probe, 0-1, see docs/identify.md; None where no probe looked.
        evidence: of the probe, in a few words, or why it left the field open; empty where no probe looked.
    """

    field: str
    how: SettledBy
    confidence: float | None = None
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Faces found in one photograph, best score first.

    Attributes:
        boxes: float32 [M, 4], xyxy, input pixels.
        scores: float32 [M], 0-1.
        landmarks: float32 [M, K, 2], x y, input pixels.
    """

    boxes: FloatArray
    scores: FloatArray
    landmarks: FloatArray

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """The detections that score at least `score`."""
        keep = self.scores >= score
        return Detections(boxes=self.boxes[keep], scores=self.scores[keep], landmarks=self.landmarks[keep])


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One input or output of an artifact, read from the finished file."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class FloatIsland:
    """A multiply-accumulate operator that an integer artifact still runs in float."""

    name: str
    operator: str
    macs: int


class HeadUnit(_Word):
    """What one unit of a head tensor is."""

    LOGIT = "logit"
    SCORE = "score"
    OFFSET = "offset"
    PIXEL = "px"
    CODE = "of the mesh code"


@dataclass(frozen=True, kw_only=True)
class HeadTensor:
    """An 8-bit tensor that the arithmetic of the head starts from.

    Attributes:
        name: in the file.
        output: name of the output that it leads to.
        unit: of its values: background and face logits, scores, offsets in units of the prior, input pixels, or
            values of a mesh code, which have no unit in common.
        step: what one 8-bit step is worth, in that unit.
    """

    name: str
    output: str
    unit: HeadUnit
    step: float


@dataclass(frozen=True, kw_only=True)
class QuantizationFacts:
    """What a file with 8-bit activations does with its integers.

    Attributes:
        head_tensors: one for every output that an 8-bit tensor leads to without a convolution in between.
        requantizations: 8-bit tensors before the last convolution that are dequantized and quantized again.
        unasked_floats: multiply-accumulate operators in float that the file does not list as left so on purpose.
        constant_weights: weight tensors of which all values are the same.
        dead_channels: output channels whose weights are all zero.
    """

    head_tensors: tuple[HeadTensor, ...]
    requantizations: tuple[str, ...]
    unasked_floats: int
    constant_weights: tuple[str, ...]
    dead_channels: int


class Placement(_Word):
    """Where a forecast has an operation run."""

    NEURAL_ENGINE = "neural engine"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class ForecastOperations:
    """Operations of one type that a forecast treats alike.

    Attributes:
        operator: their type.
        count: how many there are.
        placement: where they are expected to run.
        reason: the statement that this follows from.
        source: address of the statement; empty where there is none.
    """

    operator: str
    count: int
    placement: Placement
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class NeuralEngineForecast:
    """What published statements let expect of a Core ML program on the Neural Engine; Core ML was not asked.

    Attributes:
        operations: in the order in which each kind first occurs.
        resident_operation_fraction: share of the operations that are expected on the Neural Engine, 0-1.
        resident_mac_fraction: share of the multiply-accumulates, 0-1.
        transitions: tensors that are expected to pass between the Neural Engine and another engine; each is copied.
        first_elsewhere: the first operation that is not expected on the Neural Engine; None where there is none.
        notes: what else is known to matter.
    """

    operations: tuple[ForecastOperations, ...]
    resident_operation_fraction: float
    resident_mac_fraction: float
    transitions: int
    first_elsewhere: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Credits:
    """What the user states of the model for those who ship it; empty where nothing was stated.

    Attributes:
        author: names of persons or organizations, split by commas.
        license: name or address of the licence.
        version: of the model, in any form.
    """

    author: str = ""
    license: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class ShownTensor:
    """An input or output as tools show it.

    Attributes:
        content: what its values are: `image`, `feature`, `bounding box`, or empty where the file does not tell.
        description: for people, with the unit.
    """

    name: str
    content: str
    description: str


@dataclass(frozen=True, kw_only=True)
class StandardMetadata:
    """What a file says of itself in its format's own fields, which Android Studio, Netron and Xcode show.

    Attributes:
        format: which fields, and what reads them.
        name: of the model; empty where the format has none.
        description: of the model.
        tensors: inputs, then outputs.
    """

    format: str
    name: str
    description: str
    tensors: tuple[ShownTensor, ...]


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What a target reads from one of its own files, without running it.

    Attributes:
        operators: operator type -> count.
        macs: multiply-accumulates of convolutions and matrix products in one inference.
        integer_macs: those of them that run on integers.
        float_islands: the others, in an artifact that has any integer ones.
        minimum_runtime: oldest runtime that can load the file.
        metadata: text that the file carries about itself.
        quantization: what it does with 8-bit activations; None where it has none.
        credits: author, licence and version that it carries.
        neural_engine_forecast: of a Core ML file; None for other targets.
        standard_metadata: what tools show of it; None where it has none, or its format has no such fields.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: Mapping[str, int]
    macs: int
    integer_macs: int
    float_islands: tuple[FloatIsland, ...]
    minimum_runtime: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    quantization: QuantizationFacts | None = None
    credits: Credits = field(default_factory=Credits)
    neural_engine_forecast: NeuralEngineForecast | None = None
    standard_metadata: StandardMetadata | None = None

    @property
    def integer_mac_fraction(self) -> float:
        """Share of the multiply-accumulates that runs on integers, 0-1."""
        return self.integer_macs / self.macs if self.macs else 0.0


@dataclass(frozen=True, kw_only=True)
class ReferenceKernel:
    """An operator that the runtime's fast delegate leaves to a built-in kernel.

    Attributes:
        name: of its first output.
        share_of_time: of one inference, 0-1; None where it could not be timed.
    """

    operator: str
    name: str
    share_of_time: float | None


@dataclass(frozen=True, kw_only=True)
class KernelFacts:
    """Which kernels run an artifact on this host, measured; keys as `inspect --json` gives them.

    Attributes:
        reference_kernels: operators on built-in kernels, in the order of the file; None where that is unknown.
        reference_kernels_method: one line: whose partition it is and how the shares were measured, or why nothing
            is known.
    """

    reference_kernels: tuple[ReferenceKernel, ...] | None
    reference_kernels_method: str


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One exported file, as the manifest records it.

    Attributes:
        path: relative to the folder that holds the manifest; forward slashes.
        promoted: whether it passed and was moved to the output folder; a failed one stays in the work folder.
        selection: how it chooses faces, where its head is `detections`; else None.
        runtime: what ran the parity tests, with its version, and of several each with its name; None when nothing did.
        credits: author, licence and version, read from the file.
        neural_engine_forecast: of a Core ML file; None for other targets.
    """

    path: str
    target: str
    precision: Precision
    head: Head
    size: Size
    size_bytes: int
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    integer_mac_fraction: float
    minimum_runtime: str
    runtime: str | None
    promoted: bool
    credits: Credits = field(default_factory=Credits)
    neural_engine_forecast: NeuralEngineForecast | None = None
    selection: Selection | None = None

    @property
    def name(self) -> str:
        """The file name without its folder; unique within a manifest."""
        return self.path.rsplit("/", 1)[-1].removesuffix(FAILED_SUFFIX)


FAILED_SUFFIX = ".failed"
"""Appended to the name of an artifact that did not pass, in the work folder."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measured fact and its verdict.

    Attributes:
        name: the metric, e.g. `matched_f1`, `landmark_nme_mean`, `size`, `latency`.
        artifact: file name of the artifact.
        unit: `ratio`, `px`, `dB`, `MB`, `ms` or `1`.
        actual: the measured value; None when nothing was measured.
        limit: the bound it is held to; None for a value that is only reported.
        verdict: pass only with a finite `actual` within `limit`.
        reason: why it failed or was skipped; empty for a pass.
        runtime: the one it is about, of a file that was run in several; else None.
        device: the one whose time, memory or budget it is about; None for this host and for what no device decides.
    """

    name: str
    artifact: str
    unit: str
    actual: float | None
    limit: float | None
    verdict: Verdict
    reason: str = ""
    runtime: Runtime | None = None
    device: str | None = None

    @property
    def title(self) -> str:
        """The name, with the device if it is about one."""
        return f"{self.name} on {self.device}" if self.device else self.name


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A bound that the user sets on a metric of parity, in place of the default.

    Attributes:
        metric: a name that `facex.parity.limits` knows.
        value: in the metric's unit; the metric says whether it is the lowest or the highest that passes.
        precision: the artifacts it applies to; None is all of them.
    """

    metric: str
    value: float
    precision: Precision | None


VS_EXECUTOR = "vs_executor."
"""Begins the name of a finding for which facex's executor took the place of the reference."""


class Arch(_Word):
    """A processor that files are run on as well, beside this machine's."""

    ARM64 = "arm64"


ARM64 = f"{Arch.ARM64}."
"""Begins the name of a finding for which an emulated ARM64 processor took the place of this machine's."""


HOST = "host"
"""The word for this machine, where a device is named."""


class LatencyKind(_Word):
    """How a latency came about. Never confused."""

    MEASURED = "measured"
    EMULATED = "emulated"
    ESTIMATE = "estimate"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time of one inference, and what it takes to start.

    Attributes:
        artifact: file name of the artifact.
        device: where it was measured or what it is an estimate for: the word that names it, and after a colon what
            else is known of it, e.g. `host: AMD EPYC, linux x86_64`.
        threads: threads given to the runtime.
        runs: timed runs, after the warm-up.
        p50_ms: median, or what `method` says that stands in for it where a device tells none.
        low_ms: the minimum of a measurement, or the lower end of an estimate's band.
        high_ms: the 90th percentile of a measurement, or what `method` says, or the upper end of an estimate's band.
        method: one line: runtime, delegate, warm-up, how the numbers were taken.
        runtime: as for `Finding`.
        load_ms: from opening the file to the first result; None where that is not known.
        memory_mb: 10^6 bytes that the process needs at most for that and no other file; None where that is not known.
    """

    artifact: str
    device: str
    kind: LatencyKind
    threads: int
    runs: int
    p50_ms: float
    low_ms: float
    high_ms: float
    method: str
    runtime: Runtime | None = None
    load_ms: float | None = None
    memory_mb: float | None = None

    def is_on(self, word: str) -> bool:
        """Whether the device is the one that a word names."""
        return self.device == word or self.device.startswith(f"{word}:")


class BandEnd(_Word):
    """Which figure of an estimate a budget holds to its limit."""

    UPPER = "upper"
    MEDIAN = "median"
    LOWER = "lower"


class Runtime(_Word):
    """What runs files that facex executes too: its executor, or the system's own runtime, on all units or some."""

    EXECUTOR = "executor"
    NATIVE = "native"
    NATIVE_CPU = "native-cpu"
    NATIVE_GPU = "native-gpu"
    NATIVE_ANE = "native-ane"


def run_name(name: str, runtime: Runtime | None) -> str:
    """What belongs to one runtime, of an artifact or of a finding: its name, and that of the runtime if any."""
    return f"{name} in {runtime}" if runtime else name


class Session(Protocol):
    """A loaded artifact: a call from named inputs to named outputs.

    The input is always `image`: uint8 [1, H, W, 3], RGB, input pixels; the session brings it into the layout and dtype
    of its file. Outputs are named as in the file and float32, but for the `count` of a `detections` head, int32.

    Attributes:
        runtime: what runs the file.
        untimed: why the time of `invoke` says nothing of the file's on a device; empty where it does.
    """

    runtime: str
    untimed: str

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """Run once."""
        ...

    def invoke(self) -> None:
        """Run again on the inputs of the last call, moving no data in or out: what a latency measures."""
        ...


@dataclass(frozen=True, kw_only=True)
class TargetInfo:
    """What planning and `doctor` must know of a target without importing its packages.

    Attributes:
        name: the module's name in `facex.exporters`, and the word after `--target`.
        suffix: file name suffix, with the dot.
        precisions: what it can write, best first.
        int8: the precision that `--int8` means for it; None where it has none.
        extra: the extra of facex that installs its packages; empty when the base installation does.
        packages: distributions that exporting needs.
        runtimes: distributions of which any one runs the finished file.
        channels_last: whether the file's `image` is [1, H, W, 3]; otherwise [1, 3, H, W].
        image_dtype: dtype of the file's `image`.
        oldest_deployment: precision -> the oldest deployment target that can load it, where not every one can.
        shown: what is written when nothing is asked for, not even a checkpoint; empty: all of `precisions`.
        half_compute: those that compute in half precision, of which operations can be kept in single precision.
    """

    name: str
    suffix: str
    precisions: tuple[Precision, ...]
    int8: Precision | None
    extra: str
    packages: tuple[str, ...]
    runtimes: tuple[str, ...]
    channels_last: bool
    image_dtype: str
    oldest_deployment: Mapping[Precision, str] = field(default_factory=dict)
    shown: tuple[Precision, ...] = ()
    half_compute: tuple[Precision, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What a run asks of the converters beyond target, precision, size and head.

    Attributes:
        opset: of ONNX models.
        deployment_target: oldest system that must load Core ML files; None: `DEFAULT_DEPLOYMENT_TARGET`, or the first
            that loads the precision.
    """

    opset: int
    deployment_target: str | None
    credits: Credits = field(default_factory=Credits)


class Delegate(_Word):
    """What runs a TFLite file on a phone: XNNPACK or plain kernels on its CPU, or its GPU."""

    XNNPACK = "xnnpack"
    NONE = "none"
    GPU = "gpu"


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """How files are timed; each device says which of these it knows.

    Attributes:
        also_threads: further numbers of threads that every file is timed with as well.
        runtime: of Core ML files.
        benchmark_model: a `benchmark_model` built for the phone; None takes the one in the cache.
        benchmark_apk: whether the benchmark app that is installed on the phone is used in its place.
        cpu_mask: hexadecimal affinity mask of the phone's CPUs; empty leaves the choice to its scheduler.
        profile: whether every operator is timed as well.
    """

    threads: int = 1
    also_threads: tuple[int, ...] = ()
    warmup: int = 5
    runs: int = 50
    runtime: Runtime = Runtime.EXECUTOR
    benchmark_model: Path | None = None
    benchmark_apk: bool = False
    delegate: Delegate = Delegate.XNNPACK
    cpu_mask: str = ""
    profile: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceFile:
    """A finished file that a device is to time; `size` is that of its image, `facts` what it says of itself."""

    name: str
    path: Path
    size: Size
    facts: FileFacts


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """One operator in a profile.

    Attributes:
        operator: its type.
        name: of the operator or of what it computes.
        mean_ms: milliseconds, mean over the runs.
        share: of the whole inference, 0-1.
        unit: what runs it, where the device tells; else None.
    """

    operator: str
    name: str
    mean_ms: float
    share: float
    unit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The operators of one file in a runtime, measured.

    Attributes:
        operators: in the order of execution; empty where the runtime tells none.
        note: how they were measured, or why there are none.
    """

    operators: tuple[OperatorTime, ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The time of a file over that of the float32 file of the same target, size and head, alike in all else.

    Attributes:
        baseline: name of the float32 file.
        device, threads, kind, runtime: of both latencies.
        low: of the minima, or of the lower ends of two bands.
        p50: of the medians.
    """

    artifact: str
    baseline: str
    device: str
    threads: int
    kind: LatencyKind
    low: float
    p50: float
    runtime: Runtime | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """What can slow a device down, at one moment.

    Attributes:
        thermal_status: Android's, from 0 (none) to 6 (shutdown); None where the device does not tell.
        cpu_mhz: present clock of every CPU in MHz, in their order; empty where the device does not tell.
    """

    thermal_status: int | None
    cpu_mhz: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceRun:
    """What a device tells about one file beside its latency; None where it does not tell.

    Attributes:
        artifact: file name.
        load_ms: milliseconds until the file was ready to run.
        first_ms: of the first inference, which loads caches.
        warmup_ms: of an untimed inference, mean.
        memory_mb: what loading and running added to the memory of the process, in MB of 2^20 bytes.
        before, after: the state of the device around the runs.
        operators: in the order of execution; empty where no profile was asked for.
        notes: what else the runtime says that matters, a line each.
    """

    artifact: str
    load_ms: float | None
    first_ms: float | None
    warmup_ms: float | None
    memory_mb: float | None
    before: DeviceState | None
    after: DeviceState | None
    operators: tuple[OperatorTime, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """A device, and what it tells.

    Attributes:
        name: as in the latencies.
        runtime: what ran the files; empty where nothing did.
        facts: what it says of itself, such as model, processor and system.
        runs: one a file.
        warnings: what the user should know, such as files that could not be removed from it.
        skipped: artifact -> why there is no latency of it.
    """

    name: str
    runtime: str
    facts: Mapping[str, str]
    runs: tuple[DeviceRun, ...]
    warnings: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)


def as_plain(value: Any) -> Any:
    """Dataclasses, enums, tuples and paths as the plain values that JSON knows."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): as_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(v) for v in value]
    if isinstance(value, Path):
        return value.as_posix()
    return value
