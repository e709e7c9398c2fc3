"""Latency on phones that are not here: bands drawn from published figures, never a measurement.

A phone is a word of the table in `phones.json`. Two methods, each with its own error:

- *host ratio*, for TFLite on the CPU of a phone alone: see `_host_ratio`. It follows the file's own kernels, and knows
  only what this host has in common with the phone;
- *fitted costs*: what the work in the file costs on the phone, see `benchmarks/fit_latency.py`.

Where both are to be had, they are averaged; where they differ by more than `DISAGREEMENT`, the band is the union of
both. A band is never narrower than what networks of other families have shown, nor than the floors below.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from facex.device_bench import _phones, _work
from facex.device_bench._phones import FLOAT, INT8, Costs, Phone
from facex.device_bench._work import Work
from facex.errors import UsageError, stage
from facex.progress import Progress
from facex.types import DeviceFile, DeviceOptions, DeviceReport, Latency, LatencyKind

if TYPE_CHECKING:
    from facex.device_bench._host_ratio import HostTime, Ratio

TARGETS = ("coreml", "tflite")

CPU, NEURAL_ENGINE = "CPU", "Neural Engine"
TFLITE, NCNN, CORE_ML = "TFLite", "ncnn", "Core ML"

CPU_WIDTH = 1.3
"""Narrowest band on a CPU, as a factor up and down."""

OTHER_WIDTH = 2.0
"""The same on GPUs and neural processors, of which less is known."""

FEW_FAMILIES_WIDTH = 1.5
"""The same where all networks behind a figure are of one or two families, which says little of another."""

DISAGREEMENT = 1.5
"""Two methods that differ by more than this factor are not averaged."""

FALLEN = (10.0, 20.0)
"""How much slower networks were whose operators did not fit the Neural Engine, in published cases."""

RESIDENT_FRACTION = 0.9
"""Share of the multiply-accumulates forecast on the Neural Engine from which on a file is expected to stay there."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """An estimate in milliseconds, and how it came about."""

    low_ms: float
    p50_ms: float
    high_ms: float
    method: str


def measure(
    files: Sequence[DeviceFile], argument: str, options: DeviceOptions, progress: Progress
) -> tuple[tuple[Latency, ...], DeviceReport]:
    """Estimate files on a phone.

    Args:
        files: TFLite or Core ML files.
        argument: word for the phone.
        options: none applies; threads are those of the published figures.
        progress: told what goes on.

    Returns:
        One latency a file, two of a Core ML file, and in the report why others have none.

    Raises:
        UsageError: no such phone, or none of the files can be estimated for it.
        ArtifactError: a file cannot be read.
        MissingExtraError: LiteRT is not installed.
    """
    phone = _phone(argument)
    skipped = {file.name: reason for file in files if (reason := _unknown(phone, file))}
    known = [file for file in files if file.name not in skipped]
    if not known:
        raise UsageError(
            f"--device {phone.name}: nothing can be estimated: {'; '.join(dict.fromkeys(skipped.values()))}"
        )
    if phone.runtime == CORE_ML:
        latencies = [entry for file in known for entry in _scenarios(phone, file)]
    else:
        latencies = _on_android(phone, known, progress)
    figures = [f for file in known for f in phone.of(_arithmetic(file))]
    report = DeviceReport(
        name=description(phone),
        runtime="",
        facts={"years": _phones.years(figures), "sources": " ".join(sorted({f.source for f in figures}))},
        runs=(),
        warnings=(),
        skipped=skipped,
    )
    return tuple(latencies), report


def description(phone: Phone) -> str:
    """A phone in a line, e.g. `pixel-4: Pixel 4, CPU, TFLite`."""
    return f"{phone.name}: {phone.title}, {phone.unit}, {phone.runtime}"


def _phone(word: str) -> Phone:
    if word not in _phones.names():
        shown = f"estimate:{word}" if word else "estimate"
        raise UsageError(f"--device {shown}: no such phone", hint=f"choose from {', '.join(_phones.names())}")
    return _phones.load(word)


def _arithmetic(file: DeviceFile) -> str:
    return INT8 if file.facts.integer_mac_fraction > 0.5 else FLOAT


def _unknown(phone: Phone, file: DeviceFile) -> str:
    """Why a file cannot be estimated for a phone; empty where it can."""
    suffix = ".mlpackage" if phone.runtime == CORE_ML else ".tflite"
    if file.path.suffix != suffix:
        return f"the figures of {phone.name} are for {suffix} files"
    arithmetic = _arithmetic(file)
    if _phones.costs(phone.name, arithmetic) is None:
        return f"no figures of {phone.name} in {arithmetic} are published that say enough"
    return ""


def _on_android(phone: Phone, files: Sequence[DeviceFile], progress: Progress) -> list[Latency]:
    timed = _timed(phone, files, progress) if (phone.runtime, phone.unit) == (TFLITE, CPU) else {}
    found = []
    for file in files:
        with stage(file.name):
            found.append(_latency(description(phone), phone, file, _band(phone, file, timed)))
    return found


def _timed(phone: Phone, files: Sequence[DeviceFile], progress: Progress) -> Mapping[str, HostTime]:
    """Times of the files and of the networks that the phone's figures are of, on this host."""
    from facex.device_bench import _host_ratio

    models = {file.name: file.path for file in files}
    anchors = {}
    for arithmetic in sorted({_arithmetic(file) for file in files}):
        anchors.update(_host_ratio.anchor_files(_host_ratio.usable(phone.of(arithmetic)), arithmetic))
    return _host_ratio.times({**models, **anchors}, progress)


