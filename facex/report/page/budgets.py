"""Sizes and times as bars against their limits, a group a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from facex.manifest import Manifest
from facex.report.wording import condition, figure, rounded, with_unit
from facex.types import HOST, Finding, Latency, LatencyKind, Verdict, run_name

BYTES_PER_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One value; places and widths are per cent of the track.

    Attributes:
        name: of the run.
        told: the value, its band and its limit in words.
        width: of the value.
        band: left end and width of the band of an estimate, or of minimum to 90th percentile; None without one.
        limit: place of the limit; None without one.
        verdict: of the finding that holds it to the limit; None where nothing does.
    """

    name: str
    told: str
    width: float
    band: tuple[float, float] | None
    limit: float | None
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Bars on one scale.

    Attributes:
        title: what they are.
        kind: measured, emulated or estimate; empty for what is a fact.
        estimate: whether the band is one of an estimate, which is drawn in place of the bar.
    """

    title: str
    kind: str
    estimate: bool
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class _Value:
    name: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None
    finding: Finding | None = None


def groups(manifest: Manifest) -> tuple[Group, ...]:
    """The sizes for every device that limits them, then latency, load time and memory by device."""
    return (*_sizes(manifest), *_times(manifest))


def _sizes(manifest: Manifest) -> Iterator[Group]:
    devices = dict.fromkeys(f.device for f in manifest.findings if f.name == "size")
    for device in devices or (None,):
        values = [
            _Value(
                name=a.name,
                unit="MB",
                value=a.size_bytes / BYTES_PER_MB,
                finding=next(
                    (
                        f for f in manifest.findings
                        if (f.name, f.artifact, f.device) == ("size", a.name, device) and f.limit is not None
                    ),
                    None,
                ),
            )
            for a in manifest.artifacts
        ]  # fmt: skip
        yield _group(f"Size for {device}" if device else "Size", "", values)


def _times(manifest: Manifest) -> Iterator[Group]:
    conditions = dict.fromkeys(condition(entry) for entry in manifest.latency)
    for words in conditions:
        entries = [entry for entry in manifest.latency if condition(entry) == words]
        kind = entries[0].kind
        where = words.removeprefix(f"{kind} ")
        for name, title, unit in (
            ("latency", "Latency", "ms"), ("load", "Time to the first result", "ms"), ("memory", "Peak memory", "MB")
        ):  # fmt: skip
            values = [value for entry in entries if (value := _timed(manifest, entry, name, unit))]
            if values:
                yield _group(f"{title} {where}", kind.value, values)


def _timed(manifest: Manifest, entry: Latency, name: str, unit: str) -> _Value | None:
    value = {"latency": entry.p50_ms, "load": entry.load_ms, "memory": entry.memory_mb}[name]
    if value is None:
        return None
    about = [
        f for f in manifest.findings
        if (f.name, f.artifact, f.runtime) == (name, entry.artifact, entry.runtime)
        and entry.is_on(f.device or HOST) and f.limit is not None
    ]  # fmt: skip
    return _Value(
        name=run_name(entry.artifact, entry.runtime),
        unit=unit,
        value=value,
        low=entry.low_ms if name == "latency" else None,
        high=entry.high_ms if name == "latency" else None,
        finding=about[0] if about else None,
    )


def _group(title: str, kind: str, values: Sequence[_Value]) -> Group:
    estimate = kind == LatencyKind.ESTIMATE.value
    limits = [v.finding.limit for v in values if v.finding and v.finding.limit is not None]
    top = max([*(v.value for v in values), *(v.high for v in values if v.high is not None), *limits], default=1.0)
    top = top * 1.04 or 1.0
    return Group(title=title, kind=kind, estimate=estimate, bars=tuple(_bar(v, top, estimate) for v in values))


def _bar(value: _Value, top: float, estimate: bool) -> Bar:
    def place(number: float) -> float:
        return round(min(max(100 * number / top, 0.0), 100.0), 2)

    told, band = f"{rounded(value.value)} {value.unit}", None
    if value.low is not None and value.high is not None:
        band = (place(value.low), round(place(value.high) - place(value.low), 2))
        told += f" ({rounded(value.low)} to {rounded(value.high)})"
    finding = value.finding
    limit = finding.limit if finding else None
    if finding and limit is not None:
        told += f", limit {with_unit(limit, finding.unit)}"
        if estimate and finding.actual is not None and finding.actual != value.value:
            told += f", compared with {figure(finding.actual)}"
    return Bar(
        name=value.name,
        told=told,
        width=place(value.value),
        band=band,
        limit=None if limit is None else place(limit),
        verdict=finding.verdict if finding else None,
    )
