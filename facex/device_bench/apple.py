"""Latency of Core ML files on this Mac, by coremltools' benchmarker, and the compute units that Core ML chooses.

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

from facex.device_bench import host
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
    """Time files on this Mac, one after another, on one picture of noise.

    Args:
        files: Core ML packages.
        argument: must be empty.
        options: `runtime` chooses the compute units; `threads` is Core ML's own choice and only recorded.
        progress: told what goes on.

    Returns:
        One latency a file, and what else Core ML tells.

    Raises:
        UsageError: this is no Mac, or an argument was given.
        MissingExtraError: coremltools is not installed.
        BackendError: Core ML refuses a file, or tells no times.
    """
    if argument:
        raise UsageError(f"--device apple:{argument}: takes no argument", hint="it is the Mac that facex runs on")
    if platform.system() != "Darwin":
        raise UsageError(
            "--device apple needs a Mac: only macOS runs Core ML",
            hint="here, facex check compares Core ML files by facex's own executor, and facex inspect forecasts",
        )
    name = host.description().replace("host", "apple", 1)
    pairs = []
    for file in files:
        progress.start(f"timing {file.name} on {name}")
        with stage(file.name):
            pairs.append(_measured(file, name, options))
    report = DeviceReport(
        name=name,
        runtime=f"Core ML on {name}",
        facts={"macos": platform.mac_ver()[0], "machine": platform.machine()},
        runs=tuple(run for _, run in pairs),
        warnings=(),
    )
    return tuple(latency for latency, _ in pairs), report


def _measured(file: DeviceFile, device: str, options: DeviceOptions) -> tuple[Latency, DeviceRun]:
    units = COMPUTE_UNITS[options.runtime]
    model, benchmarker = _opened(file, units)
    load_ms, times_ms = asyncio.run(_times(benchmarker, _picture(file), options.warmup + options.runs))
    if len(load_ms) != 1 or len(times_ms) != options.warmup + options.runs:
        raise DeviceError(f"Core ML told {len(times_ms)} times for {options.warmup + options.runs} predictions")
    timed = times_ms[options.warmup :]
    operators = _plan(model, units, statistics.median(timed))
    run = DeviceRun(
        artifact=file.name,
        load_ms=load_ms[0],
        first_ms=times_ms[0],
        warmup_ms=statistics.mean(times_ms[: options.warmup]) if options.warmup else None,
        memory_mb=None,
        before=None,
        after=None,
        operators=operators,
        notes=(_placement(operators),),
    )
    latency = Latency(
        artifact=file.name,
        device=device,
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


def _opened(file: DeviceFile, units: str) -> tuple[Any, Any]:
    """The model in Core ML, and its benchmarker."""
    try:
        import coremltools
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker
    except ImportError as error:
        raise MissingExtraError("coremltools>=8.3", extra="coreml", purpose="--device apple") from error
    model = coremltools.models.MLModel(str(file.path), compute_units=getattr(coremltools.ComputeUnit, units))
    return model, MLModelBenchmarker(model)


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


def _plan(model: Any, units: str, p50_ms: float) -> tuple[OperatorTime, ...]:
    """Every operation that costs something, with the unit that Core ML prefers for it."""
    import coremltools
    from coremltools.models.compute_plan import MLComputePlan

    plan = MLComputePlan.load_from_path(
        path=model.get_compiled_model_path(), compute_units=getattr(coremltools.ComputeUnit, units)
    )
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
