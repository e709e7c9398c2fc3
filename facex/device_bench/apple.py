"""Latency of Core ML files on this Mac or on a phone at it, by coremltools' benchmarker, and the compute units chosen.

`MLModelBenchmarker` (since coremltools 8.3 and macOS 14.4) tells how long loading and every prediction take;
`MLComputePlan` tells the unit that Core ML prefers for every operation, and its estimate of the share of the cost. See
https://apple.github.io/coremltools/source/coremltools.models.html.
"""

from __future__ import annotations

import asyncio
import platform
import random
import statistics
from collections.abc import Sequence
from typing import Any

from facex.device_bench import _iphone, host
from facex.errors import DeviceError, MissingExtraError, UsageError, stage
from facex.progress import Progress
from facex.types import (
    DeviceFile,
    DeviceOptions,
    DeviceReport,
    DeviceRun,
    Latency,
    LatencyKind,
    OperatorTime,
    Runtime,
)

TARGETS = ("coreml",)
OPTIONS = ()

COMPUTE_UNITS = {
    Runtime.EXECUTOR: "ALL",  # the default; facex's executor is no device
    Runtime.NATIVE: "ALL",
    Runtime.NATIVE_CPU: "CPU_ONLY",
    Runtime.NATIVE_GPU: "CPU_AND_GPU",
    Runtime.NATIVE_ANE: "CPU_AND_NE",
}
UNITS = {
    "MLNeuralEngineComputeDevice": "neural engine",
    "MLGPUComputeDevice": "gpu",
    "MLCPUComputeDevice": "cpu",
}


def measure(
    files: Sequence[DeviceFile], argument: str, options: DeviceOptions, progress: Progress
) -> tuple[tuple[Latency, ...], DeviceReport]:
    """Time files on this Mac or on a phone at it, one after another, on one picture of noise.

    Args:
        files: Core ML packages.
        argument: name, identifier or UDID of a connected iPhone or iPad; empty for the Mac itself.
        options: `runtime` chooses the compute units; `threads` is Core ML's own choice and only recorded.
        progress: told what goes on.

    Returns:
        One latency a file, and what else Core ML tells.

    Raises:
        UsageError: this is no Mac, or no such phone is connected to it.
        MissingExtraError: coremltools is not installed.
        BackendError: Core ML refuses a file, or tells no times; or the phone's runner was not started.
    """
    if platform.system() != "Darwin":
        raise UsageError(
            f"--device {f'apple:{argument}' if argument else 'apple'} needs a Mac: only macOS runs Core ML, and "
            "reaches an iPhone",
            hint="here, facex check compares Core ML files by facex's own executor, and facex inspect forecasts",
        )
    _require_coremltools()
    if argument:
        with stage(f"apple:{argument}"):
            phone = _iphone.find(argument)
            return asyncio.run(_on_phone(files, phone, options, progress))
    name = host.description().replace("host", "apple", 1)
    pairs = []
    for file in files:
        progress.start(f"timing {file.name} on {name}")
        with stage(file.name):
            pairs.append(asyncio.run(_measured(file, name, options)))
    return _reported(name, {"macos": platform.mac_ver()[0], "machine": platform.machine()}, pairs)


async def _on_phone(
    files: Sequence[DeviceFile], phone: Any, options: DeviceOptions, progress: Progress
) -> tuple[tuple[Latency, ...], DeviceReport]:
    name = _iphone.described(phone)
    progress.start(f"building and starting coremltools' runner on {name}")
    pairs = []
    async with _iphone.prepared(phone) as device:
        for file in files:
            progress.start(f"timing {file.name} on {name}")
            with stage(file.name):
                pairs.append(await _measured(file, name, options, device))
    return _reported(name, _iphone.facts(phone), pairs)


def _reported(
    name: str, facts: dict[str, str], pairs: Sequence[tuple[Latency, DeviceRun]]
) -> tuple[tuple[Latency, ...], DeviceReport]:
    report = DeviceReport(
        name=name, runtime=f"Core ML on {name}", facts=facts, runs=tuple(run for _, run in pairs), warnings=()
    )
    return tuple(latency for latency, _ in pairs), report


