"""The result of a run, counted for every report alike."""

from __future__ import annotations

from dataclasses import dataclass

from facex.manifest import FACES_FINDING, Manifest
from facex.report import goldens
from facex.report.wording import OUTCOMES, plural
from facex.types import Verdict, run_name


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result.

    Attributes:
        word: PASSED or FAILED.
        meaning: of the exit code.
        exit_code: of the run.
        proven: whether every artifact was compared with the reference, in every runtime, or held to goldens.
        parts: how many artifacts there are, failed, or were not compared, in words.
    """

    word: str
    meaning: str
    exit_code: int
    proven: bool
    parts: tuple[str, ...]


def outcome(manifest: Manifest) -> Outcome:
    """The result of a whole manifest."""
    word, meaning = OUTCOMES[manifest.exit_code]
    total = len(manifest.artifacts)
    failed = sum(manifest.failed(a.name) for a in manifest.artifacts)
    faces = [f for f in manifest.findings if f.name == FACES_FINDING]
    compared = {f.artifact for f in faces if f.verdict is not Verdict.SKIPPED}
    skipped = {f.artifact for f in faces if f.verdict is Verdict.SKIPPED}
    compared |= {
        a.name for a in manifest.artifacts if a.name not in skipped and goldens.held(manifest.findings, a.name)
    }
    unproven = sum(a.name not in compared for a in manifest.artifacts)
    partly = sum(a.name in compared & skipped for a in manifest.artifacts)
    parts = [f"{failed} of {plural(total, 'artifact')} failed" if failed else plural(total, "artifact")]
    if unproven:
        parts.append(f"{unproven} not compared with the reference")
    if partly:
        parts.append(f"{partly} not compared in every runtime")
    return Outcome(
        word=word,
        meaning=meaning,
        exit_code=manifest.exit_code,
        proven=not (unproven or partly),
        parts=tuple(parts),
    )


def skips(manifest: Manifest) -> dict[str, dict[tuple[str, ...], list[str]]]:
    """Why checks were skipped -> which ones -> of which artifacts."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for f in manifest.findings:
        if f.verdict is Verdict.SKIPPED:
            reasons.setdefault(f.reason, {}).setdefault(run_name(f.artifact, f.runtime), []).append(f.title)
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for reason, checks in reasons.items():
        alike = found.setdefault(reason, {})
        for artifact, names in checks.items():
            alike.setdefault(tuple(names), []).append(artifact)
    return found
