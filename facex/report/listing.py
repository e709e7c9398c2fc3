"""Tables of `bench`, `inspect`, `debug-int8`, `debug-fp16`, `doctor` and `weights` for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from facex.report import goldens, ratios
from facex.report.printing import add_row, make_table, print_whole, write_fields, write_line
from facex.report.wording import choosing, comparison, condition, figure, plural
from facex.types import (
    Artifact,
    FileFacts,
    Finding,
    KernelFacts,
    Latency,
    LatencyKind,
    NeuralEngineForecast,
    QuantizationFacts,
    StandardMetadata,
    Verdict,
    run_name,
)

if TYPE_CHECKING:
    from rich.console import Console

    from facex.calibration.insight import Insight
    from facex.manifest import Manifest

RATIOS = ("x fp32 min", "x fp32 p50")
SHOWN_ISLANDS = 12
SHOWN_KERNELS = 20
ABSENT = "-"
CREDITS = {"author": "author", "license": "licence", "version": "model version"}


def timing(
    artifacts: Sequence[Artifact], latency: Sequence[Latency], findings: Sequence[Finding], console: Console
) -> None:
    """Print size and latency on each device, with the ratios to the float32 file of the same target, size and head."""
    devices = list(dict.fromkeys(entry.device for entry in latency)) or [""]
    banded = any(entry.kind is LatencyKind.ESTIMATE for entry in latency)
    ends = ("low ms", "p50 ms", "high ms") if banded else ("min ms", "p50 ms", "p90 ms")
    columns = (*ends, *RATIOS, "load ms", "peak MB", "MB")
    several = ("device",) if len(devices) > 1 else ()
    threaded = ("threads",) if len({entry.threads for entry in latency}) > 1 else ()
    table = make_table("artifact", *several, *threaded, "times are", *columns, right=(*threaded, *columns))
    compared = ratios.of(artifacts, latency)
    for artifact in artifacts:
        own: list[Latency | None] = [entry for entry in latency if entry.artifact == artifact.name]
        for entry in own or [None]:
            where = [entry.device.partition(":")[0] if entry else ABSENT] if several else []
            where += [str(entry.threads) if entry else ABSENT] if threaded else []
            kind = entry.kind.value if entry else ABSENT
            times = [_figure(t) for t in ((entry.low_ms, entry.p50_ms, entry.high_ms) if entry else (None,) * 3)]
            start = [_figure(t) for t in ((entry.load_ms, entry.memory_mb) if entry else (None,) * 2)]
            size_mb = f"{artifact.size_bytes / 1e6:.3f}"
            ratio = ratios.ratio_of(entry, compared) if entry else None
            shares = [_figure(r) for r in ((ratio.low, ratio.p50) if ratio else (None, None))]
            add_row(table, console, artifact.name, *where, kind, *times, *shares, *start, size_mb)
    print_whole(table, console)
    for text in dict.fromkeys(_taken(entry, many=len(artifacts) > 1) for entry in latency):
        write_line(console, text)
    if any(entry.kind is not LatencyKind.ESTIMATE for entry in latency):
        write_line(
            console, "x fp32: of minima, which repeat best on a machine that does other work too, and of medians."
        )
    for text in goldens.texts(findings):
        write_line(console, f"goldens: {text}")
    _verdicts(findings, console)


def _taken(entry: Latency, *, many: bool) -> str:
    """How a figure came about; an estimate is of one file, so that is named where there are `many`."""
    if entry.kind is LatencyKind.ESTIMATE:
        return f"{f'{entry.artifact}, ' if many else ''}{condition(entry)}: {entry.method}"
    return f"{condition(entry)}, {plural(entry.runs, 'run')}: {entry.method}"


def _figure(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"


def _verdicts(findings: Sequence[Finding], console: Console) -> None:
    for finding in findings:
        if finding.verdict is Verdict.FAIL:
            write_line(console, f"FAIL {finding.artifact} {finding.title}: {finding.reason}", "red")
        elif finding.verdict is Verdict.SKIPPED:
            write_line(console, f"skipped {finding.artifact} {finding.title}: {finding.reason}")


def facts(
    described: Sequence[tuple[Artifact, FileFacts, KernelFacts | None]], record: Manifest | None, console: Console
) -> None:
    """Print what files say of themselves, the kernels that run them, and what a manifest they came from says."""
    for artifact, found, kernels in described:
        write_line(console, artifact.path, "bold")
        write_fields(console, _facts(artifact, found))
        for island in found.float_islands[:SHOWN_ISLANDS]:
            share = island.macs / found.macs
            write_fields(console, [("float island", f"{island.name} ({island.operator}, {share:.2%} of the MACs)")])
        if len(found.float_islands) > SHOWN_ISLANDS:
            write_fields(console, [("", f"and {len(found.float_islands) - SHOWN_ISLANDS} more (--json lists all)")])
        if found.quantization is not None:
            write_fields(console, _quantization(found.quantization))
        if kernels is not None:
            write_fields(console, _kernels(kernels))
        if found.neural_engine_forecast is not None:
            _forecast(found.neural_engine_forecast, console)
    if record is not None:
        write_line(console, "manifest", "bold")
        write_fields(console, _recorded(record))


def _facts(artifact: Artifact, found: FileFacts) -> list[tuple[str, str]]:
    head = f"{artifact.head} head{choosing(artifact.selection)}"
    return [
        ("target", f"{artifact.target}, {artifact.precision}, {head}, {artifact.size}"),
        ("size", f"{artifact.size_bytes / 1e6:.3f} MB, sha256 {artifact.sha256}"),
        ("runs on", found.minimum_runtime),
        ("inputs", ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in found.inputs)),
        ("outputs", ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in found.outputs)),
        *((CREDITS[name], value) for name, value in vars(found.credits).items() if value),
        ("MACs", f"{found.macs / 1e6:.1f} M, {found.integer_mac_fraction:.2%} of them integer"),
        ("operators", ", ".join(f"{count} {name}" for name, count in found.operators.items())),
        *((key.removeprefix("facex."), value) for key, value in found.metadata.items()),
        *(_standard(found.standard_metadata) if found.standard_metadata else ()),
    ]


def _standard(shown: StandardMetadata) -> list[tuple[str, str]]:
    """What tools show: the model in a line, and its tensors."""
    model = ": ".join(text for text in (shown.name, shown.description) if text)
    tensors = (
        ("", f"{t.name}{f' ({t.content})' if t.content else ''}: {t.description or 'not described'}")
        for t in shown.tensors
    )
    return [("tools show", f"{model or 'no description'} ({shown.format})"), *tensors]


def _forecast(found: NeuralEngineForecast, console: Console) -> None:
    """The summary, a row for operations that are treated alike, and where each reason was published."""
    published = dict.fromkeys(o.source for o in found.operations if o.source)
    sources = {source: f"[{i + 1}]" for i, source in enumerate(published)}
    write_line(console, "forecast for the Neural Engine, from published statements; no device was asked", "bold")
    summary = [
        ("operations there", f"{found.resident_operation_fraction:.1%}"),
        ("MACs there", f"{found.resident_mac_fraction:.1%}"),
        ("transitions", f"{plural(found.transitions, 'tensor')} copied between it and other engines"),
        ("first elsewhere", found.first_elsewhere or "none"),
        *(("note", note) for note in found.notes),
    ]
    write_fields(console, summary)
    table = make_table("operator", "count", "forecast", "reason", "source", right=("count",))
    for o in found.operations:
        add_row(table, console, o.operator, str(o.count), o.placement.value, o.reason, sources.get(o.source, ABSENT))
    print_whole(table, console)
    write_fields(console, [(number, source) for source, number in sources.items()])


def _quantization(found: QuantizationFacts) -> list[tuple[str, str]]:
    """The steps of the head's tensors, and what the lint of the gate counts."""
    fields = [
        ("head step", f"{tensor.output}: {figure(tensor.step)} {tensor.unit}, {tensor.name}")
        for tensor in found.head_tensors
    ]
    fields += [("requantized", name) for name in found.requantizations[:SHOWN_ISLANDS]]
    if len(found.requantizations) > SHOWN_ISLANDS:
        fields.append(("", f"and {len(found.requantizations) - SHOWN_ISLANDS} more (--json lists all)"))
    fields += [("constant weight", name) for name in found.constant_weights]
    return [*fields, ("dead channels", f"{found.dead_channels} with no weight but zero")]


