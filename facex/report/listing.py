"""Tables of `bench`, `inspect` and `doctor` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from facex.report.wording import figure, plural
from facex.types import Artifact, FileFacts, Finding, Latency, Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from facex.manifest import Manifest

BASELINE = "fp32"
SHOWN_ISLANDS = 12
ABSENT = "-"


def _table(*columns: str, right: Sequence[str] = ()) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=column in right, overflow="fold"
        )
    return table


def timing(
    artifacts: Sequence[Artifact], latency: Sequence[Latency], findings: Sequence[Finding], console: Console
) -> None:
    """Print size and latency, with the ratio to the float32 file of the same target and size."""
    by_name = {entry.artifact: entry for entry in latency}
    columns = ("min ms", "p50 ms", "p90 ms", "x fp32", "MB")
    table = _table("artifact", *columns, right=columns)
    for artifact in artifacts:
        entry = by_name.get(artifact.name)
        times = [f"{t:.2f}" for t in (entry.low_ms, entry.p50_ms, entry.high_ms)] if entry else [ABSENT] * 3
        table.add_row(artifact.name, *times, _ratio(artifact, artifacts, by_name), f"{artifact.size_bytes / 1e6:.3f}")
    console.print(table)
    for method in dict.fromkeys((e.device, e.threads, e.runs, e.method) for e in latency):
        device, threads, runs, text = method
        console.print(f"measured on {device}, {plural(threads, 'thread')}, {plural(runs, 'run')}: {text}", markup=False)
    if any(e for e in latency):
        console.print("x fp32 compares minima, which repeat best on a machine that does other work too.")
    _verdicts(findings, console)


def _ratio(artifact: Artifact, artifacts: Sequence[Artifact], latency: Mapping[str, Latency]) -> str:
    base = next(
        (
            a for a in artifacts
            if (a.target, a.size, a.head) == (artifact.target, artifact.size, artifact.head) and a.precision == BASELINE
        ),
        None,
    )  # fmt: skip
    if base is None or base.name not in latency or artifact.name not in latency:
        return ABSENT
    return f"{latency[artifact.name].low_ms / latency[base.name].low_ms:.2f}"


def _verdicts(findings: Sequence[Finding], console: Console) -> None:
    for finding in findings:
        if finding.verdict is Verdict.FAIL:
            console.print(f"FAIL {finding.artifact} {finding.name}: {finding.reason}", style="red", markup=False)
        elif finding.verdict is Verdict.SKIPPED:
            console.print(f"skipped {finding.artifact} {finding.name}: {finding.reason}", markup=False)


def facts(described: Sequence[tuple[Artifact, FileFacts]], record: Manifest | None, console: Console) -> None:
    """Print what files say of themselves and, where they were reached through a manifest, what it says of them."""
    for artifact, found in described:
        console.print(f"{artifact.path}", style="bold", markup=False)
        lines = {
            "target": f"{artifact.target}, {artifact.precision}, {artifact.head} head, {artifact.size}",
            "size": f"{artifact.size_bytes / 1e6:.3f} MB, sha256 {artifact.sha256}",
            "runs on": found.minimum_runtime,
            "inputs": ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in found.inputs),
            "outputs": ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in found.outputs),
            "MACs": f"{found.macs / 1e6:.1f} M, {found.integer_mac_fraction:.2%} of them integer",
            "operators": ", ".join(f"{count} {name}" for name, count in found.operators.items()),
        }
        lines |= {key.removeprefix("facex."): value for key, value in found.metadata.items()}
        for key, value in lines.items():
            console.print(f"  {key:<18} {value}", markup=False)
        for island in found.float_islands[:SHOWN_ISLANDS]:
            share = island.macs / found.macs
            console.print(
                f"  {'float island':<18} {island.name} ({island.operator}, {share:.2%} of the MACs)", markup=False
            )
        if len(found.float_islands) > SHOWN_ISLANDS:
            console.print(f"  {'':<18} and {len(found.float_islands) - SHOWN_ISLANDS} more (--json lists all)")
    if record is not None:
        _recorded(record, console)


def _recorded(record: Manifest, console: Console) -> None:
    console.print("manifest", style="bold")
    assumed = ", ".join(record.source.assumed) or "nothing"
    console.print(f"  {'checkpoint':<18} {record.source.checkpoint}, sha256 {record.source.sha256}", markup=False)
    console.print(f"  {'assumed':<18} {assumed}", markup=False)
    for finding in record.findings:
        limit = "" if finding.limit is None else f" (limit {figure(finding.limit)})"
        console.print(
            f"  {finding.verdict.value:<18} {finding.artifact} {finding.name} {figure(finding.actual)} {finding.unit}"
            f"{limit}{' ' + finding.reason if finding.reason else ''}",
            markup=False,
        )


def health(found: Any, console: Console) -> None:
    """Print what `facex.doctor.examine` found."""
    console.print(f"facex {found.facex}, Python {found.python}, {found.system}", markup=False)
    table = _table("target", "exports", "runs its files", "packages")
    for target in found.targets:
        packages = ", ".join(f"{name} {version or 'missing'}" for name, version in target.packages.items())
        table.add_row(target.name, "yes" if target.exports else "NO", target.runs or "no", packages)
    console.print(table)
    for target in found.targets:
        if target.advice:
            console.print(f"{target.name}: {target.advice}", markup=False)
