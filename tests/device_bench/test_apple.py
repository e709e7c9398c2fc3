"""Core ML files timed on a Mac, with coremltools' outermost calls replaced: no test of facex has seen a Mac."""

from __future__ import annotations

import inspect
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from facex.device_bench import apple
from facex.errors import BackendError, MissingExtraError, UsageError
from facex.progress import Silent
from facex.types import DeviceFile, DeviceOptions, FileFacts, LatencyKind, Runtime, Size

FACTS = FileFacts(
    inputs=(), outputs=(), operators={}, macs=0, integer_macs=0, float_islands=(), minimum_runtime="unknown"
)
FILE = DeviceFile(
    name="a_fp16.mlpackage", path=Path("folder/a_fp16.mlpackage"), size=Size(height=6, width=4), facts=FACTS
)
PERF = "coremltools.models.ml_program.experimental.perf_utils"
PLAN = "coremltools.models.compute_plan"


class MLNeuralEngineComputeDevice:
    """Named as in coremltools."""


class MLCPUComputeDevice:
    """Named as in coremltools."""


@dataclass
class FakeCoreML:
    """What the replaced calls were given, and what they answer."""

    samples_ms: list[float] = field(default_factory=lambda: [9.0, 5.0, 2.0, 1.0, 4.0, 3.0])
    operations: list[tuple[str, Any, float | None]] = field(
        default_factory=lambda: [
            ("const", None, None),
            ("conv", MLNeuralEngineComputeDevice(), 0.75),
            ("cast", MLCPUComputeDevice(), 0.25),
        ]
    )
    opened: list[Any] = field(default_factory=list)
    inputs: Any = None

    def model(self, path: str, compute_units: str) -> Any:
        self.opened.append((path, compute_units))
        return SimpleNamespace(get_compiled_model_path=lambda: "compiled.mlmodelc")

    def benchmarker(self, model: Any) -> Any:
        return self

    async def benchmark_load(self, iterations: int) -> Any:
        return SimpleNamespace(samples=[188.0] * iterations)

    async def benchmark_predict(self, inputs: Any, iterations: int) -> Any:
        self.inputs = inputs
        return SimpleNamespace(samples=self.samples_ms[:iterations])

    def plan(self, path: str, compute_units: str) -> Any:
        self.opened.append((path, compute_units))
        listed = [
            SimpleNamespace(operator_name=n, outputs=[SimpleNamespace(name=f"{n}_0")]) for n, _, _ in self.operations
        ]
        answers = {n: (device, weight) for n, device, weight in self.operations}

        def usage(operation: Any) -> Any:
            device, _ = answers[operation.operator_name]
            return device and SimpleNamespace(preferred_compute_device=device)

        def cost(operation: Any) -> Any:
            _, weight = answers[operation.operator_name]
            return weight and SimpleNamespace(weight=weight)

        block = SimpleNamespace(operations=listed)
        return SimpleNamespace(
            model_structure=SimpleNamespace(program=SimpleNamespace(functions={"main": SimpleNamespace(block=block)})),
            get_compute_device_usage_for_mlprogram_operation=usage,
            get_estimated_cost_for_mlprogram_operation=cost,
        )