def _kernels(found: KernelFacts) -> list[tuple[str, str]]:
    """How many operators are left to built-in kernels, each of them, the slowest first, and how that is known."""
    left, method = found.reference_kernels, found.reference_kernels_method
    if left is None:
        return [("reference kernels", method)]
    if not left:
        return [("reference kernels", f"none ({method})")]
    slowest = sorted(left, key=lambda kernel: -(kernel.share_of_time or 0.0))
    together = _share([kernel.share_of_time for kernel in left])
    fields = [("reference kernels", f"{plural(len(left), 'operator')}, {together}")]
    fields += [("reference kernel", f"{k.name} ({k.operator}, {_share([k.share_of_time])})") for k in slowest]
    hidden = slowest[SHOWN_KERNELS:]
    if hidden:
        rest = _share([kernel.share_of_time for kernel in hidden])
        fields[1 + SHOWN_KERNELS :] = [("", f"and {len(hidden)} more, {rest} (--json lists all)")]
    return [*fields, ("measured", method)]


def _share(shares: Sequence[float | None]) -> str:
    timed = [share for share in shares if share is not None]
    if not timed:
        return "not timed"
    untimed = len(shares) - len(timed)
    return f"{sum(timed):.2%} of the time" + (f" and {untimed} not timed" if untimed else "")


