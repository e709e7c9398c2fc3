"""What a device tells beside its latencies, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from facex.report.wording import encodable, plural, printable
from facex.types import DeviceReport, DeviceRun, DeviceState, OperatorTime

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_OPERATORS = 10


def told(report: DeviceReport, console: Console) -> None:
    """Print what each file took beside its latency, the state of the device, and the types of the slowest operators."""
    convert = encodable(console.encoding)
    for run in report.runs:
        for line in (run.artifact, *(f"  {line}" for line in _lines(run))):
            console.print(convert(printable(line)), markup=False)


def _lines(run: DeviceRun) -> list[str]:
    times = (("load", run.load_ms), ("first inference", run.first_ms), ("warm-up", run.warmup_ms))
    figures = [f"{name} {value:.2f} ms" for name, value in times if value is not None]
    if run.memory_mb is not None:
        figures.append(f"memory {run.memory_mb:.1f} MB")
    lines = [", ".join(figures)] if figures else []
    for name, state in (("before", run.before), ("after", run.after)):
        if state is not None:
            lines.append(f"{name}: {_state(state)}")
    return [*lines, *_operators(run.operators), *run.notes]


def _state(state: DeviceState) -> str:
    heat = "not told" if state.thermal_status is None else str(state.thermal_status)
    clocks = " ".join(f"{mhz:.0f}" for mhz in state.cpu_mhz)
    return f"thermal status {heat}, CPU clocks {f'{clocks} MHz' if clocks else 'not told'}"


def _operators(operators: Sequence[OperatorTime]) -> list[str]:
    """Time by type of operator and unit, most first."""
    sums: dict[tuple[str, str], list[float]] = {}
    for each in operators:
        counted = sums.setdefault((each.operator, each.unit or ""), [0, 0.0, 0.0])
        for index, value in enumerate((1, each.mean_ms, each.share)):
            counted[index] += value
    ordered = sorted(sums.items(), key=lambda item: -item[1][1])
    lines = [
        f"{share:6.1%} {mean_ms:8.3f} ms  {operator} x {count:.0f}{f', {unit}' if unit else ''}"
        for (operator, unit), (count, mean_ms, share) in ordered[:SHOWN_OPERATORS]
    ]
    left = len(ordered) - SHOWN_OPERATORS
    return [*lines, *([f"and {plural(left, 'type')} more"] if left > 0 else [])]
