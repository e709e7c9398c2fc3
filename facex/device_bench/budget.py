"""Sizes, latencies, load times and memory held to the budget of each device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from facex.recipe import Budget
from facex.types import HOST, Artifact, BandEnd, Finding, Latency, LatencyKind, Runtime, Verdict

BYTES_PER_MB = 1e6


def each(limits: Budget, devices: Sequence[str]) -> Budget:
    """The same limits for each of several devices; at least one."""
    first, *others = (dataclasses.replace(limits, device=device) for device in dict.fromkeys(devices))
    return dataclasses.replace(first, others=tuple(others))


class _About(TypedDict):
    """What a finding is about beside an artifact."""

    device: str | None
    runtime: Runtime | None


def size_findings(artifacts: Sequence[Artifact], budget: Budget) -> tuple[Finding, ...]:
    """A finding `size` for each artifact, in MB of 10^6 bytes, and one more for every other device that limits it.

    Args:
        artifacts: finished files.
        budget: its limits are inclusive; without one, the sizes are reported and pass.
    """
    limits = [(budget.device, budget.max_size_mb)]
    limits += [(other.device, other.max_size_mb) for other in budget.others if other.max_size_mb is not None]
    return tuple(
        _judged("size", a.name, "MB", a.size_bytes / BYTES_PER_MB, limit, device=_named(device))
        for a in artifacts
        for device, limit in limits
    )


def latency_findings(
    artifacts: Sequence[Artifact],
    latencies: Sequence[Latency],
    budget: Budget,
    skipped: Mapping[str, str],
    runtime: Runtime | None = None,
) -> tuple[Finding, ...]:
    """Findings `latency`, `load` and `memory` for each latency of an artifact, skipped where there is none.

    A device is held to its own budget and to no other. The median of a measurement is judged, and of an estimate the
    figure that the budget compares. `load` and `memory` are told where they are known or limited.

    Args:
        artifacts: finished files.
        latencies: what was measured or estimated; entries about other files are ignored.
        budget: its limits are inclusive; what has none is reported and passes.
        skipped: artifact name -> why it was not timed here.
        runtime: the one of several that these are about; entries about others are ignored.
    """
    findings: list[Finding] = []
    for artifact in artifacts:
        own = [entry for entry in latencies if (entry.artifact, entry.runtime) == (artifact.name, runtime)]
        for limits in (budget, *budget.others):
            here = [entry for entry in own if entry.is_on(limits.device)]
            several = len({entry.threads for entry in here}) > 1
            findings += [finding for entry in here for finding in _entry(entry, limits, several=several)]
            if not here:
                wanted = limits is budget
                reason = skipped.get(artifact.name, "") if wanted else _unmeasured(limits.device)
                findings += _absent(artifact.name, limits, reason or "no latency was measured", runtime, wanted)
        budgeted = (budget.device, *(other.device for other in budget.others))
        unlimited = [entry for entry in own if not any(map(entry.is_on, budgeted))]
        for entry in unlimited:
            findings += _entry(entry, Budget(device=entry.device.partition(":")[0]))
    return tuple(findings)


def _unmeasured(device: str) -> str:
    return f"{device} was neither measured nor estimated in this run"


def _named(device: str) -> str | None:
    return None if device == HOST else device


def _entry(entry: Latency, limits: Budget, *, several: bool = False) -> Iterable[Finding]:
    """What one latency says, held to the limits of its device; of `several` numbers of threads, a failure names its."""
    about: _About = {"device": _named(limits.device), "runtime": entry.runtime}
    figure, word = _judged_figure(entry, limits.compare)
    threads = f"with {entry.threads} thread{'s' * (entry.threads != 1)} " if several else ""
    word = f"{threads}{word}"
    yield _judged("latency", entry.artifact, "ms", figure, limits.max_latency_ms, word, **about)
    for name, unit, actual, limit in (
        ("load", "ms", entry.load_ms, limits.max_load_ms),
        ("memory", "MB", entry.memory_mb, limits.max_memory_mb),
    ):
        if actual is not None:
            yield _judged(name, entry.artifact, unit, actual, limit, f"{threads}{entry.kind} ", **about)
        elif limit is not None:
            yield _skipped(name, entry.artifact, unit, limit, f"the {name} was not measured: {entry.method}", **about)


def _judged_figure(entry: Latency, compare: BandEnd) -> tuple[float, str]:
    """The figure that a limit holds, and what it is, to stand before it."""
    if entry.kind is not LatencyKind.ESTIMATE:
        return entry.p50_ms, f"{entry.kind} "
    figures = {BandEnd.UPPER: entry.high_ms, BandEnd.MEDIAN: entry.p50_ms, BandEnd.LOWER: entry.low_ms}
    words = {BandEnd.UPPER: "upper end of the", BandEnd.MEDIAN: "median of the", BandEnd.LOWER: "lower end of the"}
    return figures[compare], f"{words[compare]} {entry.kind}, "


def _absent(artifact: str, limits: Budget, reason: str, runtime: Runtime | None, wanted: bool) -> Iterable[Finding]:
    """Skipped findings for a device that has no latency of an artifact; without a limit, only where it is `wanted`."""
    for name, unit, limit in (
        ("latency", "ms", limits.max_latency_ms),
        ("load", "ms", limits.max_load_ms),
        ("memory", "MB", limits.max_memory_mb),
    ):
        if limit is not None or (wanted and name == "latency"):
            yield _skipped(name, artifact, unit, limit, reason, device=_named(limits.device), runtime=runtime)


def _skipped(
    name: str,
    artifact: str,
    unit: str,
    limit: float | None,
    reason: str,
    *,
    device: str | None,
    runtime: Runtime | None,
) -> Finding:
    return Finding(
        name=name,
        artifact=artifact,
        unit=unit,
        actual=None,
        limit=limit,
        verdict=Verdict.SKIPPED,
        reason=reason,
        runtime=runtime,
        device=device,
    )


def _judged(
    name: str,
    artifact: str,
    unit: str,
    actual: float,
    limit: float | None,
    word: str = "",
    *,
    device: str | None = None,
    runtime: Runtime | None = None,
) -> Finding:
    finite = math.isfinite(actual)
    if not finite:
        reason = f"{actual} {unit} is not a finite number"
    # `not <=` and no `>`: a limit that is NaN must fail, not pass
    elif limit is not None and not actual <= limit:
        reason = f"{word}{actual:.6g} {unit} is above the limit of {limit:.6g} {unit}"
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
        runtime=runtime,
        device=device,
    )
