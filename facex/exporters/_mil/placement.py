"""What has been published on which operations run on the Neural Engine: one function a statement, with its source.

Apple publishes no list (coremltools issue 1780), only single statements; the rest was measured by others, through Core
ML's own MLComputePlan or below it. Where generations differ, the A14 counts. Where sources contradict one another, or
none speaks of an operation, its placement is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from facex.exporters._mil.program import Literal, Operation, TensorType
from facex.types import Placement

TYPED_EXECUTION = "https://apple.github.io/coremltools/docs-guides/source/typed-execution.html"
WHATS_NEW = "https://apple.github.io/coremltools/docs-guides/source/opt-whats-new.html"
FLEXIBLE_SHAPES = "https://developer.apple.com/forums/thread/724930"
RANK = "https://github.com/apple/coremltools/issues/1723"
RECURRENT = "https://github.com/apple/coremltools/issues/1780"
RF_DETR_PLANS = "https://github.com/roboflow/rf-detr/pull/1495"
ENCODER_PLAN = (
    "https://huggingface.co/TerminatorPower/whisperkit-coreml/blob/main/openai_whisper-medium/"
    "AudioEncoder.mlcomputeplan.json"
)
DECODER_PLAN = (
    "https://huggingface.co/hyperkit/distil-whisper-small-cantonese-coreml/blob/main/TextDecoder.mlcomputeplan.json"
)
SPECTROGRAM_PLAN = (
    "https://huggingface.co/mickekringai/kb-whisper-coreml/blob/main/large/MelSpectrogram.mlcomputeplan.json"
)
VOICE_PLAN = "https://github.com/0seba/VoxCPMANE/issues/15"
CAST_PLANS = "https://github.com/vx-lang/Vx/issues/436"
HOLLEMANS = "https://github.com/hollance/neural-engine/blob/master/docs/unsupported-layers.md"
HOLLEMANS_LOGS = "https://github.com/hollance/neural-engine/issues/2"
GUIDE_OPERATIONS = "https://ane-guide.readthedocs.io/en/latest/part-1-machine/04-capability-surface.html"
GUIDE_RULES = "https://ane-guide.readthedocs.io/en/latest/part-5-practice/17-model-design-rules.html"
CATALOG = "https://aneforge.readthedocs.io/en/latest/op-catalog/"
CAPABILITIES = "https://aneforge.readthedocs.io/en/latest/capabilities/"

MOST_AXES = 5
LONGEST_EDGE = 16_384
"""Of height and width, up to the A15."""
MOST_CHANNELS = 65_536
WIDEST_KERNEL = 13
TALLEST_KERNEL = 29
WIDEST_WINDOW = 13
LONGEST_WINDOW_STRIDE = 2
LONGEST_ARGUMENT_AXIS = 2048

PLANNED = {
    **dict.fromkeys(("add", "batch_norm", "conv", "gelu", "layer_norm"), ENCODER_PLAN),
    **dict.fromkeys(("expand_dims", "split"), DECODER_PLAN),
    **dict.fromkeys(("square", "squeeze"), SPECTROGRAM_PLAN),
    **dict.fromkeys(("mul", "reduce_mean", "reshape"), VOICE_PLAN),
}
"""Operator -> the plan of Core ML that has it on the Neural Engine."""

MEASURED = frozenset({
    "relu", "leaky_relu", "relu6", "prelu", "clamped_relu", "clip", "elu", "sigmoid", "sigmoid_hard", "silu", "softmax",
    "softplus", "softplus_parametric", "softsign", "tanh", "scaled_tanh", "threshold", "thresholded_relu", "erf", "exp",
    "exp2", "log", "round", "floor", "ceil", "sign", "abs", "atan", "sub", "maximum", "minimum", "sqrt", "rsqrt",
    "inverse", "pow", "real_div", "floor_div", "equal", "not_equal", "greater", "greater_equal", "less", "less_equal",
    "logical_not", "select", "conv_transpose", "matmul", "linear", "scaled_dot_product_attention", "avg_pool",
    "max_pool", "l2_pool", "instance_norm", "l2_norm", "local_response_norm", "reduce_argmax", "reduce_l1_norm",
    "reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp", "reduce_max", "reduce_min", "reduce_sum",
    "reduce_sum_square", "concat", "transpose", "stack", "slice_by_size", "depth_to_space", "space_to_depth",
    "pixel_shuffle", "pixel_unshuffle", "batch_to_space", "reverse", "pad", "identity", "upsample_nearest_neighbor",
    "upsample_bilinear", "resize_nearest_neighbor", "resize_bilinear",
})  # fmt: skip
"""Compiled for the engine and run by others; native from the A14 on at the latest."""

WITHOUT_PATH = frozenset({
    "reduce_prod", "scatter", "scatter_along_axis", "scatter_nd", "mod", "one_hot", "non_zero", "band_part",
    "reverse_sequence", "shape", "sliding_windows", "logical_and", "logical_or", "logical_xor", "tan", "asin", "acos",
    "asinh", "acosh", "sinh", "cosh", "atanh", "random_bernoulli", "random_categorical", "random_normal",
})  # fmt: skip
UNCONVERTED = frozenset({
    "make_list", "list_length", "list_read", "list_write", "list_gather", "list_scatter", "cond", "while_loop",
})  # fmt: skip
LATER = frozenset({"sin", "cos", "reduce_argmin", "random_uniform"})

Verdict = tuple[Placement, str, str] | None
"""Placement, reason, source; None where a rule says nothing."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """An operation, and the types of what it reads and gives.

    Attributes:
        computed: types of its inputs that are computed, or given to the program.
        constants: its other inputs by parameter, where they are one value.
    """

    operation: Operation
    computed: tuple[TensorType, ...]
    constants: Mapping[str, Literal]

    @property
    def types(self) -> tuple[TensorType, ...]:
        """Of everything that is computed around it."""
        return (*self.computed, *(declared for _, declared in self.operation.outputs))

    def numbers(self, parameter: str) -> tuple[float, ...] | None:
        """A constant parameter's values, or None where it has none."""
        found = self.constants.get(parameter)
        return None if found is None or isinstance(found.value, str) else tuple(found.value.reshape(-1).tolist())


