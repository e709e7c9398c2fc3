"""What `facex diff` found, for the terminal: what a release note needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from facex.errors import EXIT_OK
from facex.manifest import exit_code_of
from facex.report.printing import add_row, make_table, print_whole, write_line
from facex.report.wording import NOTHING, OUTCOMES, figure, plural, with_unit
from facex.types import Finding, Verdict, run_name

if TYPE_CHECKING:
    from rich.console import Console


def render(found: Any, console: Console) -> None:
    """Print a `facex.diffing.Diff`: what changed, what cannot be compared, what the rules say."""
    for text in _fields(found.fields):
        write_line(console, text)
    _names(console, "added", found.added)
    _names(console, "removed", found.removed)
    _names(console, "identical", found.identical)
    _figures(found.figures, console)
    _reasons(console, "not compared", [(f.artifact, _what(f), f.reason) for f in found.figures if f.reason])
    _operators(found.operators, console)
    _verdicts(found.findings, console)


def _names(console: Console, word: str, names: Sequence[str]) -> None:
    if names:
        write_line(console, f"{word}: {', '.join(names)}")


def _fields(changes: Sequence[Any]) -> Iterator[str]:
    if not any(change.subject == "checkpoint" and change.name == "sha256" for change in changes):
        yield "checkpoint: the same bytes"
    if any((change.subject, change.name) == ("evaluation", "digest") for change in changes):
        yield "evaluation: parity was measured on other photographs, so its figures are not of the same faces"
    for change in changes:
        yield f"{change.subject}: {change.name} {_value(change.old)} -> {_value(change.new)}"


def _value(value: Any) -> str:
    if isinstance(value, (float, int)) and not isinstance(value, bool):
        return figure(value)
    return NOTHING if value is None else value if isinstance(value, str) else json.dumps(value)


def _what(about: Any) -> str:
    return run_name(f"{about.name} on {about.device}" if about.device else about.name, about.runtime)


def _figures(figures: Sequence[Any], console: Console) -> None:
    """A row for each figure that is not what it was, and how many are."""
    changed = [f for f in figures if f.old != f.new]
    columns = ("old", "new", "change")
    shown = make_table("artifact", "figure", *columns, "", right=columns)
    conditions = dict.fromkeys(f.condition for f in changed if f.condition)
    numbers = {text: f"[{i + 1}]" for i, text in enumerate(conditions)}
    for f in changed:
        note = " ".join(filter(None, (numbers.get(f.condition, ""), _worse(f))))
        cells = (with_unit(f.old, f.unit), with_unit(f.new, f.unit), _change(f), note)
        add_row(shown, console, f.artifact, _what(f), *cells)
    if shown.row_count:
        print_whole(shown, console)
    for text, number in numbers.items():
        write_line(console, f"{number} {text}")
    if conditions:
        write_line(console, "The latency of a measurement is its minimum, which repeats best.")
    same = sum(f.old == f.new is not None for f in figures)
    write_line(console, f"{plural(same, 'figure')} of {len(figures)} as before")


def _worse(f: Any) -> str:
    if f.reason:
        return "not compared"
    return "worse" if f.worsening is not None and f.worsening > 0 else ""


def _change(f: Any) -> str:
    if f.reason or f.old is None or f.new is None:
        return NOTHING
    grown = f.new - f.old
    return f"{grown:+.3g}" if f.old == 0 else f"{grown:+.3g} ({grown / abs(f.old):+.1%})"


def _operators(changes: Sequence[Any], console: Console) -> None:
    by_artifact: dict[str, list[str]] = {}
    for change in changes:
        if not change.reason:
            by_artifact.setdefault(change.artifact, []).append(f"{change.operator} {change.old} -> {change.new}")
    for artifact, texts in by_artifact.items():
        write_line(console, f"operators of {artifact}: {', '.join(texts)}")
    _reasons(console, "not compared", [(c.artifact, "operators", c.reason) for c in changes if c.reason])


def _reasons(console: Console, word: str, about: Sequence[tuple[str, str, str]]) -> None:
    """The reasons of (artifact, what, reason), and below each what it is about."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for artifact, what, reason in about:
        reasons.setdefault(reason, {}).setdefault(what, []).append(artifact)
    for reason, found in reasons.items():
        write_line(console, f"{word}: {reason}")
        for what, artifacts in found.items():
            write_line(console, f"  {what}: {', '.join(artifacts)}")


def _verdicts(findings: Sequence[Finding], console: Console) -> None:
    """Broken rules, what no rule could judge, and the outcome; nothing where there is no rule."""
    for f in findings:
        if f.verdict is Verdict.FAIL:
            write_line(console, f"FAIL {f.artifact} {_what(f)}: {f.reason}", "bold red")
    skipped = [f for f in findings if f.verdict is Verdict.SKIPPED]
    _reasons(console, "SKIPPED", [(f.artifact, _what(f), f.reason) for f in skipped])
    if not findings:
        return
    failed = sum(f.verdict is Verdict.FAIL for f in findings)
    code = exit_code_of(findings)
    word, meaning = OUTCOMES[code]
    counts = f"{failed} of {plural(len(findings), 'figure')} worse than allowed, {len(skipped)} not compared"
    style = "bold red" if code != EXIT_OK else "bold yellow" if skipped else "bold green"
    write_line(console, f"{word}  exit code {code}, {meaning}: {counts}", style)