def _recorded(record: Manifest) -> list[tuple[str, str]]:
    source, calibration, evaluation = record.source, record.calibration, record.evaluation
    fields = [
        ("checkpoint", f"{source.checkpoint}, sha256 {source.sha256}"),
        ("assumed", ", ".join(source.assumed) or "nothing"),
        ("calibration", f"{plural(calibration.count, 'photograph')}, {calibration.method}" if calibration else "none"),
        (
            "parity",
            f"{plural(evaluation.count, 'photograph')}, {plural(evaluation.reference_faces, 'reference face')}"
            if evaluation
            else "no photographs",
        ),
        ("tools", ", ".join(f"{name} {version}" for name, version in record.tools.items())),
    ]
    for finding in record.findings:
        limit = "" if finding.limit is None else f" (limit {figure(finding.limit)})"
        reason = f" {finding.reason}" if finding.reason else ""
        about = run_name(finding.artifact, finding.runtime)
        measured = f"{about} {finding.name} {figure(finding.actual)} {finding.unit}{limit}"
        fields.append((finding.verdict.value, measured + reason))
    return fields


def debugged(found: Any, top: int, console: Console) -> None:
    """Print what `facex.debugging.debug` found: the head, the tensors that cost it most, and the lint."""
    write_line(console, found.artifact, "bold")
    if found.insight is not None:
        _insight(found.insight, found.available, top, console)
    for finding in found.findings:
        reason = f": {finding.reason}" if finding.reason else ""
        style = {Verdict.FAIL: "red", Verdict.SKIPPED: "yellow", Verdict.PASS: None}[finding.verdict]
        write_line(console, f"{finding.verdict} {finding.name} {comparison(finding)}{reason}", style)


def _insight(seen: Insight, available: int, top: int, console: Console) -> None:
    heads = ", ".join(f"{role} {_decibels(value)}" for role, value in seen.heads.items())
    write_line(console, f"head of the whole file against float: {heads} dB")
    spacing = ", evenly spaced (--photographs)" if seen.photographs < available else ""
    write_line(console, f"{seen.photographs} of {plural(available, 'photograph')}{spacing}")
    worst = sorted(seen.tensors, key=lambda t: (math.isfinite(t.relative_head_error), -t.relative_head_error))[:top]
    columns = ("grid", "seen", "clipped", "SQNR dB", "head dB")
    table = make_table("tensor", "operator", *columns, right=columns)
    for t in worst:
        cells = (f"{t.grid_low:.4g} .. {t.grid_high:.4g}", f"{t.seen_low:.4g} .. {t.seen_high:.4g}")
        ratios = (_decibels(t.sqnr_db), _decibels(t.head_sqnr_db))
        add_row(table, console, t.name, t.operator, *cells, f"{t.clipped_fraction:.3%}", *ratios)
    print_whole(table, console)
    write_line(
        console, f"{len(worst)} of {plural(len(seen.tensors), 'tensor')}, the worst first (--top; --json lists all)"
    )
    write_line(console, "SQNR dB: the tensor in the whole file; head dB: the head when this tensor alone is quantized")