def _ranks(site: Site) -> Verdict:
    """Core ML refuses more than five axes (coremltools issue 1723), and so does the engine's compiler."""
    if any(len(declared.shape) > MOST_AXES for declared in site.types):
        return Placement.ELSEWHERE, f"has more than {MOST_AXES} axes", RANK
    return None


def _open_shapes(site: Site) -> Verdict:
    """Of a range of shapes only the default one runs on the Neural Engine; enumerated ones may (an Apple engineer)."""
    if any(extent is None for declared in site.types for extent in declared.shape):
        return Placement.UNKNOWN, "its shape is open: of a range only the default one can", FLEXIBLE_SHAPES
    return None


def _casts(site: Site) -> Verdict:
    """Plans list the engine for casts between float types and prefer the CPU; into int32 the M1's compiler refuses."""
    if site.operation.type != "cast":
        return None
    if {declared.dtype for declared in site.types} <= {"fp16", "fp32", "bool"}:
        return Placement.UNKNOWN, "converts floats: plans name both the Neural Engine and the CPU", CAST_PLANS
    return Placement.ELSEWHERE, "converts integers", GUIDE_RULES


def _single_precision(site: Site) -> Verdict:
    """The engine computes in float16, and Core ML takes the types of a program as the least precision."""
    if any(declared.dtype == "fp32" for declared in site.types):
        return Placement.ELSEWHERE, "is in float32, the Neural Engine computes in float16", TYPED_EXECUTION
    return None


