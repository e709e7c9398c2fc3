"""The end of a run in the terminal: what was made, what failed, what was skipped, and whether to ship it."""

from __future__ import annotations

import posixpath
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from facex.errors import EXIT_OK
from facex.manifest import Manifest, Source
from facex.report import goldens, runtimes, table
from facex.report.fields import OPTIONS, joined
from facex.report.outcome import outcome, skips
from facex.report.table import Line
from facex.report.wording import comparison, condition, encodable, plural, printable, restates, start
from facex.types import LatencyKind, SettledBy, Verdict, run_name

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 100
"""Columns where the output is no terminal, whose width nobody knows."""

MIN_WIDTH = 60
_LABEL_WIDTH = 13
_GLUE = "\N{NO-BREAK SPACE}"
_SPACES = re.compile(r"[ \t\n\r\f\v]+")

DEMONSTRATION = (
    "This is the demonstration detector that facex brings along. It was trained on rendered faces only and is none for "
    "an app. Your own: facex export MODEL.pth --int8 --calib CALIBRATION_PHOTOGRAPHS --images OTHER_PHOTOGRAPHS"
)


def render(manifest: Manifest, *, out_dir: Path | None, console: Console, page: str = "") -> None:
    """Print the report.

    Args:
        manifest: the whole record of the run.
        out_dir: the folder that holds the manifest and what was promoted; None when nothing was written.
        console: colours and encoding are its own; where it is no terminal, lines are made for 100 columns.
        page: where the page of the run is, and what is in it; empty where none was written.
    """
    from rich.text import Text

    width = max(console.width, MIN_WIDTH) if console.is_terminal else LOG_WIDTH
    convert = encodable(console.encoding)
    sections = [
        [*table.lines(manifest, width), *_beside_executor(manifest, width), *_latencies(manifest, width)]
        if manifest.artifacts
        else [[("No artifacts.", "")]],
        list(_goldens(manifest, width)),
        list(_failures(manifest, width)),
        list(_skips(manifest, width)),
        [*_origin(manifest, width), *(_paragraph("Page", page, width) if page else ())],
        list(_outcome(manifest, out_dir, width)),
    ]
    for i, section in enumerate(filter(None, sections)):
        for line in [[("", "")], *section] if i else section:
            text = Text.assemble(*((convert(piece), style) for piece, style in line))
            text.rstrip()
            # soft_wrap: a file name longer than the line is left whole, for the terminal to wrap
            console.print(text, soft_wrap=True)


def _paragraph(
    label: str, text: str, width: int, *, indent: int = _LABEL_WIDTH, style: str = "bold", body: str = ""
) -> Iterator[Line]:
    """A label and its text, wrapped between words and indented below the first word of the text."""
    hanging = " " * indent
    words = printable(_SPACES.sub(" ", text).strip(" "))
    wrapped = textwrap.wrap(words, width - indent, break_long_words=False, break_on_hyphens=False) or [""]
    for i, line in enumerate(wrapped):
        yield [(hanging if i else label.ljust(indent), "" if i else style), (line.replace(_GLUE, " "), body)]


def _glued(text: str) -> str:
    """The text, never to be wrapped at its spaces."""
    return text.replace(" ", _GLUE)


def _beside_executor(manifest: Manifest, width: int) -> Iterator[Line]:
    """How far each other runtime of a file is from facex's executor."""
    for i, text in enumerate(runtimes.beside_executor(manifest)):
        if i == 0:
            yield []
        yield from _paragraph("" if i else "vs executor", text, width)


def _latencies(manifest: Manifest, width: int) -> Iterator[Line]:
    """Where the times in the table were measured; each other time, with its band; what each file takes to start."""
    conditions: dict[str, list[int]] = {}
    others = []
    for entry in manifest.latency:
        if entry.kind is LatencyKind.MEASURED and entry is table.shown_latency(manifest, entry.artifact, entry.runtime):
            conditions.setdefault(condition(entry), []).append(entry.runs)
        else:
            others.append(entry)
    texts = [f"{text}, {_range(runs)} runs" for text, runs in conditions.items()]
    for entry in others:
        low, high = table.milliseconds(entry.low_ms), table.milliseconds(entry.high_ms)
        figures = f"{table.milliseconds(entry.p50_ms)} ms ({low} to {high})"
        texts.append(f"{_glued(run_name(entry.artifact, entry.runtime))}: {figures}, {condition(entry)}")
    starts = [
        f"{_glued(run_name(e.artifact, e.runtime))}: {start(e)}, {condition(e)}" for e in manifest.latency if start(e)
    ]
    if texts:
        yield []
    for label, paragraphs in (("Latency", texts), ("Start", starts)):
        for i, text in enumerate(paragraphs):
            yield from _paragraph("" if i else label, text, width)