def _band(phone: Phone, file: DeviceFile, timed: Mapping[str, HostTime]) -> Band:
    """The estimate for a TFLite file."""
    arithmetic = _arithmetic(file)
    costs = _phones.costs(phone.name, arithmetic)
    assert costs is not None, "asked for above"
    bands = [by_costs(costs, phone.unit, _work.of_tflite(file.path, joined=phone.runtime == NCNN))]
    if file.name in timed:
        from facex.device_bench import _host_ratio

        ratio = _host_ratio.ratio(phone.of(arithmetic), timed, arithmetic)
        if ratio is not None:
            bands.append(_by_host(ratio, timed[file.name]))
    joined = join(bands)
    return dataclasses.replace(joined, method=f"{joined.method}; {_provenance(phone, arithmetic)}")


def by_costs(costs: Costs, unit: str, work: Work) -> Band:
    """What work costs on a unit of a phone.

    Raises:
        ValueError: `work` does not tell what has a cost.
    """
    p50_ms = costs.latency_ms(work)
    factor = width(unit, costs.families, costs.factor_90)
    text = (
        f"fitted costs of {costs.networks} networks in {costs.families} families (held out: median error "
        f"{costs.median_error:.0%}, 90 % within x{costs.factor_90:.2f}) give {p50_ms:.3g} ms"
    )
    return Band(low_ms=p50_ms / factor, p50_ms=p50_ms, high_ms=p50_ms * factor, method=text)


def _by_host(ratio: Ratio, time: HostTime) -> Band:
    p50_ms = ratio.value * time.minimum_ms
    factor = width(CPU, ratio.families, ratio.spread)
    text = (
        f"{time.minimum_ms:.3g} ms on this host (1 thread, minimum; median x{time.noise:.2f}) times {ratio.value:.3g}, "
        f"the median of {ratio.anchors} anchors in {ratio.families} families (held out: median error "
        f"{ratio.median_error:.0%}, 90 % within x{ratio.spread:.2f}) give {p50_ms:.3g} ms"
    )
    return Band(low_ms=p50_ms / factor, p50_ms=p50_ms, high_ms=p50_ms * factor, method=text)


def width(unit: str, families: int, shown: float) -> float:
    """How far a band reaches up and down, as a factor: what held-out networks show, and never below the floors."""
    floor = CPU_WIDTH if unit == CPU else OTHER_WIDTH
    return max(floor, shown, FEW_FAMILIES_WIDTH if families < 3 else 1.0)


def join(bands: Sequence[Band]) -> Band:
    """One band of one or two: about their mean where they agree, else the union."""
    if len(bands) == 1:
        return bands[0]
    first, second = bands
    p50_ms = math.sqrt(first.p50_ms * second.p50_ms)
    apart = max(first.p50_ms, second.p50_ms) / min(first.p50_ms, second.p50_ms)
    text = f"{first.method}; {second.method}"
    if apart > DISAGREEMENT:
        low_ms, high_ms = min(first.low_ms, second.low_ms), max(first.high_ms, second.high_ms)
        return Band(
            low_ms=low_ms,
            p50_ms=p50_ms,
            high_ms=high_ms,
            method=f"{text}; x{apart:.2f} apart, so the band is their union",
        )
    factor = max(band.high_ms / band.p50_ms for band in bands)
    return Band(low_ms=p50_ms / factor, p50_ms=p50_ms, high_ms=p50_ms * factor, method=text)


def _scenarios(phone: Phone, file: DeviceFile) -> list[Latency]:
    """A Core ML file that stays on the Neural Engine, and one that falls off it; the expected has the phone's word."""
    arithmetic = _arithmetic(file)
    costs = _phones.costs(phone.name, arithmetic)
    assert costs is not None, "asked for above"
    resident = by_costs(costs, phone.unit, Work(mmacs=file.facts.macs / 1e6))
    forecast = file.facts.neural_engine_forecast
    fraction = forecast.resident_mac_fraction if forecast else 0.0
    told = f"forecast: {fraction:.0%} of the multiply-accumulates on the Neural Engine"
    tail = f"{told}; {_provenance(phone, arithmetic)}"
    resident = dataclasses.replace(resident, method=f"all of it on the Neural Engine: {resident.method}; {tail}")
    fallen = Band(
        low_ms=resident.low_ms * FALLEN[0],
        p50_ms=resident.p50_ms * math.sqrt(FALLEN[0] * FALLEN[1]),
        high_ms=resident.high_ms * FALLEN[1],
        method=f"fallen off the Neural Engine: x{FALLEN[0]:.0f} to x{FALLEN[1]:.0f} of that, as published; {tail}",
    )
    expected, other = (resident, fallen) if fraction >= RESIDENT_FRACTION else (fallen, resident)
    return [
        _latency(description(phone), phone, file, expected),
        _latency(f"{phone.name}-otherwise: {phone.title}, {phone.unit}, {phone.runtime}", phone, file, other),
    ]


def _provenance(phone: Phone, arithmetic: str) -> str:
    figures = phone.of(arithmetic)
    precisions = "/".join(sorted({f.precision for f in figures}))
    return f"figures in {precisions} taken {_phones.years(figures)}, without heat"


def _latency(device: str, phone: Phone, file: DeviceFile, band: Band) -> Latency:
    return Latency(
        artifact=file.name,
        device=device,
        kind=LatencyKind.ESTIMATE,
        threads=phone.threads or 1,
        runs=0,
        p50_ms=band.p50_ms,
        low_ms=band.low_ms,
        high_ms=band.high_ms,
        method=band.method,
    )