def _decibels(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1f}"


def audited(found: Any, top: int, console: Console) -> None:
    """Print what `facex.debugging_fp16.debug` found: the most endangered values, and why some must stay in float32."""
    write_line(console, found.artifact, "bold")
    spacing = ", evenly spaced (--photographs)" if found.photographs < found.available else ""
    write_line(console, f"{found.photographs} of {plural(found.available, 'photograph')}{spacing}")
    columns = ("largest", "beyond", "subnormal", "lost", "error")
    table = make_table("value", "operator", *columns, right=columns)
    worst = found.worst()
    for one in worst[:top]:
        shares = (one.beyond_fraction, one.subnormal_fraction, one.lost_fraction, one.error)
        add_row(table, console, one.name, one.operator, f"{one.largest:.4g}", *(f"{share:.3%}" for share in shares))
    print_whole(table, console)
    shown = min(top, len(worst))
    write_line(
        console, f"{shown} of {plural(len(worst), 'value')}, the most endangered first (--top; --json lists all)"
    )
    write_line(
        console,
        "beyond: over 65504; subnormal, lost: of those not zero; error: of the channel that rounding hurts most",
    )
    risks = [one for one in worst if one.risk]
    for one in risks:
        write_line(console, f"at risk: {one.operator} {one.name}: {one.risk}", "yellow")
    if not risks:
        write_line(console, "nothing is at risk in half precision")


def health(found: Any, console: Console) -> None:
    """Print what `facex.doctor.examine` found."""
    write_line(console, f"facex {found.facex}, Python {found.python}, {found.system}")
    table = make_table("target", "exports", "runs its files", "packages")
    for target in found.targets:
        packages = ", ".join(f"{name} {version or 'missing'}" for name, version in target.packages.items())
        add_row(table, console, target.name, "yes" if target.exports else "NO", target.runs or "no", packages)
    console.print(table)
    for target in found.targets:
        if target.advice:
            write_line(console, f"{target.name}: {target.advice}")


def weights(found: Sequence[Any], console: Console) -> None:
    """Print the public checkpoints (`facex.weights.Copy`), what the cache holds of each, and how to export it."""
    table = make_table("checkpoint", "MB", "licence", "in the cache", right=("MB",))
    for copy in found:
        of = copy.checkpoint
        add_row(table, console, of.name, f"{of.size_bytes / 1e6:.1f}", of.licence, copy.state.value)
    print_whole(table, console)
    for copy in found:
        licence(copy.checkpoint, console)
        write_fields(console, [("export", copy.command)])
    write_line(console, "Nothing is fetched before facex weights pull NAME.")


def licence(checkpoint: Any, console: Console) -> None:
    """Print what a public checkpoint is, where it comes from, and under which licence."""
    write_line(console, f"{checkpoint.name}: {checkpoint.description}", "bold")
    fields = [
        ("licence", f"{checkpoint.licence}, stated at {checkpoint.licence_url}"),
        ("trained by", checkpoint.repository),
        ("address", checkpoint.url),
        ("sha256", checkpoint.sha256),
    ]
    write_fields(console, fields)


def pulled(copy: Any, console: Console) -> None:
    """Print where a checkpoint is now, and how to export it."""
    done = "fetched" if copy.fetched else "already there"
    fields = [("file", f"{copy.path} ({done}, its sha256 is the expected one)"), ("export", copy.command)]
    write_fields(console, fields)
