"""Core ML files timed on a Mac or an iPhone, with coremltools' outermost calls replaced: no test has seen either."""

from __future__ import annotations

import asyncio
import enum
import inspect
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from facex.device_bench import _iphone, apple
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
REMOTE = "coremltools.models.ml_program.experimental.remote_device"
REMOTE_PLAN = "coremltools.models.ml_program.experimental.compute_plan_utils"


class DeviceType(enum.Enum):
    MAC = "mac"
    IPHONE = "iphone"


class DeviceState(enum.Enum):
    CONNECTED = "connected"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class AppSigningCredentials:
    development_team: str | None = ""


@dataclass
class Phone:
    """A device as coremltools lists it."""

    name: str
    type: DeviceType = DeviceType.IPHONE
    identifier: str = "identifier"
    udid: str = "udid"
    os_version: str = "18.1"
    os_build_number: str = "22B83"
    state: DeviceState = DeviceState.CONNECTED
    session: Any = None
    refuses: str = ""
    seen: list[Any] = field(default_factory=list)

    async def prepare_for_model_debugging(self, credentials: Any, working_directory: Path) -> Any:
        assert working_directory.is_dir()
        self.seen += [credentials.development_team, working_directory]
        if self.refuses:
            raise ValueError(self.refuses)
        self.session = SimpleNamespace(stop=lambda: self.seen.append("stopped"))
        return self


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
    phones: list[Phone] = field(default_factory=list)
    device: Any = None

    def model(self, path: Any, compute_units: str = "", weights_dir: str = "", *, skip_model_load: bool = False) -> Any:
        if not skip_model_load:
            self.opened.append((path, compute_units))
        return SimpleNamespace(
            get_compiled_model_path=lambda: "compiled.mlmodelc",
            get_spec=lambda: f"spec of {path}",
            weights_dir="weights",
        )

    def benchmarker(self, model: Any, device: Any = None) -> Any:
        self.device = device
        return self

    async def remote_plan(self, path: str, compute_units: str, device: Any) -> Any:
        assert device is self.device is not None
        return self.plan(path, compute_units)

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
        REMOTE: {
            "Device": SimpleNamespace(get_devices=lambda: list(fake.phones)),
            "DeviceState": DeviceState,
            "DeviceType": DeviceType,
            "AppSigningCredentials": AppSigningCredentials,
        },
        REMOTE_PLAN: {"load_compute_plan_from_path_on_device": fake.remote_plan},
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
@pytest.mark.parametrize(("argument", "word"), [("", "apple"), ("Ana's iPhone", "apple:Ana's iPhone")])
def test_elsewhere_a_mac_is_needed(monkeypatch: pytest.MonkeyPatch, system: str, argument: str, word: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    with pytest.raises(UsageError, match=f"--device {word} needs a Mac") as caught:
        apple.measure([FILE], argument, DeviceOptions(), Silent())
    assert caught.value.exit_code == 2


def _on_phone(name: str, **options: Any) -> Any:
    return apple.measure([FILE], name, DeviceOptions(**options), Silent())


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spec is its name here; the real ones are changed below."""
    monkeypatch.setattr(_iphone, "with_array", lambda spec: f"{spec}, array")


@pytest.mark.parametrize("word", ["Ana's iPhone", "identifier", "udid"])
def test_a_file_is_timed_on_a_phone(
    core_ml: FakeCoreML, spec: None, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("DEVELOPMENT_TEAM", "TEAM123")
    phone = Phone("Ana's iPhone")
    core_ml.phones = [Phone("This Mac", DeviceType.MAC), Phone("other", identifier="x", udid="y"), phone]
    (latency,), report = _on_phone(word, warmup=2, runs=4, runtime=Runtime.NATIVE_ANE)
    assert (latency.artifact, latency.kind) == (FILE.name, LatencyKind.MEASURED)
    assert latency.device == report.name == "apple: iphone, OS 18.1"
    assert latency.is_on("apple")
    assert (latency.p50_ms, latency.low_ms, latency.load_ms, latency.runs) == (2.5, 1.0, 197.0, 4)
    assert report.facts == {"type": "iphone", "os": "18.1", "os_build": "22B83"}
    (run,) = report.runs
    assert [(o.operator, o.mean_ms, o.unit) for o in run.operators] == [
        ("conv", 1.875, "neural engine"),
        ("cast", 0.625, "cpu"),
    ]
    assert run.notes[1:] == _iphone.NOTES
    assert core_ml.opened == [
        ("spec of folder/a_fp16.mlpackage, array", "CPU_AND_NE"),
        ("compiled.mlmodelc", "CPU_AND_NE"),
    ]
    image = core_ml.inputs["image"]
    assert (image.shape, image.dtype.name) == ((1, 3, 6, 4), "float32")
    assert image.flags["C_CONTIGUOUS"]  # its strides are sent, in elements
    team, folder, stopped = phone.seen
    assert (team, stopped) == ("TEAM123", "stopped")
    assert not folder.exists()


def test_the_array_holds_the_pixels_of_the_picture() -> None:
    picture = apple._picture(FILE)
    array = _iphone.array_of(picture)
    assert all(tuple(array[0, :, y, x]) == picture.getpixel((x, y)) for x in range(4) for y in range(6))


@pytest.mark.parametrize(
    ("phones", "message"),
    [
        ([], "no such device — connected to this Mac: none"),
        ([Phone("b"), Phone("a"), Phone("This Mac", DeviceType.MAC)], "no such device — connected to this Mac: a, b"),
        ([Phone("iPhone", state=DeviceState.UNAVAILABLE)], "is unavailable — connect it, unlock it"),
        ([Phone("iPhone"), Phone("iPhone")], "2 devices have this name"),
        ([Phone("iPhone", DeviceType.MAC)], "no such device"),
    ],
)
def test_a_phone_that_is_not_there(core_ml: FakeCoreML, phones: list[Phone], message: str) -> None:
    core_ml.phones = phones
    with pytest.raises(UsageError, match=f"--device apple:iPhone: {message}") as caught:
        _on_phone("iPhone")
    assert caught.value.exit_code == 2


def test_a_runner_that_cannot_be_signed(core_ml: FakeCoreML) -> None:
    phone = Phone("iPhone", refuses="no account for team")
    core_ml.phones = [phone]
    with pytest.raises(BackendError, match="runner was not started: ValueError: no account for team") as caught:
        _on_phone("iPhone")
    assert "DEVELOPMENT_TEAM" in str(caught.value)
    assert not phone.seen[1].exists()


def test_the_runner_is_stopped_when_a_file_fails(core_ml: FakeCoreML, spec: None) -> None:
    core_ml.phones, core_ml.samples_ms = [Phone("iPhone")], []
    with pytest.raises(BackendError, match="told 0 times") as caught:
        _on_phone("iPhone")
    assert caught.value.stage == FILE.name
    assert core_ml.phones[0].seen[-1] == "stopped"


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


@pytest.mark.slow
def test_coremltools_has_what_is_called_for_a_phone() -> None:
    pytest.importorskip("coremltools")
    import dataclasses

    from coremltools.models import MLModel
    from coremltools.models.ml_program.experimental import compute_plan_utils, perf_utils, remote_device

    def parameters(function: Any) -> list[str]:
        return [name for name in inspect.signature(function).parameters if name != "self"]

    ours = {field.name for field in dataclasses.fields(Phone)} - {"refuses", "seen"}
    assert ours <= {field.name for field in dataclasses.fields(remote_device.Device)}
    assert parameters(remote_device.Device.get_devices) == []
    prepare = remote_device.Device.prepare_for_model_debugging
    assert set(parameters(Phone.prepare_for_model_debugging)) <= set(parameters(prepare))
    assert asyncio.iscoroutinefunction(prepare)
    for ours_, theirs in ((DeviceType, remote_device.DeviceType), (DeviceState, remote_device.DeviceState)):
        assert {m.name: m.value for m in ours_}.items() <= {m.name: m.value for m in theirs}.items()
    assert "development_team" in parameters(remote_device.AppSigningCredentials)
    assert callable(remote_device._AppSession.stop)
    assert parameters(perf_utils.MLModelBenchmarker) == ["model", "device"]
    load = compute_plan_utils.load_compute_plan_from_path_on_device
    assert parameters(load) == parameters(FakeCoreML.remote_plan) == ["path", "compute_units", "device"]
    assert {"model", "compute_units", "weights_dir", "skip_model_load"} <= set(parameters(MLModel))


@pytest.mark.slow
def test_with_an_array_a_file_computes_the_same(seeded_checkpoint: Path, tmp_path: Path) -> None:
    """The copy for a phone is saved and read as coremltools does it, and run by facex's own executor."""
    pytest.importorskip("coremltools")
    import numpy as np
    import torch
    from coremltools.models import MLModel

    import facex
    from facex import exporters
    from facex.exporters import _package
    from facex.exporters._mil import executor, program

    facex.export(seeded_checkpoint, targets=["coreml"], precisions=["fp16"], sizes=["160x160"], out=tmp_path / "out")
    path = tmp_path / "out" / "seeded_160x160_fp16.mlpackage"
    model = MLModel(str(path), skip_model_load=True)
    changed = _iphone.with_array(model.get_spec())
    (image,) = changed.description.input
    assert list(image.type.multiArrayType.shape) == [1, 3, 160, 160]
    assert model.get_spec().description.input[0].type.WhichOneof("Type") == "imageType"  # a copy was changed
    MLModel(changed, weights_dir=model.weights_dir, skip_model_load=True).save(str(tmp_path / "array.mlpackage"))
    spec, weights = _package.load(tmp_path / "array.mlpackage")
    assert spec.description.input[0].type.multiArrayType.dataType == 65568  # FLOAT32 in FeatureTypes.proto
    file = DeviceFile(name=path.name, path=path, size=Size(height=160, width=160), facts=FACTS)
    picture = apple._picture(file)
    found = executor.Executor(program.parse(spec, weights))({"image": torch.from_numpy(_iphone.array_of(picture))})
    wanted = exporters.open_session("coreml", path, threads=1)({"image": np.asarray(picture)[None]})
    assert wanted
    for name, expected in wanted.items():
        np.testing.assert_array_equal(found[name].numpy(), expected)
