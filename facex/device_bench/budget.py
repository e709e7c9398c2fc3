"""Sizes and latencies held to their limits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from facex.types import Artifact, Finding, Latency, Runtime, Verdict

BYTES_PER_MB = 1e6


def size_findings(artifacts: Sequence[Artifact], max_size_mb: float | None) -> tuple[Finding, ...]:
    """One finding `size` an artifact, in MB of 10^6 bytes.

    Args:
        artifacts: finished files.
        max_size_mb: inclusive limit; None reports the sizes and passes them.
    """
    return tuple(_judged("size", a.name, "MB", a.size_bytes / BYTES_PER_MB, max_size_mb) for a in artifacts)


def latency_findings(
    artifacts: Sequence[Artifact],
    latencies: Sequence[Latency],
    max_latency_ms: float | None,
    skipped: Mapping[str, str],
    runtime: Runtime | None = None,
) -> tuple[Finding, ...]:
    """One finding `latency` for each latency of an artifact, on its median; skipped where there is none.

    Args:
        artifacts: finished files.
        latencies: what was measured; entries about other files are ignored.
        max_latency_ms: inclusive limit on `p50_ms`; None reports the latencies and passes them.
        skipped: artifact name -> why it was not timed.
        runtime: the one of several that these are about; entries about others are ignored.
    """
    findings: list[Finding] = []
    for artifact in artifacts:
        own = [entry for entry in latencies if (entry.artifact, entry.runtime) == (artifact.name, runtime)]
        findings += [_judged("latency", artifact.name, "ms", entry.p50_ms, max_latency_ms) for entry in own]
        if not own:
            findings.append(
                Finding(
                    name="latency",
                    artifact=artifact.name,
                    unit="ms",
                    actual=None,
                    limit=max_latency_ms,
                    verdict=Verdict.SKIPPED,
                    reason=skipped.get(artifact.name, "no latency was measured"),
                )
            )
    return tuple(dataclasses.replace(f, runtime=runtime) for f in findings)


def _judged(name: str, artifact: str, unit: str, actual: float, limit: float | None) -> Finding:
    finite = math.isfinite(actual)
    if not finite:
        reason = f"{actual} {unit} is not a finite number"
    # `not <=` and no `>`: a limit that is NaN must fail, not pass
    elif limit is not None and not actual <= limit:
        reason = f"{actual:.6g} {unit} is above the limit of {limit:.6g} {unit}"
    else:
        reason = ""
    return Finding(
        name=name,
        artifact=artifact,
        unit=unit,
        actual=actual if finite else None,  # JSON has no NaN; the reason keeps it
        limit=limit,
        verdict=Verdict.FAIL if reason else Verdict.PASS,
        reason=reason,
    )
