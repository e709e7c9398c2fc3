"""Files of one input size and head against the reference, and what each of them found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from facex.errors import PhotographError
from facex.progress import Clock
from facex.runs import Run, Subject, executor_of
from facex.sightings import Sightings
from facex.types import Finding, Head, Limit, Precision, Runtime, Selection, Session, Size

if TYPE_CHECKING:
    from facex.parity.compare import Comparison
    from facex.parity.ground_truth import GroundTruth
    from facex.reference.detector import Detector
    from facex.reference.photographs import Photograph

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
class Compared:
    """What was found.

    Attributes:
        findings: by run.
        faces: that the reference found; None without photographs.
        sightings: name of a run -> what it saw in the photographs.
    """

    findings: tuple[Finding, ...]
    faces: int | None
    sightings: Mapping[str, Sightings]


def against_reference(
    group: Sequence[Run],
    sessions: Mapping[str, Session],
    absent: Mapping[str, str],
    evidence: Evidence,
    size: Size,
    returned: Returned,
    threads: int,
    clock: Clock,
) -> Compared:
    """Compare files that take and return the same, in every runtime, and judge them.

    Args:
        group: files in their runtimes.
        sessions: by the name of a run.
        absent: why a run has none.
        evidence: what they are held against.
        size: of their input.
        returned: what they return.
        threads: of the reference.
        clock: times and shows the stage.

    Raises:
        PhotographError: one cannot be decoded, or the reference finds no face in any.
        ArtifactError: the outputs of a file are not those of the reference.
        BackendError: a runtime failed.
    """
    measured = _measured(group, sessions, evidence, size, returned, threads, clock)
    subjects = {run.subject.name: run.subject for run in group}.values()
    findings = (*_parity(group, sessions, absent, measured, evidence), *_lint(subjects, evidence))
    return Compared(findings=findings, faces=measured.faces, sightings=measured.sightings)


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


def _lint(group: Iterable[Subject], evidence: Evidence) -> list[Finding]:
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
