"""How every report words a value: characters, figures, and the meaning of the exit codes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from facex.errors import EXIT_BUDGET, EXIT_OK, EXIT_PARITY
from facex.types import Finding, Latency, LatencyKind, Selection, Verdict

NOTHING = "\N{EN DASH}"
"""Stands where nothing was measured."""

OUTCOMES = {
    EXIT_OK: ("PASSED", "nothing failed"),
    EXIT_PARITY: ("FAILED", "parity failed"),
    EXIT_BUDGET: ("FAILED", "budget exceeded"),
}
"""Exit code -> the run's result in a word, and what the code means."""

_NUMBER = re.compile(r"-?[0-9.]+(e[-+]?[0-9]+)?")
_INVISIBLE = {"Cc", "Cs", "Cn"}


def printable(text: str, *, keep: str = "") -> str:
    """The text with control characters, lone surrogates and non-characters written as escapes.

    A file name may hold any of them: a terminal would obey the first, and no encoding or XML parser takes the
    others.

    Args:
        text: any string.
        keep: control characters to leave as they are.
    """
    escaped = (
        c if c in keep or unicodedata.category(c) not in _INVISIBLE else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
    return "".join(escaped)


def figure(value: float | None) -> str:
    """A value with the digits that the manifest keeps."""
    return NOTHING if value is None else f"{value:.6g}"


def rounded(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def with_unit(value: float | None, unit: str) -> str:
    """A value and its unit, which is left out where it is a plain number."""
    return figure(value) if unit in ("ratio", "1") or value is None else f"{figure(value)} {unit}"


def comparison(finding: Finding) -> str:
    """The value and the limit it is held to, e.g. `0.873, limit >= 0.99`.

    A finding does not say on which side of its limit it must be; a failed or passed one shows it.
    """
    actual = with_unit(finding.actual, finding.unit)
    if finding.limit is None:
        return actual
    limit = with_unit(finding.limit, finding.unit)
    if finding.actual is None or finding.actual == finding.limit or finding.verdict is Verdict.SKIPPED:
        return f"{actual}, limit {limit}"
    below = finding.actual < finding.limit
    return f"{actual}, limit {'>=' if below is (finding.verdict is Verdict.FAIL) else '<='} {limit}"


def restates(finding: Finding) -> bool:
    """Whether the reason is only the figures over again, as in `0.873 is below 0.98`."""
    known = {"is", "above", "below", "the", "limit", "of", finding.unit}
    return finding.actual is not None and all(w in known or _NUMBER.fullmatch(w) for w in finding.reason.split())


def choosing(selection: Selection | None) -> str:
    """What a file chooses faces by, in brackets behind its head; empty where it leaves that to the app."""
    if selection is None:
        return ""
    return (
        f" (score >= {selection.score_threshold:g}, overlap <= {selection.nms_iou:g}, "
        f"{plural(selection.max_faces, 'face')} at most)"
    )


def condition(entry: Latency) -> str:
    """What a latency is, of what device and on how many threads."""
    preposition = "for" if entry.kind is LatencyKind.ESTIMATE else "on"
    return f"{entry.kind} {preposition} {entry.device}, {plural(entry.threads, 'thread')}"


def start(entry: Latency) -> str:
    """What the file takes to start, as far as it is known."""
    parts = [("load", entry.load_ms, "ms"), ("peak memory", entry.memory_mb, "MB")]
    return ", ".join(f"{word} {rounded(value)} {unit}" for word, value, unit in parts if value is not None)


def plural(count: int, noun: str) -> str:
    """`1 artifact`, `2 artifacts`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def encodable(encoding: str) -> Callable[[str], str]:
    """A function that puts a hyphen for an en dash and escapes for the rest of what an encoding lacks."""

    def convert(text: str) -> str:
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.replace(NOTHING, "-").encode(encoding, "backslashreplace").decode(encoding)
        return text

    return convert
