"""What files found in goldens, in a line each."""

from __future__ import annotations

from collections.abc import Iterable

from facex.manifest import GOLDENS_FINDING
from facex.report.wording import figure
from facex.types import Finding, run_name

MEASURES = ("score", "box", "landmark")


def texts(findings: Iterable[Finding]) -> list[str]:
    """For every file, runtime and device, the worst on any golden, of what is allowed; empty without goldens."""
    groups: dict[str, dict[str, Finding]] = {}
    for finding in findings:
        if finding.name.startswith("golden."):
            where = f" on {finding.device}" if finding.device else ""
            name = f"{run_name(finding.artifact, finding.runtime)}{where}"
            groups.setdefault(name, {})[finding.name] = finding
    return [f"{name}: {_text(found)}" for name, found in groups.items()]


def _text(found: dict[str, Finding]) -> str:
    lost, extra = found.get(GOLDENS_FINDING), found.get("golden.extra")
    if lost is None or lost.actual is None or extra is None:
        return "not run"
    parts = [f"lost {figure(lost.actual)}, extra {figure(extra.actual)}"]
    parts += [f"{m} {measured(found.get(f'golden.{m}'))}" for m in MEASURES]
    return ", ".join(parts)


def measured(finding: Finding | None) -> str:
    """The worst of a measure and its tolerance."""
    value = finding.actual if finding else None
    return f"{figure(None if value is None else float(f'{value:.2g}'))} of {figure(finding.limit if finding else None)}"
