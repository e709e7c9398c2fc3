"""What was asked: parsed from text once, validated once, frozen."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from facex.errors import UsageError
from facex.types import (
    HOST,
    BandEnd,
    ContractOptions,
    Credits,
    Effort,
    ExportOptions,
    Fp32Ops,
    Head,
    Limit,
    Precision,
    ReportPhotographs,
    Runtime,
    Selection,
    Size,
)

DEPLOYMENT_TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18")
OPSETS = range(13, 21)
MAX_THREADS = 128
DEFAULT_SIZE = Size(height=640, width=640)
DEFAULT_EFFORT = Effort.BEST
DEFAULT_STEPS = 500
DEFAULT_DEPLOYMENT_TARGET = "iOS16"
DEFAULT_OPTIONS = ExportOptions(opset=17, deployment_target=None)
DEFAULT_SELECTION = Selection()
HIGHEST_THRESHOLD = 0.9999
"""Beyond, float32 scores tell too little apart; see `facex.reference.geometry.SATURATED`."""
MOST_FACES = 1000


BUDGET_LIMITS = ("max_size_mb", "max_latency_ms", "max_load_ms", "max_memory_mb")
"""The limits of a budget, by the names of their options and of their keys in an options file."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on what ships to a device; None reports without judging.

    Attributes:
        max_size_mb: of every artifact, in MB (10^6 bytes).
        max_latency_ms: of one inference of every artifact that the device runs; the median of a measurement.
        max_load_ms: from opening the file to the first result.
        max_memory_mb: peak memory for that, in MB (10^6 bytes).
        compare: which figure of an estimated latency is held to `max_latency_ms`.
        device: the word that names it.
        others: the budgets of other devices, which have none of their own.
    """

    max_size_mb: float | None = None
    max_latency_ms: float | None = None
    max_load_ms: float | None = None
    max_memory_mb: float | None = None
    compare: BandEnd = BandEnd.UPPER
    device: str = HOST
    others: tuple[Budget, ...] = ()

    def __post_init__(self) -> None:
        """Refuse limits that nothing meets, or that are no limits.

        Raises:
            UsageError: one is not a positive finite number.
        """
        for name in BUDGET_LIMITS:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"--{name.replace('_', '-')} {value:g}: must be a positive number")

    @property
    def needs_start(self) -> bool:
        """Whether a limit needs artifacts to be started on this host in processes of their own."""
        here = [budget for budget in (self, *self.others) if budget.device == HOST]
        return any((budget.max_load_ms, budget.max_memory_mb) != (None, None) for budget in here)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An export as it was asked for.

    Attributes:
        checkpoint: the trained network; None is the bundled one.
        targets: names of the targets, in the order asked; empty means all.
        precisions: asked for by name, for every target; may be empty.
        int8: adds the precision that each target means by int8.
        head: what the artifacts return.
        score_threshold, nms_iou, max_faces: of a `detections` head, see `facex.types.Selection`; None takes what is
            usual. With another head they must be None.
        sizes: of the input; one artifact for each.
        contract: what the user states of the detector.
        calib: folder of calibration photographs, or None.
        effort: how hard calibration tries.
        steps: of learning, with `Effort.BEST`.
        seed: of everything random in calibration.
        fp32_ops: what half-precision files keep in single precision.
        images: folder of photographs for parity, or None.
        ground_truth: `gt.json` for average precision, or None.
        out: folder that receives what passed.
        limits: the user's limits on parity.
        threads: threads of every runtime.
        report_photographs: which photographs are in `report.html`.
    """

    checkpoint: Path | None = None
    targets: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    int8: bool = False
    head: Head = Head.DECODED
    score_threshold: float | None = None
    nms_iou: float | None = None
    max_faces: int | None = None
    sizes: tuple[Size, ...] = (DEFAULT_SIZE,)
    contract: ContractOptions = field(default_factory=ContractOptions)
    calib: Path | None = None
    effort: Effort = DEFAULT_EFFORT
    steps: int = DEFAULT_STEPS
    seed: int = 0
    fp32_ops: Fp32Ops = Fp32Ops.NONE
    images: Path | None = None
    ground_truth: Path | None = None
    out: Path = Path("build")
    limits: tuple[Limit, ...] = ()
    budget: Budget = field(default_factory=Budget)
    threads: int = 1
    options: ExportOptions = DEFAULT_OPTIONS
    report_photographs: ReportPhotographs = ReportPhotographs.WORST

    def __post_init__(self) -> None:
        """Refuse what cannot be, whoever built the recipe.

        Raises:
            UsageError: names the option and the valid choices.
        """
        check_threads(self.threads)
        if self.options.opset not in OPSETS:
            raise UsageError(f"--opset {self.options.opset}: must be {OPSETS[0]} to {OPSETS[-1]}")
        if self.options.deployment_target not in (None, *DEPLOYMENT_TARGETS):
            raise UsageError(
                f"--deployment-target {self.options.deployment_target}: unknown",
                hint=f"choose from {', '.join(DEPLOYMENT_TARGETS)}",
            )
        if self.steps < 1:
            raise UsageError(f"--int8-steps {self.steps}: must be 1 or more")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: must be 0 or more")
        if not self.sizes:
            raise UsageError("--size: give at least one")
        _check_selection(self)
        _check_credits(self.options.credits)
        check_ground_truth(self.ground_truth, self.images)

    @property
    def selection(self) -> Selection | None:
        """How files choose faces; None where their head leaves that to the app."""
        if self.head is not Head.DETECTIONS:
            return None
        stated = {name: value for name in SELECTION if (value := getattr(self, name)) is not None}
        return dataclasses.replace(DEFAULT_SELECTION, **stated)