async def _measured(
    file: DeviceFile, name: str, options: DeviceOptions, device: Any = None
) -> tuple[Latency, DeviceRun]:
    """One file on this Mac, or on a phone that was prepared."""
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

    units, picture = COMPUTE_UNITS[options.runtime], _picture(file)
    if device is None:
        model = _opened(file, units)
        benchmarker = MLModelBenchmarker(model)
    else:
        model, picture = _iphone.opened(file, units), _iphone.array_of(picture)
        benchmarker = MLModelBenchmarker(model, device=device)
    load_ms, times_ms = await _times(benchmarker, picture, options.warmup + options.runs)
    if len(load_ms) != 1 or len(times_ms) != options.warmup + options.runs:
        raise DeviceError(f"Core ML told {len(times_ms)} times for {options.warmup + options.runs} predictions")
    timed = times_ms[options.warmup :]
    plan = _plan(model, units) if device is None else await _iphone.plan(model, units, device)
    operators = _operators(plan, statistics.median(timed))
    run = DeviceRun(
        artifact=file.name,
        load_ms=load_ms[0],
        first_ms=times_ms[0],
        warmup_ms=statistics.mean(times_ms[: options.warmup]) if options.warmup else None,
        memory_mb=None,
        before=None,
        after=None,
        operators=operators,
        notes=(_placement(operators), *(_iphone.NOTES if device is not None else ())),
    )
    latency = Latency(
        artifact=file.name,
        device=name,
        kind=LatencyKind.MEASURED,
        threads=options.threads,
        runs=len(timed),
        p50_ms=statistics.median(timed),
        low_ms=min(timed),
        high_ms=host.percentile_90(timed),
        method=f"Core ML, compute units {units}, its own choice of threads; {options.warmup} warm-up runs; "
        "low is the minimum, high the 90th percentile; load ends with the first prediction",
        load_ms=load_ms[0] + times_ms[0],
    )
    return latency, run


def _require_coremltools() -> None:
    try:
        import coremltools.models.ml_program.experimental.perf_utils  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("coremltools>=8.3", extra="coreml", purpose="--device apple") from error


def _opened(file: DeviceFile, units: str) -> Any:
    """The model in Core ML."""
    import coremltools

    return coremltools.models.MLModel(str(file.path), compute_units=getattr(coremltools.ComputeUnit, units))


async def _times(benchmarker: Any, image: Any, runs: int) -> tuple[list[float], list[float]]:
    """Milliseconds of loading, and of every prediction."""
    load = await benchmarker.benchmark_load(iterations=1)
    # with an image of ours: coremltools 9.0 can draw no random one, it refuses inputs that are images
    predictions = await benchmarker.benchmark_predict(inputs={"image": image}, iterations=runs)
    return list(load.samples), list(predictions.samples)


def _picture(file: DeviceFile) -> Any:
    """Noise of the size of the input, as the RGB picture that Core ML asks for."""
    from PIL import Image

    height, width = file.size.height, file.size.width
    return Image.frombytes("RGB", (width, height), random.Random(0).randbytes(3 * height * width))  # noqa: S311


def _plan(model: Any, units: str) -> Any:
    """Where Core ML on this Mac would run every operation."""
    import coremltools
    from coremltools.models.compute_plan import MLComputePlan

    return MLComputePlan.load_from_path(
        path=model.get_compiled_model_path(), compute_units=getattr(coremltools.ComputeUnit, units)
    )


def _operators(plan: Any, p50_ms: float) -> tuple[OperatorTime, ...]:
    """Every operation that costs something, with the unit that Core ML prefers for it."""
    operators = []
    for operation in plan.model_structure.program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        if usage is None or cost is None:  # constants
            continue
        unit = type(usage.preferred_compute_device).__name__
        operators.append(
            OperatorTime(
                operator=operation.operator_name,
                name=operation.outputs[0].name if operation.outputs else operation.operator_name,
                mean_ms=cost.weight * p50_ms,
                share=cost.weight,
                unit=UNITS.get(unit, unit),
            )
        )
    return tuple(operators)


def _placement(operators: Sequence[OperatorTime]) -> str:
    """Shares of the estimated cost by unit, largest first."""
    shares: dict[str, float] = {}
    for operator in operators:
        shares[operator.unit or ""] = shares.get(operator.unit or "", 0.0) + operator.share
    told = ", ".join(f"{unit} {share:.1%}" for unit, share in sorted(shares.items(), key=lambda item: -item[1]))
    return f"estimated cost by preferred unit: {told or 'not told'}"