def _quantization(site: Site) -> Verdict:
    """8-bit activations are accelerated on the A17 Pro and the M4, from iOS 17 on."""
    if site.operation.type in ("quantize", "dequantize"):
        return Placement.NEURAL_ENGINE, "8-bit activations; int8 arithmetic on the A17 Pro, the M4 and later", WHATS_NEW
    return None


def _integers(site: Site) -> Verdict:
    """The data path is float16; int32 is an annotation that the backend does not implement."""
    if any(declared.dtype not in ("fp16", "bool") for declared in site.types):
        return Placement.ELSEWHERE, "computes on integers", GUIDE_RULES
    return None


def _without_path(site: Site) -> Verdict:
    """Operations that no generation has."""
    kind = site.operation.type
    if kind in ("gru", "lstm", "rnn"):
        return Placement.ELSEWHERE, "is recurrent", RECURRENT
    if kind in WITHOUT_PATH:
        return Placement.ELSEWHERE, "has no path on any Neural Engine", GUIDE_OPERATIONS
    if kind in UNCONVERTED:
        return Placement.ELSEWHERE, "is control flow or a list, which has no path there", CATALOG
    if kind in LATER:
        return Placement.ELSEWHERE, "is on the Neural Engine from the A15 on only", CATALOG
    return None


def _indexing(site: Site) -> Verdict:
    """What Core ML's plans give to the CPU, and box suppression, which leaves the engine."""
    kind = site.operation.type
    if kind == "gather":
        return Placement.ELSEWHERE, "gathers: the CPU alone in plans of Core ML", DECODER_PLAN
    if kind in ("topk", "gather_along_axis"):
        return Placement.ELSEWHERE, "sorts or gathers: on the CPU in plans of Core ML", RF_DETR_PLANS
    if kind == "non_maximum_suppression":
        return Placement.ELSEWHERE, "suppresses boxes, on the CPU or the GPU", CAPABILITIES
    return None


def _extents(site: Site) -> Verdict:
    """Height and width up to 16384, 65536 from the A16 on; channels up to 65536 (validator limits, measured)."""
    for declared in site.types:
        shape = [extent or 0 for extent in declared.shape]
        if any(extent > LONGEST_EDGE for extent in shape[-2:]):
            return Placement.ELSEWHERE, f"an extent of height or width is above {LONGEST_EDGE}", GUIDE_RULES
        if any(extent > MOST_CHANNELS for extent in shape):
            return Placement.ELSEWHERE, f"an extent is above {MOST_CHANNELS}", GUIDE_RULES
    return None


def _convolution_kernels(site: Site) -> Verdict:
    """Kernels in float16 up to 13 wide and 29 tall; in three dimensions none lowers; weights are constants."""
    if site.operation.type not in ("conv", "conv_transpose"):
        return None
    weight = site.constants.get("weight")
    if weight is None:
        return Placement.UNKNOWN, "its weights are computed", CAPABILITIES
    kernel = weight.type.shape[2:]
    if len(kernel) > 2:
        return Placement.ELSEWHERE, "convolves in three dimensions", GUIDE_OPERATIONS
    width, height = [extent or 0 for extent in (*reversed(kernel), 0, 0)][:2]
    if width > WIDEST_KERNEL or height > TALLEST_KERNEL:
        return Placement.ELSEWHERE, f"its kernel is above {TALLEST_KERNEL} x {WIDEST_KERNEL}", GUIDE_RULES
    return None


def _dilation(site: Site) -> Verdict:
    """Hollemans lists dilated convolutions as not running; on an M1 they were seen to compile up to 8."""
    if site.operation.type.startswith("conv") and any(d > 1 for d in site.numbers("dilations") or ()):
        return Placement.UNKNOWN, "is dilated, of which sources disagree", HOLLEMANS
    return None


