"""Hold finished files against the reference and the budgets: the part that export, check and bench share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from facex import exporters, manifest
from facex.errors import MissingExtraError, PhotographError, SessionUnavailableError, stage
from facex.manifest import Evaluation
from facex.progress import Clock
from facex.recipe import Budget
from facex.types import Artifact, FileFacts, Finding, Head, Latency, Limit, Precision, Runtime, Session, Size

if TYPE_CHECKING:
    from facex.parity.compare import Comparison
    from facex.parity.ground_truth import GroundTruth
    from facex.reference.detector import Detector
    from facex.reference.photographs import Photograph

QUICK_RUNS = 20
"""Timed rounds where latency is one finding among many; `facex bench` takes its time."""

NO_PHOTOGRAPHS = "no photographs were given (--images)"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A finished file on disk, and what it says of itself."""

    name: str
    path: Path
    target: str
    precision: Precision
    head: Head
    size: Size
    facts: FileFacts

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
        )


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
class Examination:
    """What was found.

    Attributes:
        findings: parity, by artifact.
        latency: of the artifacts that run here.
        runtimes: artifact -> what ran it.
        untimed: artifact -> why it has no latency: nothing here runs it, or what does is not what a device has.
        reference_faces: faces that the reference found, over all sizes; None without photographs.
    """

    findings: tuple[Finding, ...]
    latency: tuple[Latency, ...]
    runtimes: Mapping[str, str]
    untimed: Mapping[str, str]
    reference_faces: int | None

    def budget_findings(self, artifacts: Sequence[Artifact], budget: Budget) -> tuple[Finding, ...]:
        """Size and latency of the artifacts against the budget."""
        from facex.device_bench import budget as judge

        return (
            *judge.size_findings(artifacts, budget.max_size_mb),
            *judge.latency_findings(artifacts, self.latency, budget.max_latency_ms, self.untimed),
        )


def open_sessions(
    subjects: Sequence[Subject], threads: int, runtime: Runtime = Runtime.EXECUTOR
) -> tuple[dict[str, Session], dict[str, str]]:
    """Sessions by artifact name, and for the others why this machine has none.

    Args:
        subjects: files.
        threads: for each.
        runtime: of the files that facex can execute itself.
    """
    sessions: dict[str, Session] = {}
    unavailable: dict[str, str] = {}
    for subject in subjects:
        with stage(subject.name):
            try:
                sessions[subject.name] = exporters.open_session(subject.target, subject.path, threads, runtime)
            except (SessionUnavailableError, MissingExtraError) as reason:
                unavailable[subject.name] = str(reason)
    return sessions, unavailable


def untimed(sessions: Mapping[str, Session]) -> dict[str, str]:
    """Why some sessions are not timed."""
    return {name: session.untimed for name, session in sessions.items() if session.untimed}


def examine(
    subjects: Sequence[Subject],
    evidence: Evidence,
    *,
    threads: int,
    clock: Clock,
    runtime: Runtime = Runtime.EXECUTOR,
) -> Examination:
    """Parity and latency of every subject, size by size and head by head; `runtime` as for `open_sessions`.

    Raises:
        PhotographError: one cannot be decoded, or the reference finds no face in any.
        ArtifactError: a file cannot be loaded, or its outputs are not those of the reference.
        BackendError: a runtime failed.
    """
    findings: list[Finding] = []
    latency: list[Latency] = []
    runtimes: dict[str, str] = {}
    no_latency: dict[str, str] = {}
    faces: int | None = None
    for size, head in dict.fromkeys((s.size, s.head) for s in subjects):
        group = [s for s in subjects if (s.size, s.head) == (size, head)]
        sessions, absent = open_sessions(group, threads, runtime)
        no_latency.update(absent | untimed(sessions))
        runtimes.update({name: session.runtime for name, session in sessions.items()})
        found, seen = _parity(group, sessions, absent, evidence, size, head, threads, clock)
        findings += [*found, *_lint(group, evidence)]
        faces = seen if faces is None else faces + (seen or 0)
        latency += measure(sessions, evidence, size, threads, clock, runs=QUICK_RUNS)
    return Examination(
        findings=tuple(findings),
        latency=tuple(latency),
        runtimes=runtimes,
        untimed=no_latency,
        reference_faces=faces,
    )


def _parity(
    group: Sequence[Subject],
    sessions: Mapping[str, Session],
    absent: Mapping[str, str],
    evidence: Evidence,
    size: Size,
    head: Head,
    threads: int,
    clock: Clock,
) -> tuple[list[Finding], int | None]:
    from facex.parity import judge, noise
    from facex.reference.detector import ReferenceSession

    reference = ReferenceSession(evidence.detector, size, head, threads=threads)
    comparison = _compare(reference, sessions, evidence, size, head, clock) if evidence.photographs else None
    metrics = comparison.metrics if comparison else noise.compare(reference, sessions, size)
    findings: list[Finding] = []
    for subject in group:
        if subject.name in sessions:
            findings += judge.judge(subject.name, subject.precision, metrics[subject.name], evidence.limits)
        if subject.name in absent or not comparison:
            reason = absent.get(subject.name, NO_PHOTOGRAPHS)
            findings += judge.skipped(subject.name, subject.precision, reason, evidence.limits)
    return findings, int(comparison.reference_metrics["reference_faces"] or 0) if comparison else None


def _lint(group: Sequence[Subject], evidence: Evidence) -> list[Finding]:
    """What the w8a8 files show without being run."""
    from facex.parity import lint

    contract, limits = evidence.detector.contract, evidence.limits
    quantized = [s for s in group if s.precision is Precision.W8A8]
    return [f for s in quantized for f in lint.lint(s.name, s.precision, s.facts, contract, limits)]


def _compare(
    reference: Session, sessions: Mapping[str, Session], evidence: Evidence, size: Size, head: Head, clock: Clock
) -> Comparison:
    from facex.parity.compare import Candidate, compare

    with clock("parity", f"parity at {size}", len(evidence.photographs)):
        comparison = compare(
            reference,
            {name: Candidate(session=session, head=head) for name, session in sessions.items()},
            evidence.photographs,
            contract=evidence.detector.contract,
            size=size,
            head=head,
            ground_truth=evidence.ground_truth,
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
    threads: int,
    clock: Clock,
    *,
    warmup: int = 5,
    runs: int = 50,
) -> tuple[Latency, ...]:
    """Latency of the sessions of one size on this host, interleaved, on a photograph or else on noise.

    A session that says why it is `untimed` is left out.
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