SELECTION = ("score_threshold", "nms_iou", "max_faces")
"""Fields of a selection, by the names of their options."""


def _check_selection(recipe: Recipe) -> None:
    stated = {name: value for name in SELECTION if (value := getattr(recipe, name)) is not None}
    for name, value in stated.items():
        kinds = (int,) if name == "max_faces" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise UsageError(f"--{name.replace('_', '-')} {value!r}: must be a {'whole ' * (len(kinds) == 1)}number")
    if stated and recipe.head is not Head.DETECTIONS:
        name = next(iter(stated))
        raise UsageError(
            f"--{name.replace('_', '-')} {stated[name]:g}: is of files that choose faces themselves, "
            f"and --head {recipe.head} leaves that to the app",
            hint=f"add --head {Head.DETECTIONS}, or leave it out",
        )
    for name, low, high in (("score_threshold", 1e-4, HIGHEST_THRESHOLD), ("nms_iou", 0.01, 0.99)):
        value = stated.get(name)
        if value is not None and not low <= value <= high:  # NaN is refused too
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: must be from {low:g} to {high:g}")
    faces = stated.get("max_faces")
    if faces is not None and not 1 <= faces <= MOST_FACES:
        raise UsageError(f"--max-faces {faces}: must be 1 to {MOST_FACES}")


def _check_credits(credits: Credits) -> None:
    for option, text in (
        ("--author", credits.author), ("--license", credits.license), ("--model-version", credits.version)
    ):  # fmt: skip
        if not isinstance(text, str):
            raise UsageError(f"{option} {text!r}: must be text")
        if any(c == "\0" or 0xD800 <= ord(c) <= 0xDFFF for c in text):
            raise UsageError(f"{option} {text!r}: holds characters that no file can store", hint="write it in UTF-8")


def check_ground_truth(ground_truth: Path | None, images: Path | None) -> None:
    """Refuse ground truth without the photographs that it describes.

    Raises:
        UsageError: `images` is missing.
    """
    if ground_truth is not None and images is None:
        raise UsageError("--ground-truth needs the photographs that it describes", hint="add --images FOLDER")


def check_threads(threads: int) -> None:
    """Refuse thread counts that no runtime should be asked for; one starts as many threads as it is told.

    Raises:
        UsageError: outside 1..`MAX_THREADS`.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"--threads {threads}: must be 1 to {MAX_THREADS}")


def check_runtimes(runtimes: Sequence[Runtime]) -> None:
    """Refuse no runtime at all, and one given twice.

    Raises:
        UsageError: either.
    """
    if not runtimes:
        raise UsageError("--runtime: give at least one")
    twice = next((runtime for i, runtime in enumerate(runtimes) if runtime in runtimes[:i]), None)
    if twice:
        raise UsageError(f"--runtime {twice}: is given twice", hint="once is enough")


def parse_size(text: str) -> Size:
    """`HEIGHTxWIDTH` or one number for a square, in pixels.

    >>> str(parse_size("480x640")), str(parse_size("320"))
    ('480x640', '320x320')

    Raises:
        UsageError: not of that form, or not positive.
    """
    match = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", text.strip())
    if not match:
        raise UsageError(f"--size {text}: is not HEIGHTxWIDTH", hint="for example 640x640")
    height = int(match[1])
    width = int(match[2]) if match[2] else height
    if height == 0 or width == 0:
        raise UsageError(f"--size {text}: must be positive", hint="for example 640x640")
    return Size(height=height, width=width)


def parse_activation(text: str, option: str = "--activation") -> float:
    """Negative slope of the activation: `relu` is 0, `leaky:0.1` is 0.1.

    Raises:
        UsageError: neither, or a slope outside 0..1.
    """
    if text.strip().lower() == "relu":
        return 0.0
    match = re.fullmatch(r"leaky:(\d*\.?\d+)", text.strip().lower())
    if not match or not 0 < float(match[1]) < 1:
        raise UsageError(f"{option} {text}: is not relu or leaky:SLOPE", hint="for example leaky:0.1")
    return float(match[1])


def parse_anchors(text: str) -> tuple[tuple[float, ...], ...]:
    """Prior sizes in pixels: levels split by `;`, sizes by `,`.

    >>> parse_anchors("16,32; 64,128; 256,512")
    ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))

    Raises:
        UsageError: not numbers, or not positive.
    """
    levels = tuple(parse_numbers(level, "--anchors") for level in text.strip().strip(";").split(";"))
    if any(side <= 0 for level in levels for side in level):
        raise UsageError(f"--anchors {text}: sizes must be positive", hint="for example '16,32;64,128;256,512'")
    return levels


def parse_number(text: str, option: str) -> float:
    """A positive number.

    Raises:
        UsageError: not a number, not positive, or not finite.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise UsageError(f"{option} {text}: must be a positive number")
    return number


def parse_numbers(text: str, option: str, count: int | None = None, *, positive: bool = False) -> tuple[float, ...]:
    """Numbers split by commas.

    Args:
        text: what the user wrote.
        option: for the message.
        count: how many there must be, where that is fixed.
        positive: whether all must be above zero.

    Raises:
        UsageError: not finite numbers, not `count` of them, or not positive where they must be.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)) or (count is not None and len(numbers) != count):
        raise UsageError(f"{option} {text}: is not {'a list of' if count is None else count} numbers split by commas")
    if positive and min(numbers) <= 0:
        raise UsageError(f"{option} {text}: must be positive")
    return numbers
