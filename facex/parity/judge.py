"""Measured values to findings. Only a finite number within its limit passes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from facex.parity.limits import LINTS, MALFORMED, METRICS, Direction, checked, group_of, limit_for, metric
from facex.types import ARM64, VS_EXECUTOR, Finding, Limit, Precision, Verdict

HEADLINE = "matched_f1"
"""The finding that every artifact has: from `judge` where faces were compared, from `skipped` where not."""

ONE_RUNTIME = "not measured: needs a Core ML file in two runtimes (--runtime executor --runtime native)"
NOTHING_TO_MEASURE = "nothing to measure: the photographs hold no face that it applies to"
NOT_FINITE = "not a finite number: no face was matched, or an output holds NaN or infinity"


def judge(
    artifact: str, precision: Precision, values: Mapping[str, float | None], overrides: Sequence[Limit] = ()
) -> tuple[Finding, ...]:
    """A finding for every value, and one for every limit that was asked for and not measured.

    None is skipped; NaN and infinity fail; a finite number passes within its limit, or without one.

    Args:
        artifact: file name of the artifact.
        precision: of the artifact; chooses its default limits.
        values: metric -> measured value.
        overrides: the user's limits, of any precision.

    Raises:
        UsageError: an override is not a limit (`facex.parity.limits.checked`).
        KeyError: a value is of no known metric.
    """
    findings = [finding(name, artifact, value, limit_for(name, precision, overrides)) for name, value in values.items()]
    measured = {*values, *map(group_of, values)}
    for name in _asked(precision, overrides):
        if name not in measured and name != HEADLINE and name not in LINTS and not name.startswith(VS_EXECUTOR):
            limit = limit_for(name, precision, overrides)
            findings.append(unmeasured(name, artifact, limit, _why_unmeasured(name)))
    return tuple(findings)


def judge_runtime(
    artifact: str, precision: Precision, values: Mapping[str, float | None], overrides: Sequence[Limit] = ()
) -> tuple[Finding, ...]:
    """Findings on how far one runtime of an artifact is from facex's executor, their names after `VS_EXECUTOR`.

    Args:
        artifact: file name of the artifact.
        precision: of the artifact; chooses its default limits.
        values: metric -> what was measured with the executor in place of the reference; those that say nothing of two
            runs of one program (average precision, score shift, …) are left out.
        overrides: the user's limits.
    """
    named = {f"{VS_EXECUTOR}{name}": value for name, value in values.items()}
    own = {name: value for name, value in named.items() if group_of(name) in METRICS}
    findings = [finding(name, artifact, value, limit_for(name, precision, overrides)) for name, value in own.items()]
    measured = {f"{VS_EXECUTOR}{HEADLINE}", *own, *map(group_of, own)}
    lacking = [name for name in _asked(precision, overrides) if name.startswith(VS_EXECUTOR) and name not in measured]
    return (
        *findings,
        *(unmeasured(n, artifact, limit_for(n, precision, overrides), _why_unmeasured(n)) for n in lacking),
    )


def skipped_runtime(
    artifact: str, precision: Precision, reason: str, overrides: Sequence[Limit] = ()
) -> tuple[Finding, ...]:
    """The finding of a runtime whose faces could not be compared with the executor's."""
    name = f"{VS_EXECUTOR}{HEADLINE}"
    return (unmeasured(name, artifact, limit_for(name, precision, overrides), reason),)


def without_executor(artifact: str, precision: Precision, overrides: Sequence[Limit] = ()) -> tuple[Finding, ...]:
    """A finding for every limit on a comparison with the executor that nobody asked for or that has no sense."""
    asked = [name for name in _asked(precision, overrides) if name.startswith(VS_EXECUTOR)]
    return tuple(unmeasured(n, artifact, limit_for(n, precision, overrides), ONE_RUNTIME) for n in asked)


