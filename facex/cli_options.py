"""The options of the command line: what each takes and says, and the values that become of several."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from facex import device_bench, exporters
from facex.errors import UsageError
from facex.recipe import (
    BUDGET_LIMITS,
    DEFAULT_EFFORT,
    DEFAULT_SELECTION,
    DEFAULT_STEPS,
    MAX_THREADS,
    Budget,
    parse_activation,
    parse_anchors,
    parse_number,
    parse_numbers,
    parse_size,
)
from facex.types import (
    HOST,
    ChannelOrder,
    ContractOptions,
    Credits,
    Delegate,
    Effort,
    ExportOptions,
    Fp32Ops,
    Head,
    Precision,
    ReportPhotographs,
    Runtime,
    Size,
)

F = TypeVar("F", bound=Callable[..., Any])


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """A parameter that one of our parsers reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The name as it is: click's own would be in capitals."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text; values that are parsed already pass through. The parsers' errors name the option themselves."""
        return self._parse(value) if isinstance(value, str) else value


def _limit(text: str) -> Any:
    from facex.parity.limits import parse_limit  # not at the top: it is of no use to `facex --help`

    return parse_limit(text)


def _rule(text: str) -> Any:
    from facex.regression import parse_rule  # likewise

    return parse_rule(text)


PATH = click.Path(path_type=Path)
SIZE = Parsed("HxW", parse_size)
LIMIT = Parsed("[PRECISION.]METRIC=VALUE", _limit)
RULE = Parsed("RULE", _rule)


def _numbers(option: str, count: int, *, positive: bool = False) -> Parsed:
    return Parsed(",".join(["X"] * count), lambda text: parse_numbers(text, option, count, positive=positive))


def _positive(option: str) -> Parsed:
    return Parsed("NUMBER", lambda text: parse_number(text, option))


def _limit_on(metric: str) -> Parsed:
    return Parsed("NUMBER", lambda text: _limit(f"{metric}={text}"))


def _one_size(sizes: Sequence[Size]) -> Size | None:
    if len(sizes) > 1:
        raise UsageError(
            f"--size: a bundle holds models of one size, not of {', '.join(map(str, sizes))}", hint="give one"
        )
    return sizes[0] if sizes else None


def stacked(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator; `--help` has them in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


conversion_options = stacked(
    click.option(
        "--target",
        "targets",
        type=click.Choice(exporters.names()),
        multiple=True,
        help="What to write; repeatable.  [default: all]",
    ),
    click.option(
        "--precision",
        "precisions",
        type=click.Choice(list(map(str, Precision))),
        multiple=True,
        help="Number format, for every target; repeatable.  [default: fp32, for Core ML fp16]",
    ),
    click.option("--int8", is_flag=True, help="Also 8 bits: w8a8 for TFLite and ONNX, w8 for Core ML."),
    click.option("--fp16", is_flag=True, help="Short for --precision fp16."),
    click.option(
        "--palettize",
        "palettes",
        type=click.Choice(["6", "4"]),
        multiple=True,
        help="For Core ML, weights of so many bits from palettes; short for --precision p6 or p4.",
    ),
    click.option(
        "--size",
        "sizes",
        type=SIZE,
        multiple=True,
        default=["640x640"],
        show_default=True,
        help="Input height x width in pixels, multiples of 8; repeatable.",
    ),
    click.option(
        "--head",
        type=click.Choice(list(map(str, Head))),
        default="decoded",
        show_default=True,
        help="Boxes in input pixels by prior, the network's own tensors, or the faces found (threshold and NMS "
        "inside).",
    ),
    click.option(
        "--score-threshold",
        type=float,
        help=f"With --head detections, lowest score of a face.  [default: {DEFAULT_SELECTION.score_threshold:g}]",
    ),
    click.option(
        "--nms-iou",
        type=float,
        help=f"With --head detections, largest overlap of two faces.  [default: {DEFAULT_SELECTION.nms_iou:g}]",
    ),
    click.option(
        "--max-faces",
        type=int,
        help=f"With --head detections, how many faces a file gives at most.  [default: {DEFAULT_SELECTION.max_faces}]",
    ),
)
calibration_options = stacked(
    click.option(
        "--calib",
        type=PATH,
        help="Folder of calibration photographs, with faces, unlabelled. w8a8 and --fp32-ops need it; w8, p6 and p4 "
        "gain.",
    ),
    click.option(
        "--int8-effort",
        "effort",
        type=click.Choice(list(map(str, Effort))),
        default=str(DEFAULT_EFFORT),
        show_default=True,
        help="For w8a8: statistics and algebra (fast), learning as well (best), or what converters do (minmax).",
    ),
    click.option(
        "--int8-steps",
        "steps",
        type=click.IntRange(1),
        default=DEFAULT_STEPS,
        show_default=True,
        help="Steps of learning with --int8-effort best.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is random in calibration."
    ),
    click.option(
        "--fp32-ops",
        type=click.Choice(list(map(str, Fp32Ops))),
        default=str(Fp32Ops.NONE),
        show_default=True,
        help="Of half-precision Core ML files, keep in float32 what overflows or underflows in --calib photographs "
        "(auto).",
    ),
)
contract_options = stacked(
    click.option(
        "--activation",
        type=Parsed("relu|leaky:SLOPE", parse_activation),
        help="Activations of the network, where its architecture leaves them open.  [assumed: leaky:0.1]",
    ),
    click.option(
        "--pyramid-activation",
        type=Parsed("relu|leaky:SLOPE", lambda text: parse_activation(text, "--pyramid-activation")),
        help="Those of pyramid and context modules, where they differ.  [assumed: ReLU beyond 64 channels]",
    ),
    click.option(
        "--anchors",
        type=Parsed("SIZES", parse_anchors),
        help="Prior sizes in pixels, levels split by ';'.  [assumed: '16,32;64,128;256,512']",
    ),
    click.option(
        "--variances",
        type=_numbers("--variances", 2, positive=True),
        help="Scales of centre offsets and log sizes.  [assumed: 0.1,0.2]",
    ),
    click.option(
        "--channel-order",
        type=click.Choice(list(map(str, ChannelOrder))),
        help="Channel order the network was trained with.  [assumed: bgr]",
    ),
    click.option(
        "--mean",
        type=_numbers("--mean", 3),
        help="Mean of 0-255 pixels, in the network's channel order.  [assumed: 104,117,123]",
    ),
    click.option(
        "--scale",
        type=_numbers("--scale", 3, positive=True),
        help="Factor after the mean is subtracted, by channel.  [assumed: 1,1,1]",
    ),
    click.option(
        "--landmarks", type=click.IntRange(1), help="Landmark points; follow from the checkpoint and must agree."
    ),
)
limit_option = click.option(
    "--limit",
    "limits",
    type=LIMIT,
    multiple=True,
    help="Replace a default limit, e.g. matched_f1=0.98 or w8a8.landmark_nme_mean=0.02; repeatable.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    default=min(2, os.cpu_count() or 1),
    show_default=True,
    help="Threads of every runtime.",
)
several_threads_option = click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    multiple=True,
    default=(min(2, os.cpu_count() or 1),),
    show_default=True,
    help="Threads of every runtime; repeat on the host to time every file with each number of them.",
)
evidence_options = stacked(
    click.option("--images", type=PATH, help="Folder of photographs for parity; none of them may be in --calib."),
    click.option(
        "--ground-truth", type=PATH, help="gt.json beside those photographs: adds average precision and its drop."
    ),
    limit_option,
    click.option("--min-f1", type=_limit_on("matched_f1"), help="Short for --limit matched_f1=NUMBER."),
    click.option("--max-nme", type=_limit_on("landmark_nme_mean"), help="Short for --limit landmark_nme_mean=NUMBER."),
)
budget_options = stacked(
    click.option("--max-size-mb", type=_positive("--max-size-mb"), help="Largest artifact, in MB (10^6 bytes)."),
    click.option(
        "--max-latency-ms",
        type=_positive("--max-latency-ms"),
        help="Highest median latency in ms, on this host, or on the --device of bench.",
    ),
    click.option(
        "--max-load-ms", type=_positive("--max-load-ms"), help="Longest time from opening a file to its first result."
    ),
    click.option(
        "--max-memory-mb", type=_positive("--max-memory-mb"), help="Highest peak memory of one artifact, in MB."
    ),
)
runtimes_option = click.option(
    "--runtime",
    type=click.Choice(list(map(str, Runtime))),
    multiple=True,
    default=[str(Runtime.EXECUTOR)],
    show_default=True,
    callback=lambda _context, _option, values: tuple(map(Runtime, values)),
    help="What runs Core ML files: facex's executor anywhere, or Core ML on a Mac, on all units or some; repeatable, "
    "to hold Core ML against the executor too.",
)
photographs_option = click.option(
    "--photographs",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="How many of them, evenly spaced over the folder.",
)
runtime_option = click.option(
    "--runtime",
    type=click.Choice(list(map(str, Runtime))),
    default=str(Runtime.EXECUTOR),
    show_default=True,
    callback=lambda _context, _option, value: Runtime(value),
    help="What runs Core ML files: facex's executor anywhere, or Core ML on a Mac, on all units or some.",
)
device_options = stacked(
    click.option(
        "--device",
        metavar="NAME[:ARGUMENT]",
        default=(HOST,),
        show_default=True,
        multiple=True,
        help=f"Where they are timed: {', '.join(device_bench.names())}; adb:SERIAL and apple:NAME name a phone. "
        f"Or a phone to estimate for: {', '.join(device_bench.phones())}. Repeat for several.",
    ),
    click.option(
        "--benchmark-model",
        type=PATH,
        help="adb: a benchmark_model built for the phone.  [default: the one in the cache]",
    ),
    click.option(
        "--benchmark-apk", is_flag=True, help="adb: use the benchmark app that is installed on the phone instead."
    ),
    click.option(
        "--delegate",
        type=click.Choice(list(map(str, Delegate))),
        default=str(Delegate.XNNPACK),
        show_default=True,
        callback=lambda _context, _option, value: Delegate(value),
        help="adb: what runs the file, on the CPU or the GPU.",
    ),
    click.option("--cpu-mask", metavar="HEX", default="", help="adb: CPUs to run on, e.g. f0 for CPUs 4 to 7."),
    click.option("--profile", is_flag=True, help="host, adb: time every operator too, in a run of its own."),
)
credit_options = stacked(
    click.option("--author", metavar="TEXT", default="", help="Who made the model, written into every file."),
    click.option("--license", metavar="TEXT", default="", help="Name or address of its licence, likewise."),
    click.option("--model-version", metavar="TEXT", default="", help="Its version, likewise."),
)
size_option = click.option(
    "--size",
    type=SIZE,
    multiple=True,  # an options file may list the sizes of an export for every command
    callback=lambda _context, _option, values: _one_size(values),
    help="Input size of the models, where the export has several.",
)
report_option = click.option(
    "--report-photographs",
    type=click.Choice(list(map(str, ReportPhotographs))),
    default=str(ReportPhotographs.WORST),
    show_default=True,
    callback=lambda _context, _option, value: ReportPhotographs(value),
    help="Which of --images are in report.html: those in which a file differs most from the reference, or none.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON in the manifest's words, nothing else.")


def contract_of(values: dict[str, Any]) -> ContractOptions:
    """What was stated of the contract, taken out of the values."""
    order = values.pop("channel_order")
    return ContractOptions(
        activation_slope=values.pop("activation"),
        pyramid_slope=values.pop("pyramid_activation"),
        min_sizes=values.pop("anchors"),
        variances=values.pop("variances"),
        channel_order=ChannelOrder(order) if order else None,
        mean=values.pop("mean"),
        scale=values.pop("scale"),
        landmarks=values.pop("landmarks"),
    )


def export_options_of(values: dict[str, Any]) -> ExportOptions:
    """The options of the file formats, and the credits, taken out of the values."""
    return ExportOptions(
        opset=values.pop("opset"),
        deployment_target=values.pop("deployment_target"),
        credits=Credits(
            author=values.pop("author"), license=values.pop("license"), version=values.pop("model_version")
        ),
    )


def limits_of(values: dict[str, Any]) -> tuple[Any, ...]:
    """The limits, short forms last, taken out of the values."""
    short = (values.pop("min_f1"), values.pop("max_nme"))
    return (*values.pop("limits"), *(limit for limit in short if limit is not None))


def budget_of(values: dict[str, Any], devices: Sequence[str] = (HOST,)) -> Budget:
    """The budgets of the options file, and in those of the devices the options in place of what they name."""
    tables: dict[str, Budget] = dict(click.get_current_context().obj or {})
    stated = {name: value for name in BUDGET_LIMITS if (value := values.pop(name)) is not None}
    names = dict.fromkeys(map(device_bench.budgeted, devices))
    first, *own = (dataclasses.replace(tables.pop(name, Budget(device=name)), **stated) for name in names)
    return dataclasses.replace(first, others=(*own, *tables.values()))
