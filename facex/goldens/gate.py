"""Files held to goldens: by which tolerances, and what each finding says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from facex import manifest
from facex.errors import ArtifactError, stage
from facex.goldens import replay
from facex.goldens.format import Description, Tolerances
from facex.types import Finding, Session, Verdict

if TYPE_CHECKING:
    from facex.goldens.replay import Deviation
    from facex.progress import Clock
    from facex.runs import Run, Subject
    from facex.types import FloatArray


def check(subjects: Iterable[Subject], description: Description) -> dict[str, tuple[Tolerances, Finding]]:
    """By the name of a file, the tolerances that it is held to, and a finding on whether the goldens know it.

    A file that they do not know is held to those of its precision: stale weights have to fail by their faces.

    Raises:
        ArtifactError: a file is of another size, or the goldens do not say what its precision is held to.
    """
    found = {}
    for subject in subjects:
        if subject.size != description.goldens.size:
            raise ArtifactError(
                f"{subject.path}: its image is {subject.size} pixels, the goldens are {description.goldens.size}",
                hint="name the goldens of its size, or bundle it",
            )
        digest = manifest.sha256_of(subject.path)
        known = next((m.tolerances for m in description.models if m.sha256 == digest), None)
        chosen = known or _of_precision(subject, description)
        reason = (
            "" if known else f"another file than those of the goldens, held to the tolerances of {subject.precision}"
        )
        found[subject.name] = (
            chosen,
            Finding(
                name="golden.file",
                artifact=subject.name,
                unit="1",
                actual=1.0 if known else None,
                limit=None,
                verdict=Verdict.PASS if known else Verdict.SKIPPED,
                reason=reason,
            ),
        )
    return found


def _of_precision(subject: Subject, description: Description) -> Tolerances:
    """Those of the files of its precision, of its own target where there are any.

    Raises:
        ArtifactError: there are none, or several that differ.
    """
    alike = [m for m in description.models if m.precision is subject.precision]
    alike = [m for m in alike if m.target == subject.target] or alike
    settled = {m.tolerances for m in alike}
    if len(settled) == 1:
        return settled.pop()
    have = ", ".join(m.file for m in description.models)
    fault = "several of its precision differ" if settled else "none is of its precision"
    raise ArtifactError(
        f"{subject.path}: is another file than those of {description.path}, and {fault}, {subject.precision}: {have}",
        hint="bundle again from the export that it comes from",
    )


def hold(
    runs: Sequence[Run],
    sessions: Mapping[str, Session],
    absent: Mapping[str, str],
    description: Description,
    clock: Clock,
) -> list[Finding]:
    """Replay the goldens in every run, and judge it.

    Args:
        runs: files in their runtimes.
        sessions: by the name of a run.
        absent: why a run has none.
        description: the goldens.
        clock: times and shows the stage.

    Raises:
        ArtifactError: see `check`; or a picture cannot be used.
        BackendError: a runtime failed.
    """
    known = check({run.subject.name: run.subject for run in runs}.values(), description)
    findings: list[Finding] = []
    goldens = description.goldens
    with clock("goldens", "replaying the goldens", len(sessions) * len(goldens.goldens)):
        for run in runs:
            name = run.subject.name
            tolerances, told = known[name]
            findings += run.labelled([told])
            if run.name not in sessions:
                findings += run.labelled([_skipped(name, absent[run.name])])
                continue
            with stage(run.name):
                seen = replay.replay(
                    sessions[run.name], goldens, run.subject.head, description.contract, clock.progress.advance
                )
            findings += run.labelled(seen.findings(name, tolerances))
    return findings


def _skipped(artifact: str, reason: str) -> Finding:
    return Finding(
        name="golden.lost",
        artifact=artifact,
        unit="1",
        actual=None,
        limit=0.0,
        verdict=Verdict.SKIPPED,
        reason=reason,
    )


def judge(
    subjects: Sequence[Subject],
    outputs: Mapping[str, Sequence[Mapping[str, FloatArray]]],
    description: Description,
    device: str,
) -> list[Finding]:
    """Judge what a device gave for the goldens.

    Args:
        subjects: files, some of which the device ran.
        outputs: name of a file -> the outputs for every golden, in order.
        description: the goldens.
        device: a word for it.

    Raises:
        ArtifactError: see `check`.
    """
    ran = [subject for subject in subjects if subject.name in outputs]
    known = check(ran, description)
    findings: list[Finding] = []
    for subject in ran:
        tolerances, told = known[subject.name]
        deviations = tuple(_deviations(subject, outputs[subject.name], description))
        seen = replay.Replay(goldens=description.goldens, deviations=deviations)
        findings += [told, *seen.findings(subject.name, tolerances)]
    return [dataclasses.replace(finding, device=device) for finding in findings]


def _deviations(
    subject: Subject, outputs: Sequence[Mapping[str, FloatArray]], description: Description
) -> Iterable[Deviation]:
    for golden, found in zip(description.goldens.goldens, outputs, strict=True):
        faces = replay.faces(found, subject.head, description.contract, subject.size)
        yield replay.deviation(golden.faces, faces)