def judge_arm64(
    artifact: str, precision: Precision, values: Mapping[str, float], differing: str, overrides: Sequence[Limit] = ()
) -> tuple[Finding, ...]:
    """Findings on how far an artifact on ARM64 is from itself on x86-64, and one for every limit beyond them.

    Args:
        artifact: file name of the artifact.
        precision: of the artifact.
        values: metric -> measured value; names without `ARM64`.
        differing: the operators where differences of 8-bit tensors begin; ends the reason of a failed `identical`.
        overrides: the user's limits.
    """
    named = {f"{ARM64}{name}": value for name, value in values.items()}
    findings = [finding(name, artifact, value, limit_for(name, precision, overrides)) for name, value in named.items()]
    told = [
        dataclasses.replace(f, reason=f"{f.reason}: {differing}")
        if f.name == f"{ARM64}identical" and f.verdict is Verdict.FAIL
        else f
        for f in findings
    ]
    measured = {*named, *map(group_of, named)}
    lacking = [name for name in _asked(precision, overrides) if name.startswith(ARM64) and name not in measured]
    reason = "not measured: only 8-bit tensors are held to be identical, and only outputs that a file has"
    return (*told, *(unmeasured(n, artifact, limit_for(n, precision, overrides), reason) for n in lacking))


def skipped_arm64(artifact: str, precision: Precision, reason: str, overrides: Sequence[Limit] = ()) -> Finding:
    """The finding of an artifact that could not be run on ARM64."""
    name = f"{ARM64}identical"
    return unmeasured(name, artifact, limit_for(name, precision, overrides), reason)


def _asked(precision: Precision, overrides: Sequence[Limit]) -> list[str]:
    """Metrics that the user limited for a precision."""
    return list(dict.fromkeys(x.metric for x in map(checked, overrides) if x.precision in (None, precision)))


def skipped(artifact: str, precision: Precision, reason: str, overrides: Sequence[Limit] = ()) -> tuple[Finding, ...]:
    """The finding of an artifact that could not be compared: no photographs, or nothing here runs it."""
    return (unmeasured(HEADLINE, artifact, limit_for(HEADLINE, precision, overrides), reason),)


def unmeasured(name: str, artifact: str, limit: float | None, reason: str) -> Finding:
    """A metric that was not measured, skipped with the reason."""
    return Finding(
        name=name,
        artifact=artifact,
        unit=metric(name).unit,
        actual=None,
        limit=limit,
        verdict=Verdict.SKIPPED,
        reason=reason,
    )


def finding(name: str, artifact: str, value: float | None, limit: float | None) -> Finding:
    """A measured value with its verdict.

    Args:
        name: of a known metric.
        artifact: file name of the artifact.
        value: what was measured; None is skipped, NaN and infinity fail.
        limit: None for a value that is only reported.
    """
    if value is None:
        return unmeasured(name, artifact, limit, NOTHING_TO_MEASURE)
    finite = math.isfinite(value)
    reason = _fault(value, limit, metric(name).direction) if finite else NOT_FINITE
    return Finding(
        name=name,
        artifact=artifact,
        unit=metric(name).unit,
        actual=float(value) if finite else None,
        limit=limit,
        verdict=Verdict.FAIL if reason else Verdict.PASS,
        reason=reason,
    )


def _fault(value: float, limit: float | None, direction: Direction) -> str:
    """What is wrong with a finite value; empty when it is within its limit."""
    if limit is None:
        return ""
    if direction is Direction.MIN and not value >= limit:
        return f"{_shown(value, limit)} is below {limit:g}"
    if direction is Direction.MAX and not value <= limit:
        return f"{_shown(value, limit)} is above {limit:g}"
    return ""


def _shown(value: float, limit: float) -> str:
    """The value in as few digits as tell it from the limit."""
    return next(
        (text for digits in (3, 4, 6, 9) if (text := f"{value:.{digits}g}") != f"{limit:.{digits}g}"),
        repr(value),
    )


def _why_unmeasured(name: str) -> str:
    if name == MALFORMED:
        return "not measured: the artifact leaves it to the app to choose faces"
    if group_of(name) in ("ap_*", "ap_drop_*") or name == "background_false_positives":
        return "not measured: needs ground truth that has such photographs (--ground-truth gt.json)"
    if name.startswith(ARM64):
        return "not measured: needs facex check --arch arm64"
    if group_of(name) != name:
        return "not measured: the artifact has no such output, or its rows are of faces, not of priors"
    return "not measured: needs photographs, and a runtime for the artifact"
