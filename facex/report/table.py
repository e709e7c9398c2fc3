"""The table of artifacts as lines of styled text, laid out for a width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from facex.manifest import Manifest
from facex.report.wording import NOTHING, printable
from facex.types import Artifact, Finding, Latency, LatencyKind, Runtime, Verdict

Line = list[tuple[str, str]]
"""Pieces of text, each with the name of its rich style."""

BYTES_PER_MB = 1e6
STYLES = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.SKIPPED: "yellow"}
WORDS = {Verdict.PASS: "pass", Verdict.FAIL: "FAIL", Verdict.SKIPPED: "skipped", None: NOTHING}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a line is about; `runtime` as in the findings."""

    artifact: Artifact
    runtime: Runtime | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        header: two lines.
        cell: text for a row.
        metric: name of the finding shown; a failed one is emphasised.
        right: aligned to the right.
    """

    header: tuple[str, str]
    cell: Callable[[Manifest, Row], str]
    metric: str = ""
    right: bool = True


def lines(manifest: Manifest, width: int) -> list[Line]:
    """Header, rule and rows, a row an artifact and runtime; file names are whole whatever the width.

    Columns are two spaces apart, or one where that is too wide. Where even that is, every row takes two
    lines: verdict, file name and runtime, and the figures below.
    """
    told = any(row.runtime for row in _rows(manifest))
    columns = (*COLUMNS[:2], RUNTIME, *COLUMNS[2:]) if told else COLUMNS
    head, figures = columns[: 2 + told], columns[2 + told :]
    for gap in (2, 1):
        widths = _widths(manifest, columns)
        if sum(widths) + gap * (len(widths) - 1) <= width:
            return _laid_out(manifest, columns, gap)
    gap = 2 if sum(_widths(manifest, figures)) + 2 * len(figures) <= width else 1
    upper, lower = _laid_out(manifest, head, 2), _laid_out(manifest, figures, gap)
    indent: Line = [("  ", "")]
    both = [line for pair in zip(upper[3:], lower[3:], strict=True) for line in (pair[0], indent + pair[1])]
    return [upper[1], *(indent + line for line in lower[:2]), lower[2], *both]


def shown_latency(manifest: Manifest, artifact: str, runtime: Runtime | None) -> Latency | None:
    """The latency in the table: the first measured one, else the first emulated, else the first estimate."""
    ranks = list(LatencyKind)
    about = [entry for entry in manifest.latency if (entry.artifact, entry.runtime) == (artifact, runtime)]
    return min(about, key=lambda entry: ranks.index(entry.kind), default=None)


def milliseconds(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def _rows(manifest: Manifest) -> list[Row]:
    return [Row(artifact=a, runtime=runtime) for a in manifest.artifacts for runtime in manifest.runtimes(a.name)]


def _widths(manifest: Manifest, columns: Sequence[Column]) -> list[int]:
    from rich.cells import cell_len

    return [
        max(cell_len(text) for text in (*column.header, *(column.cell(manifest, row) for row in _rows(manifest))))
        for column in columns
    ]


def _laid_out(manifest: Manifest, columns: Sequence[Column], gap: int) -> list[Line]:
    """Two lines of headers, the rule, and a line a row."""
    from rich.cells import cell_len

    widths = _widths(manifest, columns)

    def line_of(texts: Sequence[str], styles: Sequence[str]) -> Line:
        line: Line = []
        for i, (column, text, style, cells) in enumerate(zip(columns, texts, styles, widths, strict=True)):
            blank = " " * (cells - cell_len(text))
            before, after = (blank, "") if column.right else ("", blank)
            line += [(" " * gap * (i > 0) + before, ""), (text, style), (after, "")]
        return line

    plain = ["bold"] * len(columns)
    out = [line_of([column.header[i] for column in columns], plain) for i in (0, 1)]
    out.append([("-" * (sum(widths) + gap * (len(widths) - 1)), "dim")])
    for row in _rows(manifest):
        texts = [column.cell(manifest, row) for column in columns]
        out.append(line_of(texts, [_style(manifest, row, column) for column in columns]))
    return out


def _about(manifest: Manifest, row: Row, metric: str) -> list[Finding]:
    """The findings of a metric that a row stands for."""
    about = [f for f in manifest.findings if f.artifact == row.artifact.name and f.name == metric]
    return [f for f in about if f.runtime in (None, row.runtime)]


def _style(manifest: Manifest, row: Row, column: Column) -> str:
    verdict = manifest.verdict_in(row.artifact.name, row.runtime)
    about = _about(manifest, row, column.metric)
    if column is COLUMNS[0] or any(f.verdict is Verdict.FAIL for f in about):
        return STYLES[verdict] if verdict else ""
    return "red" if verdict is Verdict.FAIL else ""


def _metric(name: str, write: Callable[[float], str]) -> Callable[[Manifest, Row], str]:
    def cell(manifest: Manifest, row: Row) -> str:
        values = (f.actual for f in _about(manifest, row, name))
        value = next((v for v in values if v is not None), None)
        return NOTHING if value is None else write(value)

    return cell


def share(value: float) -> str:
    """Three decimals, cut off and not rounded: 1.000 is said only of a perfect result."""
    return f"{math.floor(value * 1000 + 1e-6) / 1000:.3f}"


def error(value: float) -> str:
    """Four decimals; smaller values as a power of ten, for 0.0000 is said only of zero."""
    return f"{value:.4f}" if value == 0 or value >= 5e-5 else f"{value:.0e}"


def _percent(value: float) -> str:
    """Per cent; 0% is said only of zero."""
    percent = value * 100
    if 0 < percent < 0.005:
        return "<0.01%"
    return "0%" if value == 0 else f"{percent:.{1 if percent >= 0.995 else 2}f}%"


def _verdict(manifest: Manifest, row: Row) -> str:
    return WORDS[manifest.verdict_in(row.artifact.name, row.runtime)]


def _size_mb(_: Manifest, row: Row) -> str:
    value = row.artifact.size_bytes / BYTES_PER_MB
    return f"{value:.2f}" if value >= 0.005 else "<0.01"


def _integer_macs(_: Manifest, row: Row) -> str:
    percent = row.artifact.integer_mac_fraction * 100
    return "<1%" if 0 < percent < 1 else f"{math.floor(percent + 1e-6)}%"


def _latency(manifest: Manifest, row: Row) -> str:
    entry = shown_latency(manifest, row.artifact.name, row.runtime)
    if entry is None:
        return NOTHING
    low = milliseconds(entry.low_ms) if entry.kind is LatencyKind.MEASURED else entry.kind.value
    return f"{milliseconds(entry.p50_ms)} ({low})"


COLUMNS = (
    Column(header=("", "verdict"), cell=_verdict, right=False),
    Column(header=("", "file"), cell=lambda _, row: printable(row.artifact.name), right=False),
    Column(header=("", "target"), cell=lambda _, row: row.artifact.target, right=False),
    Column(header=("", "prec."), cell=lambda _, row: row.artifact.precision.value, right=False),
    Column(header=("size", "MB"), cell=_size_mb, metric="size"),
    Column(header=("int", "MACs"), cell=_integer_macs),
    Column(header=("", "F1"), cell=_metric("matched_f1", share), metric="matched_f1"),
    Column(header=("lost", "faces"), cell=_metric("lost_faces", _percent), metric="lost_faces"),
    Column(header=("IoU", "p5"), cell=_metric("box_iou_p5", share), metric="box_iou_p5"),
    Column(header=("", "NME"), cell=_metric("landmark_nme_mean", error), metric="landmark_nme_mean"),
    Column(header=("p50 (min)", "ms"), cell=_latency, metric="latency"),
)
"""From left to right; the first two, with `RUNTIME`, are the line above the figures where the width is short."""

RUNTIME = Column(header=("", "runtime"), cell=lambda _, row: row.runtime.value if row.runtime else "", right=False)
"""After the first two, where an artifact was run in several."""
