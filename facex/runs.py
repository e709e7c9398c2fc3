"""Finished files, and the runtimes that each is run in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facex import exporters, manifest
from facex.errors import MissingExtraError, SessionUnavailableError, stage
from facex.types import Artifact, FileFacts, Finding, Head, Precision, Runtime, Selection, Session, Size, run_name


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A finished file on disk, and what it says of itself; `selection` is that of a `detections` head."""

    name: str
    path: Path
    target: str
    precision: Precision
    head: Head
    size: Size
    facts: FileFacts
    selection: Selection | None = None

    def artifact(self, runtime: str | None) -> Artifact:
        """As a manifest records it, beside it in the same folder; `runtime` is what ran it, or None."""
        return Artifact(
            path=self.name,
            target=self.target,
            precision=self.precision,
            head=self.head,
            size=self.size,
            size_bytes=manifest.size_of(self.path),
            sha256=manifest.sha256_of(self.path),
            inputs=self.facts.inputs,
            outputs=self.facts.outputs,
            integer_mac_fraction=self.facts.integer_mac_fraction,
            minimum_runtime=self.facts.minimum_runtime,
            runtime=runtime,
            promoted=True,
            credits=self.facts.credits,
            neural_engine_forecast=self.facts.neural_engine_forecast,
            selection=self.selection,
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A file in one runtime.

    Attributes:
        runtime: what opens the file, where facex can execute it itself.
        label: the same where the file is run in several, so that what is found in each is told apart; else None.
    """

    subject: Subject
    runtime: Runtime
    label: Runtime | None

    @property
    def name(self) -> str:
        """Unique among the runs of an examination."""
        return run_name(self.subject.name, self.label)

    def labelled(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings as those of this run."""
        return [dataclasses.replace(finding, runtime=self.label) for finding in findings]


def runs_of(subjects: Sequence[Subject], runtimes: Sequence[Runtime]) -> tuple[Run, ...]:
    """Every file in every runtime, file by file; one of a target with a single runtime is run once.

    Args:
        subjects: files.
        runtimes: at least one, each once.
    """
    found = []
    for subject in subjects:
        several = len(runtimes) > 1 and exporters.has_native(subject.target)
        chosen = runtimes if several else runtimes[:1]
        found += [Run(subject=subject, runtime=r, label=r if several else None) for r in chosen]
    return tuple(found)


def executor_of(run: Run, runs: Iterable[Run]) -> Run | None:
    """The run of the same file in facex's executor that a run elsewhere is held against, where there is one."""
    if run.label in (None, Runtime.EXECUTOR):
        return None
    return next((r for r in runs if r.subject is run.subject and r.label is Runtime.EXECUTOR), None)


def open_sessions(runs: Sequence[Run], threads: int) -> tuple[dict[str, Session], dict[str, str]]:
    """Sessions by the name of the run, and for the others why this machine has none.

    Args:
        runs: files in their runtimes.
        threads: for each.
    """
    sessions: dict[str, Session] = {}
    unavailable: dict[str, str] = {}
    for run in runs:
        subject = run.subject
        with stage(run.name):
            try:
                sessions[run.name] = exporters.open_session(subject.target, subject.path, threads, run.runtime)
            except (SessionUnavailableError, MissingExtraError) as reason:
                unavailable[run.name] = str(reason)
    return sessions, unavailable


def untimed(sessions: Mapping[str, Session]) -> dict[str, str]:
    """Why some sessions are not timed."""
    return {name: session.untimed for name, session in sessions.items() if session.untimed}