@pytest.fixture
def core_ml(monkeypatch: pytest.MonkeyPatch) -> FakeCoreML:
    fake = FakeCoreML()
    units = SimpleNamespace(**{name: name for name in set(apple.COMPUTE_UNITS.values())})
    modules: dict[str, dict[str, Any]] = {
        "coremltools": {"ComputeUnit": units, "models": SimpleNamespace(MLModel=fake.model)},
        "coremltools.models": {},
        "coremltools.models.ml_program": {},
        "coremltools.models.ml_program.experimental": {},
        PERF: {"MLModelBenchmarker": fake.benchmarker},
        PLAN: {"MLComputePlan": SimpleNamespace(load_from_path=fake.plan)},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(apple.host, "description", lambda: "host: Apple M2, darwin arm64")
    return fake


def _measure(**options: Any) -> Any:
    return apple.measure([FILE], "", DeviceOptions(**options), Silent())


def test_a_file_is_timed(core_ml: FakeCoreML) -> None:
    (latency,), report = _measure(warmup=2, runs=4)
    assert (latency.artifact, latency.device, latency.kind) == (FILE.name, report.name, LatencyKind.MEASURED)
    assert (latency.p50_ms, latency.low_ms, latency.high_ms, latency.runs) == (2.5, 1.0, pytest.approx(3.7), 4)
    assert "compute units ALL" in latency.method
    assert latency.load_ms == 197.0
    (run,) = report.runs
    assert (run.load_ms, run.first_ms, run.warmup_ms) == (188.0, 9.0, 7.0)
    assert [(o.operator, o.name, o.mean_ms, o.unit) for o in run.operators] == [
        ("conv", "conv_0", 1.875, "neural engine"),
        ("cast", "cast_0", 0.625, "cpu"),
    ]
    assert run.notes == ("estimated cost by preferred unit: neural engine 75.0%, cpu 25.0%",)
    assert report.name == "apple: Apple M2, darwin arm64"
    assert report.facts["macos"] == "15.1"
    assert core_ml.inputs["image"].size == (4, 6)
    assert core_ml.inputs["image"].mode == "RGB"


@pytest.mark.parametrize(
    ("runtime", "units"),
    [(Runtime.EXECUTOR, "ALL"), (Runtime.NATIVE_CPU, "CPU_ONLY"), (Runtime.NATIVE_ANE, "CPU_AND_NE")],
)
def test_the_runtime_chooses_the_units(core_ml: FakeCoreML, runtime: Runtime, units: str) -> None:
    _measure(runtime=runtime, warmup=0, runs=1)
    assert core_ml.opened == [("folder/a_fp16.mlpackage", units), ("compiled.mlmodelc", units)]


def test_every_runtime_has_units() -> None:
    assert set(apple.COMPUTE_UNITS) == set(Runtime)


def test_missing_times_are_an_error(core_ml: FakeCoreML) -> None:
    with pytest.raises(BackendError, match="told 6 times for 10 predictions"):
        _measure(warmup=5, runs=5)


def test_a_file_that_core_ml_refuses(core_ml: FakeCoreML, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_ml, "benchmarker", None)
    monkeypatch.setattr(sys.modules["coremltools"].models, "MLModel", _refuse)
    with pytest.raises(BackendError, match="Failed to load model") as caught:
        _measure()
    assert caught.value.stage == FILE.name


def _refuse(path: str, compute_units: str) -> None:
    raise ValueError("Failed to load model")


def test_units_of_no_known_name_are_shown(core_ml: FakeCoreML) -> None:
    core_ml.operations = [("conv", SimpleNamespace(), 1.0)]
    _, report = _measure(warmup=0, runs=1)
    assert report.runs[0].operators[0].unit == "SimpleNamespace"


@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_elsewhere_a_mac_is_needed(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    with pytest.raises(UsageError, match="--device apple needs a Mac") as caught:
        _measure()
    assert caught.value.exit_code == 2


def test_it_takes_no_argument(core_ml: FakeCoreML) -> None:
    with pytest.raises(UsageError, match="--device apple:iPhone: takes no argument"):
        apple.measure([FILE], "iPhone", DeviceOptions(), Silent())


def test_without_coremltools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingExtraError, match="facex\\[coreml\\]"):
        _measure()


@pytest.mark.slow
def test_coremltools_has_what_is_called() -> None:
    pytest.importorskip("coremltools")
    from coremltools import ComputeUnit
    from coremltools.models.compute_plan import MLComputePlan
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

    assert {"inputs", "iterations"} <= inspect.signature(MLModelBenchmarker.benchmark_predict).parameters.keys()
    assert "iterations" in inspect.signature(MLModelBenchmarker.benchmark_load).parameters
    assert {"path", "compute_units"} <= inspect.signature(MLComputePlan.load_from_path).parameters.keys()
    for name in apple.COMPUTE_UNITS.values():
        assert hasattr(ComputeUnit, name)
    for name in (
        "model_structure",
        "get_compute_device_usage_for_mlprogram_operation",
        "get_estimated_cost_for_mlprogram_operation",
    ):
        assert hasattr(MLComputePlan, name)
    from coremltools.models import compute_device

    assert all(hasattr(compute_device, name) for name in apple.UNITS)
