"""Hold finished files against the reference and the budgets: the part that export, check and bench share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from facex import launching, manifest
from facex.comparing import Evidence, Returned, against_reference
from facex.manifest import Evaluation
from facex.progress import Clock
from facex.recipe import Budget
from facex.runs import Run, Subject, open_sessions, runs_of, untimed
from facex.sightings import Sightings
from facex.types import Artifact, Finding, Latency, Runtime, Session, Size

if TYPE_CHECKING:
    from facex.reference.photographs import Photograph

QUICK_RUNS = 20
"""Timed rounds where latency is one finding among many; `facex bench` takes its time."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found.

    Attributes:
        runs: what was to be run, in the order of the artifacts.
        findings: parity, by artifact.
        latency: of the runs that are timed here.
        runtimes: name of a run -> what ran it.
        untimed: name of a run -> why it has no latency: nothing here runs it, or what does is not what a device has.
        reference_faces: faces that the reference found, over all sizes; None without photographs.
        sightings: name of a run -> what it saw in the photographs.
    """

    runs: tuple[Run, ...]
    findings: tuple[Finding, ...]
    latency: tuple[Latency, ...]
    runtimes: Mapping[str, str]
    untimed: Mapping[str, str]
    reference_faces: int | None
    sightings: Mapping[str, Sightings] = field(default_factory=dict)

    def artifact(self, subject: Subject) -> Artifact:
        """As a manifest records it, with what ran it; of several runtimes, each with its name."""
        own = [run for run in self.runs if run.subject is subject and run.name in self.runtimes]
        texts = (f"{run.label}: {self.runtimes[run.name]}" if run.label else self.runtimes[run.name] for run in own)
        return subject.artifact("; ".join(texts) or None)

    def budget_findings(self, artifacts: Sequence[Artifact], budget: Budget) -> tuple[Finding, ...]:
        """Size of the artifacts, and latency, load time and memory of their runs, against the budgets."""
        from facex.device_bench import budget as judge

        return (*judge.size_findings(artifacts, budget), *self.latency_findings(artifacts, budget))

    def latency_findings(self, artifacts: Sequence[Artifact], budget: Budget) -> tuple[Finding, ...]:
        """Latency, load time and memory alone."""
        from facex.device_bench import budget as judge

        findings: list[Finding] = []
        by_name = {artifact.name: artifact for artifact in artifacts}
        for run in self.runs:
            artifact = by_name[run.subject.name]
            skipped = {artifact.name: self.untimed[run.name]} if run.name in self.untimed else {}
            findings += judge.latency_findings([artifact], self.latency, budget, skipped, run.label)
        return tuple(findings)


def examine(
    subjects: Sequence[Subject],
    evidence: Evidence,
    *,
    threads: int,
    clock: Clock,
    runtimes: Sequence[Runtime] = (Runtime.EXECUTOR,),
    start: bool = False,
) -> Examination:
    """Parity and latency of every subject in every runtime, size by size and head by head.

    Args:
        subjects: files.
        evidence: what they are held against.
        threads: of every runtime.
        clock: times the stages.
        runtimes: of the files that facex can execute itself; where the executor is among several, each other one is
            held against it as well.
        start: whether load time and memory are measured as well, in processes of their own.

    Raises:
        PhotographError: one cannot be decoded, or the reference finds no face in any.
        ArtifactError: a file cannot be loaded, or its outputs are not those of the reference.
        BackendError: a runtime failed.
    """
    findings: list[Finding] = []
    latency: list[Latency] = []
    ran: dict[str, str] = {}
    no_latency: dict[str, str] = {}
    faces: int | None = None
    sightings: dict[str, Sightings] = {}
    runs = runs_of(subjects, runtimes)
    for size, returned in dict.fromkeys((s.size, Returned(head=s.head, selection=s.selection)) for s in subjects):
        kind = (size, returned.head, returned.selection)
        group = [r for r in runs if (r.subject.size, r.subject.head, r.subject.selection) == kind]
        sessions, absent = open_sessions(group, threads)
        no_latency.update(absent | untimed(sessions))
        ran.update({name: session.runtime for name, session in sessions.items()})
        found = against_reference(group, sessions, absent, evidence, size, returned, threads, clock)
        sightings |= found.sightings
        findings += found.findings
        faces = found.faces if faces is None else faces + (found.faces or 0)
        timed = measure(sessions, evidence, size, threads, clock, runs=QUICK_RUNS)
        latency += of_runs(group, launching.added(group, timed, clock) if start else timed)
    return Examination(
        runs=runs,
        findings=tuple(findings),
        latency=tuple(latency),
        runtimes=ran,
        untimed=no_latency,
        reference_faces=faces,
        sightings=sightings,
    )


def of_runs(runs: Sequence[Run], latency: Sequence[Latency]) -> list[Latency]:
    """Latencies by the names of runs as those of artifacts in a runtime."""
    known = {run.name: run for run in runs}
    return [
        dataclasses.replace(entry, artifact=known[entry.artifact].subject.name, runtime=known[entry.artifact].label)
        for entry in latency
    ]


def measure(
    sessions: Mapping[str, Session],
    evidence: Evidence | None,
    size: Size,
    threads: int | Mapping[str, int],
    clock: Clock,
    *,
    warmup: int = 5,
    runs: int = 50,
) -> tuple[Latency, ...]:
    """Latency of the sessions of one size on this host, interleaved, on a photograph or else on noise.

    A session that says why it is `untimed` is left out. `threads` are those of every session, or of each by its name.
    """
    from facex.device_bench import host
    from facex.parity import noise

    sessions = {name: session for name, session in sessions.items() if not session.untimed}
    if not sessions:
        return ()
    pixels = noise.picture(size)
    if evidence and evidence.photographs:
        from facex.reference.photographs import letterbox, load

        first = load(evidence.photographs[0].path)
        pixels = letterbox(first, size, evidence.detector.contract.mean_rgb).pixels[None]
    with clock("latency", f"timing on this host at {size}"):
        return host.measure(
            sessions, {name: {"image": pixels} for name in sessions}, threads=threads, warmup=warmup, runs=runs
        )


def evaluation_of(photographs: Sequence[Photograph], examination: Examination) -> Evaluation | None:
    """The manifest's record of the photographs behind the parity findings."""
    if examination.reference_faces is None:
        return None
    sums = [p.sha256 for p in photographs]
    return Evaluation(count=len(sums), digest=manifest.digest_of(sums), reference_faces=examination.reference_faces)
