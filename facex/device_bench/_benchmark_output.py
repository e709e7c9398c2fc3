"""What TensorFlow Lite's `benchmark_model` prints, as values.

Its result line has had three forms, in microseconds:

    Average inference timings in us: Warmup: W, Init: I, no stats: X
    Average inference timings in us: Warmup: W, Init: I, Inference: X
    Inference timings in us: Init: I, First inference: F, Warmup (avg): W, Inference (avg): X

Before it come the statistics of the warm-up and of the timed runs, one line each, with percentiles in newer releases:

    count=24 first=42142 curr=42232 min=42142 max=42763 avg=42435.4 std=147 p5=42232 median=42405 p95=42729
    count=1 curr=40000

Lines may begin with `INFO: `, or with what logcat puts before its messages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facex.errors import DeviceError
from facex.types import OperatorTime, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

US_PER_MS = 1000.0
AGREEMENT = 1e-3
"""Relative difference at most between the mean of the result line and that of the statistics before it."""

_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_RESULT = re.compile(r"nference timings in us: (?P<fields>.*)")
_FIELD = re.compile(rf"(?P<key>[A-Za-z][\w ()]*): (?P<value>{_NUMBER})(?=,|Overall|\s*$)")
_MEANS = ("Inference (avg)", "Inference", "no stats")
_WARMUPS = ("Warmup (avg)", "Warmup")
_STATISTICS = re.compile(r"(?:^|\s)count=(?P<fields>\d+ (?:first|curr)=.*)")
_STATISTIC = re.compile(rf"(?P<key>\w+)=(?P<value>{_NUMBER})")
_MEMORY = re.compile(rf"[Mm]emory footprint.*\(MB\): init={_NUMBER} overall=(?P<value>{_NUMBER})")
_NOTES = re.compile(r"(?:Unconsumed cmdline flags|Explicitly applied|Though .* explicitly applied).*")
_FAILURE = re.compile(r"error|fail|not found|cannot|can't|denied|aborted|segmentation", re.IGNORECASE)

_REGULAR = "Operator-wise Profiling Info for Regular Benchmark Runs:"
_RUN_ORDER = re.compile(r"=+ Run Order =+")
_PERCENT = "%"


@dataclass(frozen=True, kw_only=True)
class Timings:
    """The result of a run of `benchmark_model`, in milliseconds; None where its output does not tell.

    Attributes:
        runs: timed runs.
        high_ms: the 95th percentile where the median is told, else the maximum.
        memory_mb: what loading and running added to the process, MB of 2^20 bytes.
        notes: lines about flags that it does not know, and about delegates.
    """

    mean_ms: float
    runs: int | None
    median_ms: float | None
    low_ms: float | None
    high_ms: float | None
    load_ms: float | None
    first_ms: float | None
    warmup_ms: float | None
    memory_mb: float | None
    notes: tuple[str, ...]


def finished(text: str) -> bool:
    """Whether the output holds a whole result line; the first characters of one do not count."""
    return any(_RESULT.search(line) for line in _lines(text))


def failure(text: str) -> str:
    """The line that tells best why there is no result: the first that speaks of an error, else the first of all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    chosen = next((line for line in lines if _FAILURE.search(line)), lines[0] if lines else "no output at all")
    return chosen[:300]


def parse(text: str) -> Timings:
    """The result in the output of `benchmark_model`.

    Args:
        text: its whole output.

    Raises:
        DeviceError: there is no whole result line, its mean is no positive number, or the statistics before it are
            those of something else; quotes a line.
    """
    fields = _result(text)
    mean = next((fields[key] for key in _MEANS if key in fields), None)
    if mean is None or not (math.isfinite(mean) and mean > 0):
        raise DeviceError(
            f"benchmark_model printed no result, but: {failure(text)}", hint="try again, or another build"
        )
    statistics = _statistics(text, mean)
    median = statistics.get("median")
    high = statistics.get("max" if median is None else "p95")
    memory = _MEMORY.search(text)
    return Timings(
        mean_ms=mean / US_PER_MS,
        runs=int(statistics["count"]) if statistics else None,
        median_ms=_milliseconds(median),
        low_ms=_milliseconds(statistics.get("min")),
        high_ms=_milliseconds(high),
        load_ms=_milliseconds(fields.get("Init")),
        first_ms=_milliseconds(fields.get("First inference")),
        warmup_ms=_milliseconds(next((fields[key] for key in _WARMUPS if key in fields), None)),
        memory_mb=float(memory["value"]) if memory else None,
        notes=tuple(dict.fromkeys(match[0].strip() for match in _NOTES.finditer(text))),
    )


