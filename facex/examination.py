"""Hold finished files against the reference and the budgets: the part that export, check and bench share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from facex import launching, manifest
from facex.errors import PhotographError
from facex.manifest import Evaluation
from facex.progress import Clock
from facex.recipe import Budget
from facex.runs import Run, Subject, executor_of, open_sessions, runs_of, untimed
from facex.sightings import Sightings
from facex.types import Artifact, Finding, Head, Latency, Limit, Precision, Runtime, Selection, Session, Size

if TYPE_CHECKING:
    from facex.parity.compare import Comparison
    from facex.parity.ground_truth import GroundTruth
    from facex.reference.detector import Detector
    from facex.reference.photographs import Photograph

QUICK_RUNS = 20
"""Timed rounds where latency is one finding among many; `facex bench` takes its time."""

NO_PHOTOGRAPHS = "no photographs were given (--images)"

Metrics = Mapping[str, Mapping[str, float | None]]
"""Name of a run -> metric -> value."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What artifacts are held against.

    Attributes:
        photographs: for parity; without any, faces are skipped and only noise is compared.
        ground_truth: for average precision, or None.
        limits: the user's, in place of the defaults of each precision.
    """

    detector: Detector
    photographs: Sequence[Photograph]
    ground_truth: GroundTruth | None
    limits: tuple[Limit, ...]


@dataclass(frozen=True, kw_only=True)
class Returned:
    """What files return: those of one kind are compared together. `selection` is that of a `detections` head."""

    head: Head
    selection: Selection | None


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
        own = [s for s in subjects if (s.size, s.head, s.selection) == (size, returned.head, returned.selection)]
        group = [r for r in runs if any(r.subject is s for s in own)]
        sessions, absent = open_sessions(group, threads)
        no_latency.update(absent | untimed(sessions))
        ran.update({name: session.runtime for name, session in sessions.items()})
        measured = _measured(group, sessions, evidence, size, returned, threads, clock)
        found, seen = _parity(group, sessions, absent, measured, evidence), measured.faces
        sightings |= measured.sightings
        findings += [*found, *_lint(own, evidence)]
        faces = seen if faces is None else faces + (seen or 0)
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


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """By the name of a run: against the reference, against its executor's run, and what it saw; the reference's faces.

    `faces` is None without photographs.
    """

    metrics: Metrics
    between: Metrics
    faces: int | None
    sightings: Mapping[str, Sightings] = field(default_factory=dict)


def _parity(
    group: Sequence[Run],
    sessions: Mapping[str, Session],
    absent: Mapping[str, str],
    measured: _Measured,
    evidence: Evidence,
) -> list[Finding]:
    from facex.parity import judge

    bases = _bases(group)
    findings: list[Finding] = []
    for run in group:
        about = (run.subject.name, run.subject.precision)
        reason = absent.get(run.name, NO_PHOTOGRAPHS if measured.faces is None else "")
        if run.name in sessions:
            findings += run.labelled(judge.judge(*about, measured.metrics[run.name], evidence.limits))
        if reason:
            findings += run.labelled(judge.skipped(*about, reason, evidence.limits))
        if run.name in bases:
            reason = reason or absent.get(bases[run.name], "")
            between = measured.between.get(run.name)
            findings += run.labelled(_beside_executor(run, between, reason, evidence.limits))
        elif run.label is not Runtime.EXECUTOR:
            findings += run.labelled(judge.without_executor(*about, evidence.limits))
    return findings


def _bases(group: Sequence[Run]) -> dict[str, str]:
    """Name of a run -> that of the executor's run that it is held against."""
    return {run.name: base.name for run in group if (base := executor_of(run, group))}


def _measured(
    group: Sequence[Run],
    sessions: Mapping[str, Session],
    evidence: Evidence,
    size: Size,
    returned: Returned,
    threads: int,
    clock: Clock,
) -> _Measured:
    from facex.parity import noise
    from facex.reference.detector import ReferenceSession

    against = {name: base for name, base in _bases(group).items() if name in sessions and base in sessions}
    head, selection = returned.head, returned.selection
    reference = ReferenceSession(evidence.detector, size, head, threads=threads, selection=selection)
    if evidence.photographs:
        found = _compare(reference, sessions, against, evidence, size, returned, clock)
        faces = int(found.reference_metrics["reference_faces"] or 0)
        return _Measured(metrics=found.metrics, between=found.against, faces=faces, sightings=found.sightings)
    between: dict[str, Mapping[str, float | None]] = {}
    for name, base in against.items():
        between |= noise.compare(sessions[base], {name: sessions[name]}, size, selection)
    noises = noise.compare(reference, sessions, size, selection)
    return _Measured(metrics=noises, between=between, faces=None)


def _beside_executor(
    run: Run, values: Mapping[str, float | None] | None, reason: str, limits: Sequence[Limit]
) -> list[Finding]:
    """A run held against the executor's of the same file: what was measured, and why its faces were not."""
    from facex.parity import judge

    about = (run.subject.name, run.subject.precision)
    measured = judge.judge_runtime(*about, values, limits) if values is not None else ()
    return [*measured, *(judge.skipped_runtime(*about, reason, limits) if reason else ())]


def _lint(group: Sequence[Subject], evidence: Evidence) -> list[Finding]:
    """What the w8a8 files show without being run."""
    from facex.parity import lint

    contract, limits = evidence.detector.contract, evidence.limits
    quantized = [s for s in group if s.precision is Precision.W8A8]
    return [f for s in quantized for f in lint.lint(s.name, s.precision, s.facts, contract, limits)]


def _compare(
    reference: Session,
    sessions: Mapping[str, Session],
    against: Mapping[str, str],
    evidence: Evidence,
    size: Size,
    returned: Returned,
    clock: Clock,
) -> Comparison:
    from facex.parity.compare import Candidate, compare

    with clock("parity", f"parity at {size}", len(evidence.photographs)):
        comparison = compare(
            reference,
            {name: Candidate(session=session, head=returned.head) for name, session in sessions.items()},
            evidence.photographs,
            contract=evidence.detector.contract,
            size=size,
            head=returned.head,
            selection=returned.selection,
            ground_truth=evidence.ground_truth,
            against=against,
            on_photograph=clock.progress.advance,
        )
        if not comparison.reference_metrics["reference_faces"]:
            raise PhotographError(
                f"{evidence.photographs[0].path.parent}: the reference finds no face in any photograph, "
                "so nothing can be compared",
                hint="give photographs with faces; if these have some, the contract is wrong (--activation, --anchors, "
                "--channel-order, --mean)",
            )
    return comparison


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