def _windows(site: Site) -> Verdict:
    """Core ML's own logs of 2020 refuse windows above 13 and strides above 2; later measurements find wider ones."""
    if site.operation.type not in ("avg_pool", "max_pool", "l2_pool"):
        return None
    kernel, strides = site.numbers("kernel_sizes") or (), site.numbers("strides") or ()
    if any(k > WIDEST_WINDOW for k in kernel) or any(s > LONGEST_WINDOW_STRIDE for s in strides):
        return Placement.UNKNOWN, "pools over a large window or stride, of which sources disagree", HOLLEMANS_LOGS
    return None


def _magnification(site: Site) -> Verdict:
    """Core ML's own logs of 2020 refuse upsampling by anything but 2."""
    factors = (*(site.numbers("scale_factor_height") or ()), *(site.numbers("scale_factor_width") or ()))
    if site.operation.type.startswith("upsample") and any(factor not in (1, 2) for factor in factors):
        return Placement.UNKNOWN, "upsamples by other factors than 2, of which sources disagree", HOLLEMANS_LOGS
    return None


def _depth(site: Site) -> Verdict:
    """Products take no fifth axis."""
    if site.operation.type in ("matmul", "linear") and any(len(d.shape) >= MOST_AXES for d in site.computed):
        return Placement.ELSEWHERE, f"multiplies matrices with {MOST_AXES} axes", GUIDE_RULES
    return None


def _long_arguments(site: Site) -> Verdict:
    """The index of an extreme is exact in float16 up to 2048."""
    if site.operation.type == "reduce_argmax":
        reduced = [d.shape[int(axis) :][:1] for axis in site.numbers("axis") or () for d in site.computed]
        if any((extent or 0) > LONGEST_ARGUMENT_AXIS for extents in reduced for extent in extents):
            return Placement.ELSEWHERE, f"looks for an extreme among more than {LONGEST_ARGUMENT_AXIS}", GUIDE_RULES
    return None


def _padding(site: Site) -> Verdict:
    """The validator takes padding of height and width alone; modes other than constant need a later unit."""
    if site.operation.type != "pad":
        return None
    amounts, mode = site.numbers("pad"), site.constants.get("mode")
    if amounts is None or (mode is not None and mode.value != "constant"):
        return Placement.UNKNOWN, "pads by mirroring, or by what is computed", CATALOG
    if any(amounts[:-4]):
        return Placement.ELSEWHERE, "pads other axes than height and width", GUIDE_RULES
    return None


def _moving_slices(site: Site) -> Verdict:
    """Slices at computed places pass the validator and fail below it on the M1."""
    if site.operation.type in ("slice_by_index", "slice_by_size") and len(site.computed) > 1:
        return Placement.UNKNOWN, "slices at a computed place", GUIDE_OPERATIONS
    return None


def _supported(site: Site) -> Verdict:
    """What was seen there, in float16 and within the limits above."""
    kind = site.operation.type
    if kind in PLANNED:
        return Placement.NEURAL_ENGINE, "float16, there in plans of Core ML", PLANNED[kind]
    if kind == "slice_by_index":
        return Placement.NEURAL_ENGINE, "float16, compiled for it and run by others", GUIDE_OPERATIONS
    if kind in MEASURED:
        return Placement.NEURAL_ENGINE, "float16, compiled for it and run by others", CATALOG
    return None


RULES: tuple[Callable[[Site], Verdict], ...] = (
    _ranks, _without_path, _open_shapes, _casts, _single_precision, _indexing, _quantization, _integers, _extents,
    _convolution_kernels, _dilation, _windows, _magnification, _depth, _long_arguments, _padding, _moving_slices,
    _supported,
)  # fmt: skip
"""The first that says something decides: what is refused comes before what is supported."""


def place(site: Site) -> tuple[Placement, str, str]:
    """Placement, reason and source for one operation."""
    return next(
        (verdict for rule in RULES if (verdict := rule(site))),
        (Placement.UNKNOWN, "no statement that covers it was found", ""),
    )