def _lines(text: str) -> list[str]:
    """Lines that were ended: what was cut off may have lost digits."""
    return [line.rstrip() for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _result(text: str) -> dict[str, float]:
    """Key -> microseconds of the last result line; empty where there is none."""
    found = [match["fields"] for line in _lines(text) if (match := _RESULT.search(line))]
    return {m["key"].strip(): float(m["value"]) for m in _FIELD.finditer(found[-1])} if found else {}


def _statistics(text: str, mean: float) -> Mapping[str, float]:
    """The statistics whose mean the result line repeats; empty where none were printed."""
    every = []
    for line in _lines(text):
        if match := _STATISTICS.search(line):
            fields = {m["key"]: float(m["value"]) for m in _STATISTIC.finditer("count=" + match["fields"])}
            if "avg" not in fields and "curr" in fields:  # all runs took the same time, or there was one
                fields |= dict.fromkeys(("avg", "min", "max", "median", "p95"), fields["curr"])
            every.append(fields)
    if not every:
        return {}
    for fields in reversed(every):
        if math.isclose(fields.get("avg", math.nan), mean, rel_tol=AGREEMENT):
            return fields
    raise DeviceError(f"benchmark_model contradicts itself: a mean of {mean} us, and statistics {every[-1]}")


def _milliseconds(microseconds: float | None) -> float | None:
    """None for the zero that stands for nothing measured."""
    return microseconds / US_PER_MS if microseconds else None


def profile(text: str) -> tuple[OperatorTime, ...]:
    """The operators of a profile that was written as comma-separated values, in the order of execution.

    Types of operators may hold commas (`Convolution (NHWC, F32) IGEMM`), so rows are read by the numbers in them.

    Args:
        text: the file; of several tables, the one of the timed runs is read.

    Raises:
        DeviceError: there is no such table, or a row of it cannot be read; quotes a line.
    """
    lines = text.rpartition(_REGULAR)[2].splitlines()
    start = next((i for i, line in enumerate(lines) if _RUN_ORDER.search(line)), len(lines))
    header, *rows = lines[start + 1 :] or [""]
    columns = [column.strip() for column in header.split(",")]
    if not {"node type", "avg_ms", _PERCENT, "name"} <= set(columns) or columns[-1] != "name":
        raise DeviceError(f"the profile of the operators has no table in order of execution, but: {failure(text)}")
    row = re.compile(", *".join(_column(i, name) for i, name in enumerate(columns)) + "$")
    operators = []
    for line in rows:
        if not line.strip():
            break
        match = row.match(line)
        if match is None:
            raise DeviceError(f"a row of the profile of the operators cannot be read: {line.strip()[:200]}")
        values = dict(zip(columns, match.groups(), strict=True))
        operators.append(
            OperatorTime(
                operator=values["node type"].strip(),
                name=values["name"].strip(),
                mean_ms=float(values["avg_ms"]),
                share=float(values[_PERCENT]) / 100,
            )
        )
    return tuple(operators)


def _column(index: int, name: str) -> str:
    if name == "name":
        return "(.*)"
    return "(.+?)" if index == 0 else rf"({_NUMBER})%?"


def tensors(raw: bytes, outputs: Sequence[TensorInfo]) -> dict[str, NDArray[Any]]:
    """The output tensors that `--output_filepath` wrote: the bytes of one after the other, in the order of the file.

    Args:
        raw: the whole dump; little-endian, as every Android is.
        outputs: of the model.

    Raises:
        DeviceError: it is shorter or longer than the outputs.
    """
    import numpy as np

    sizes = [int(np.prod(o.shape)) * np.dtype(o.dtype).itemsize for o in outputs]
    if len(raw) != sum(sizes):
        raise DeviceError(
            f"benchmark_model wrote {len(raw)} bytes of outputs, the file's outputs are {sum(sizes)}",
            hint="try again; if it stays so, the program is too old or ran another file",
        )
    found, start = {}, 0
    for output, size in zip(outputs, sizes, strict=True):
        dtype = np.dtype(output.dtype).newbyteorder("<")
        found[output.name] = np.frombuffer(raw[start : start + size], dtype).reshape(output.shape)
        start += size
    return found
