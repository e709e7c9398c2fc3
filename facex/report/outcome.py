"""The result of a run, counted for every report alike."""

from __future__ import annotations

from dataclasses import dataclass

from facex.manifest import FACES_FINDING, GOLDENS_FINDING, Manifest
from facex.report.wording import OUTCOMES, plural
from facex.types import Verdict, run_name


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result.

    Attributes:
        word: PASSED or FAILED.
        meaning: of the exit code.
        exit_code: of the run.
        proven: whether every artifact was compared with the reference or, where it was not to be, held to goldens, in
            every runtime.
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
    by_faces = {f.artifact for f in faces}
    faces += [f for f in manifest.findings if f.name == GOLDENS_FINDING and f.artifact not in by_faces]
    compared = {f.artifact for f in faces if f.verdict is not Verdict.SKIPPED}
    skipped = {f.artifact for f in faces if f.verdict is Verdict.SKIPPED}
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


def compared(manifest: Manifest) -> str:
    """What the artifacts were held against, in words."""
    parts = []
    if manifest.evaluation:
        seen = manifest.evaluation
        parts.append(f"compared on {plural(seen.count, 'photograph')} with {plural(seen.reference_faces, 'face')}")
    elif any(f.name == FACES_FINDING for f in manifest.findings):
        parts.append("compared on noise, without photographs")
    if any(f.name == GOLDENS_FINDING for f in manifest.findings):
        parts.append("held to goldens")
    return ", ".join(parts) or "not compared"


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