def _range(values: list[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _goldens(manifest: Manifest, width: int) -> Iterator[Line]:
    """What each file found in the goldens, where there were any."""
    for i, text in enumerate(goldens.texts(manifest.findings)):
        yield from _paragraph("" if i else "Goldens", text, width)


def _failures(manifest: Manifest, width: int) -> Iterator[Line]:
    """A line a failed finding: artifact with its runtime, metric, value and limit.

    The reason stands there where it says more than these; below, where the line is full.
    """
    failed = [f for f in manifest.findings if f.verdict is Verdict.FAIL]
    rows = [(printable(run_name(f.artifact, f.runtime)), f.title, comparison(f)) for f in failed]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for finding, row in zip(failed, rows, strict=True):
        cells = "  ".join(text.ljust(n) for text, n in zip(row, widths, strict=True))
        reason = "" if restates(finding) else printable(" ".join(finding.reason.split()))
        if len("FAIL  ") + len(cells) + 2 + len(reason) <= width:
            yield [("FAIL  ", "bold red"), (f"{cells}  {reason}", "")]
        else:
            yield [("FAIL  ", "bold red"), (cells, "")]
            yield from _paragraph("", reason, width, indent=8) if reason else ()


def _skips(manifest: Manifest, width: int) -> Iterator[Line]:
    """Per reason: which checks, and of which artifacts."""
    for reason, checks in skips(manifest).items():
        yield from _paragraph("SKIPPED", reason, width, indent=9, style="yellow")
        for metrics, artifacts in checks.items():
            text = f"{', '.join(metrics)}: {', '.join(map(_glued, artifacts))}"
            yield from _paragraph("", text, width, indent=9)


def _origin(manifest: Manifest, width: int) -> Iterator[Line]:
    """Checkpoint, contract with its assumed part, and the photographs."""
    source, contract = manifest.source, manifest.source.contract
    yield from _paragraph(
        "Checkpoint",
        f"{_glued(source.checkpoint)}, {contract.family} {contract.backbone}, sha256 {source.sha256[:12]}",
        width,
    )
    if source.demonstration:
        yield from _paragraph("", DEMONSTRATION, width, body="yellow")
    parts = [
        _glued(f"{word} {value(contract)}{'*' if field in source.assumed else ''}")
        for field, (word, _, value) in OPTIONS.items()
        if _shown(field, source)
    ]
    mesh = [f"mesh code of {contract.mesh} values"] if contract.mesh else []
    yield from _paragraph("Contract", ", ".join([*parts, f"strides {joined(contract.strides)}", *mesh]), width)
    if source.assumed:
        fields = [f for f in source.assumed if _shown(f, source)]
        options = (f"{OPTIONS[f][1]} {shlex.quote(OPTIONS[f][2](contract))}" for f in fields)
        note = "* assumed: nobody stated it and no checkpoint can prove it. If it is right, state it:"
        yield from _paragraph("", note, width, body="yellow")
        yield from _paragraph("", " ".join(map(_glued, options)), width, body="yellow")
    yield from _probe(source, width)
    yield from _paragraph("Photographs", _photographs(manifest), width)


def _probe(source: Source, width: int) -> Iterator[Line]:
    """What a probe of weights and photographs found, and why it left the rest open."""
    probed = [s for s in source.settled if s.how is SettledBy.PROBED]
    if probed:
        names = ", ".join(f"{_glued(OPTIONS[s.field][0])} {s.confidence:.2f}" for s in probed)
        yield from _paragraph("Probe", f"found {names} (confidence, from 0.5 on decided)", width)
    reasons: dict[str, list[str]] = {}
    for s in source.settled:
        if s.how is SettledBy.ASSUMED and s.evidence:
            reasons.setdefault(s.evidence, []).append(OPTIONS[s.field][0])
    for i, (reason, fields) in enumerate(reasons.items()):
        label = "" if i or probed else "Probe"
        yield from _paragraph(label, f"undecided: {', '.join(fields)} ({reason})", width, body="yellow")


def _shown(field: str, source: Source) -> bool:
    """Whether a field is worth telling: not the activation that an architecture has anyway, nor one that is told."""
    by_design = any(s.field == "activation_slope" and s.how is SettledBy.PROVED for s in source.settled)
    if field == "activation_slope":
        return not by_design
    return field != "pyramid_slope" or by_design or _pyramid_differs(source)


def _pyramid_differs(source: Source) -> bool:
    """Whether the activation of pyramid and context modules is not told by that of the backbone."""
    contract, assumed = source.contract, source.assumed
    same = contract.pyramid_slope == contract.activation_slope
    both = ("pyramid_slope" in assumed) <= ("activation_slope" in assumed)
    return contract.pyramid_slope is not None and not (same and both)


def _photographs(manifest: Manifest) -> str:
    evaluation, calibration = manifest.evaluation, manifest.calibration
    return "; ".join(
        (
            f"{evaluation.count} for parity, {plural(evaluation.reference_faces, 'reference face')}"
            if evaluation
            else "none for parity",
            f"{calibration.count} for calibration ({calibration.method})" if calibration else "none for calibration",
        )
    )


def _outcome(manifest: Manifest, out_dir: Path | None, width: int) -> Iterator[Line]:
    """The last line: the result, what the exit code means, and where the files are."""
    found = outcome(manifest)
    parts = [*found.parts, *(_places(manifest, out_dir) if out_dir is not None else ())]
    style = "bold red" if found.exit_code != EXIT_OK else "bold green" if found.proven else "bold yellow"
    text = f"exit code {found.exit_code}, {found.meaning}: {', '.join(parts)}"
    yield from _paragraph(found.word, text, width, indent=len(found.word) + 2, style=style)


def _places(manifest: Manifest, out_dir: Path) -> Iterator[str]:
    """How many artifacts were promoted and how many were not, and the folders of each."""
    for promoted, verb in ((True, "promoted to"), (False, "left in")):
        chosen = [a for a in manifest.artifacts if a.promoted is promoted]
        parents = (posixpath.dirname(posixpath.normpath((out_dir / a.path).as_posix())) for a in chosen)
        folders = " and ".join(dict.fromkeys(_glued(posixpath.join(parent or ".", "")) for parent in parents))
        if chosen or promoted:
            yield f"{_glued(f'{len(chosen)} {verb}')} {folders}" if chosen else "none promoted"
