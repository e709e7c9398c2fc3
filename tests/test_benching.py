"""`facex bench --device`: what a device says becomes latencies, findings, tables and an exit code."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import facex
from facex import device_bench
from facex.errors import UsageError
from facex.progress import Progress
from facex.types import (
    DeviceFile,
    DeviceOptions,
    DeviceReport,
    DeviceRun,
    DeviceState,
    Latency,
    LatencyKind,
    OperatorTime,
    Size,
)

Run = Callable[..., Any]
FP32, FP16 = "seeded_160x160_fp32.onnx", "seeded_160x160_fp16.onnx"


def _measure(
    files: Sequence[DeviceFile], argument: str, options: DeviceOptions, progress: Progress
) -> tuple[tuple[Latency, ...], DeviceReport]:
    """A device that takes 7 ms for everything."""
    assert argument == "kitchen"
    assert all(file.size == Size(height=160, width=160) and file.path.is_file() for file in files)
    progress.warn("it smells of bread")
    latencies = tuple(
        Latency(
            artifact=file.name,
            device="toaster: kitchen",
            kind=LatencyKind.MEASURED,
            threads=options.threads,
            runs=options.runs,
            p50_ms=7.0,
            low_ms=6.0,
            high_ms=8.0,
            method="by the smell",
        )
        for file in files
    )
    state = DeviceState(thermal_status=3, cpu_mhz=(1766.4, 300.0))
    operators = tuple(OperatorTime(operator="CONV", name=str(i), mean_ms=3.0, share=0.45) for i in range(2))
    run = DeviceRun(
        artifact=files[0].name,
        load_ms=12.5,
        first_ms=None,
        warmup_ms=9.0,
        memory_mb=4.25,
        before=state,
        after=DeviceState(thermal_status=None, cpu_mhz=()),
        operators=operators,
        notes=("brown [bold]",),
    )
    report = DeviceReport(
        name="toaster: kitchen", runtime="toast", facts={"slots": "2"}, runs=(run,), warnings=("it smells of bread",)
    )
    return latencies, report


@pytest.fixture
def toaster(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A device that times ONNX files and knows the option `profile`."""
    module = SimpleNamespace(TARGETS=("onnx",), OPTIONS=("profile",), measure=_measure)
    monkeypatch.setattr(device_bench, "find", lambda word: (module, word.partition(":")[2]))
    return module


BENCH = ("--device", "toaster:kitchen", "--runs", "9", "--threads", "1")


def test_what_a_device_says_is_printed(toaster: Any, run_facex: Run, exported: Path) -> None:
    ran = run_facex("bench", exported / FP32, exported / FP16, *BENCH, "--profile")
    assert ran.code == 0
    assert "measured on toaster: kitchen, 1 thread, 9 runs: by the smell" in ran.out
    tail = ran.out[ran.out.index(f"\n{FP32}\n") :].splitlines()[1:]
    assert tail == [
        FP32,
        "  load 12.50 ms, warm-up 9.00 ms, memory 4.2 MB",
        "  before: thermal status 3, CPU clocks 1766 300 MHz",
        "  after: thermal status not told, CPU clocks not told",
        "   90.0%    6.000 ms  CONV x 2",
        "  brown [bold]",
    ]
    assert "warning: it smells of bread" in ran.err


def test_json_tells_everything(toaster: Any, run_facex: Run, exported: Path) -> None:
    ran = run_facex("bench", exported / FP32, *BENCH, "--json")
    found = json.loads(ran.out)
    (report,) = found["devices"]
    assert report["facts"] == {"slots": "2"}
    assert report["warnings"] == ["it smells of bread"]
    (run,) = report["runs"]
    assert (run["load_ms"], run["first_ms"], run["before"]["cpu_mhz"]) == (12.5, None, [1766.4, 300])
    assert len(run["operators"]) == 2
    (latency,) = found["latency"]
    assert (latency["device"], latency["kind"], latency["p50_ms"]) == ("toaster: kitchen", "measured", 7)
    assert found["artifacts"][0]["runtime"] == "toast"


@pytest.mark.parametrize(("limit", "code"), [("7", 0), ("6.99", 4)])
def test_budgets_hold_on_a_device(toaster: Any, run_facex: Run, exported: Path, limit: str, code: int) -> None:
    ran = run_facex("bench", exported / FP32, *BENCH, "--max-latency-ms", limit)
    assert ran.code == code
    assert (f"FAIL {FP32} latency on toaster: measured 7 ms is above the limit" in ran.out) is (code == 4)


def test_several_devices_in_one_run(toaster: Any, run_facex: Run, exported: Path) -> None:
    ran = run_facex("bench", exported / FP32, *BENCH, "--device", "host", "--json")
    found = json.loads(ran.out)
    assert [entry["device"].partition(":")[0] for entry in found["latency"]] == ["toaster", "host"]
    assert [(f["name"], f["device"]) for f in found["findings"] if f["name"] in ("size", "latency")] == [
        ("size", "toaster"),
        ("latency", "toaster"),
        ("latency", None),
    ]
    assert [report["name"] for report in found["devices"]] == ["toaster: kitchen"]
    table = run_facex("bench", exported / FP32, *BENCH, "--device", "host").out.splitlines()
    assert "device" in table[0].split()
    assert [line.split()[1:3] for line in table if line.startswith(FP32)][:2] == [
        ["toaster", "measured"],
        ["host", "measured"],
    ]


def test_each_device_has_its_own_budget(toaster: Any, run_facex: Run, exported: Path, tmp_path: Path) -> None:
    config = tmp_path / "facex.toml"
    config.write_text('[budget."pixel-4"]\nmax_latency_ms = 1\n\n[budget."host"]\nmax_latency_ms = 100000\n')
    ran = run_facex("--config", config, "bench", exported / FP32, *BENCH, "--device", "host", "--json")
    latencies = [f for f in json.loads(ran.out)["findings"] if f["name"] == "latency"]
    assert [(f["device"], f["limit"], f["verdict"]) for f in latencies] == [
        ("toaster", None, "pass"),
        ("pixel-4", 1, "skipped"),
        (None, 100000, "pass"),
    ]
    limited = run_facex("--config", config, "bench", exported / FP32, *BENCH, "--device", "host", "--max-latency-ms", 6)
    assert limited.code == 4
    assert f"FAIL {FP32} latency on toaster: measured 7 ms is above the limit of 6 ms" in limited.out


def test_limits_of_the_function_hold_on_every_device(toaster: Any, exported: Path) -> None:
    found = facex.bench(exported / FP32, device=["toaster:kitchen", "host"], runs=3, max_latency_ms=6.5)
    limits = {(f.device, f.limit) for f in found.findings if f.name == "latency"}
    assert limits == {("toaster", 6.5), (None, 6.5)}
    assert found.exit_code == 4


def test_what_a_device_skips_has_its_reason(toaster: Any, run_facex: Run, exported: Path) -> None:
    def measure(files: Any, argument: str, options: DeviceOptions, progress: Progress) -> Any:
        latencies, report = _measure(files, argument, options, progress)
        return latencies[:1], dataclasses.replace(report, skipped={files[1].name: "too cold for it"})

    toaster.measure = measure
    ran = run_facex("bench", exported / FP32, exported / FP16, *BENCH)
    assert ran.code == 0
    assert f"skipped {FP16} latency on toaster: too cold for it" in ran.out


@pytest.mark.parametrize(
    ("devices", "message"),
    [(["host", "host"], "--device host: given twice"), ([], "no device was given"), (["host", "pix"], "pix: unknown")],
)
def test_wrong_devices(exported: Path, devices: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        facex.bench(exported / FP32, device=devices)


@pytest.mark.slow
def test_estimates_for_six_devices(run_facex: Run, seeded_checkpoint: Path, tmp_path: Path) -> None:
    facex.export(seeded_checkpoint, targets=["tflite"], precisions=["fp32"], sizes=["240x320", "480x640"], out=tmp_path)
    phones = ("pixel-3", "pixel-4", "snapdragon-835", "snapdragon-8-gen-2", "galaxy-s24-npu", "pixel-4-gpu")
    words = [word for phone in phones for word in ("--device", phone)]
    started = time.monotonic()
    ran = run_facex("bench", *sorted(tmp_path.glob("*.tflite")), *words, "--json")
    assert time.monotonic() - started < 120
    assert ran.code == 0
    found = json.loads(ran.out)
    assert {entry["kind"] for entry in found["latency"]} == {"estimate"}
    assert len(found["latency"]) == 12
    assert all(0 < e["low_ms"] < e["p50_ms"] < e["high_ms"] for e in found["latency"])
    (measured,) = (
        e for e in found["latency"] if e["device"].startswith("snapdragon-835") and "480x640" in e["artifact"]
    )
    assert measured["low_ms"] <= 130.94 <= measured["high_ms"]  # published, and never fitted
    assert all(artifact["runtime"] is None for artifact in found["artifacts"])
    assert run_facex("bench", *sorted(tmp_path.glob("*.tflite")), *words[-2:], "--max-latency-ms", 0.01).code == 4


def test_the_table_of_a_device_holds_there(
    toaster: Any, run_facex: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_bench, "known", lambda word: word in ("host", "toaster"))
    (tmp_path / "facex.toml").write_text("[budget.toaster]\nmax_latency_ms = 6.99\n[budget.host]\nmax_latency_ms = 1\n")
    ran = run_facex("bench", exported / FP32, *BENCH)
    assert ran.code == 4
    assert f"FAIL {FP32} latency on toaster: measured 7 ms is above the limit of 6.99 ms" in ran.out
    assert f"skipped {FP32} latency: host was neither measured nor estimated in this run" in ran.out
    assert run_facex("bench", exported / FP32, *BENCH, "--max-latency-ms", "7").code == 0


def test_without_a_file_that_it_can_time(toaster: Any, exported: Path) -> None:
    toaster.TARGETS = ("tflite",)
    with pytest.raises(UsageError, match=r"--device toaster:kitchen: times \.tflite files, and none was given"):
        facex.bench(exported / FP32, device="toaster:kitchen")


def test_an_option_that_it_does_not_know(toaster: Any, run_facex: Run, exported: Path) -> None:
    ran = run_facex("bench", exported / FP32, *BENCH, "--cpu-mask", "f0")
    assert ran.code == 2
    assert "--cpu-mask: --device toaster:kitchen does not know this option" in ran.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "toaster"], "--device toaster: unknown — choose from adb, apple, estimate, host, pixel-1"),
        (["--device", "adb"], "--device adb: times .tflite files, and none was given"),
        (["--cpu-mask", "f0"], "--cpu-mask: --device host does not know this option"),
        (["--threads", "2", "--threads", "2"], "--threads 2: given twice"),
        (
            ["--device", "adb", "--threads", "1", "--threads", "2"],
            "--threads: --device adb takes one number of threads",
        ),
        (["--device", "apple", "--threads", "1", "--threads", "2"], "--threads: --device apple takes one number"),
        (["--device", "pixel-4", "--threads", "1", "--threads", "2"], "--threads: --device pixel-4 takes one number"),
        (["--delegate", "npu"], "Invalid value for '--delegate'"),
        (["--replay", "nowhere"], "--replay nowhere: no such folder"),
    ],
)
def test_wrong_options_are_one_line(run_facex: Run, exported: Path, options: list[str], message: str) -> None:
    ran = run_facex("bench", exported / FP32, *options)
    assert ran.code == 2
    assert message in ran.error


def test_the_program_of_an_options_file_is_beside_it(
    toaster: Any, run_facex: Run, exported: Path, tmp_path: Path
) -> None:
    toaster.OPTIONS = ("benchmark_model",)
    seen: list[DeviceOptions] = []

    def measure(files: Any, argument: str, options: DeviceOptions, progress: Progress) -> Any:
        seen.append(options)
        return _measure(files, argument, options, progress)

    toaster.measure = measure
    (tmp_path / "sub").mkdir()
    config = tmp_path / "sub/facex.toml"
    config.write_text('[bench]\ndevice = "toaster:kitchen"\nbenchmark-model = "tools/benchmark_model"\n')
    ran = run_facex("--config", config, "bench", exported / FP32)
    assert ran.code == 0
    assert seen[0].benchmark_model == tmp_path / "sub/tools/benchmark_model"


def test_every_file_is_timed_with_every_number_of_threads(run_facex: Run, exported: Path) -> None:
    threads = ("--threads", "1", "--threads", "2")
    ran = run_facex("bench", exported / FP32, exported / FP16, *threads, "--runs", "5", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    pairs = [(entry["artifact"], entry["threads"]) for entry in found["latency"]]
    assert pairs == [(FP32, 1), (FP32, 2), (FP16, 1), (FP16, 2)]
    assert all("interleaved over 4 pairs of artifact and threads" in entry["method"] for entry in found["latency"])
    assert all(entry["load_ms"] > 0 for entry in found["latency"])
    assert len([f for f in found["findings"] if f["name"] == "latency"]) == 4
    low = {pair: entry["low_ms"] for pair, entry in zip(pairs, found["latency"], strict=True)}
    p50 = {pair: entry["p50_ms"] for pair, entry in zip(pairs, found["latency"], strict=True)}
    assert [(r["artifact"], r["threads"], r["baseline"]) for r in found["ratios"]] == [(*pair, FP32) for pair in pairs]
    for ratio in found["ratios"]:
        own, base = (ratio["artifact"], ratio["threads"]), (FP32, ratio["threads"])
        assert ratio["low"] == pytest.approx(low[own] / low[base], rel=1e-3)
        assert ratio["p50"] == pytest.approx(p50[own] / p50[base], rel=1e-3)
    assert found["devices"] == []


def test_the_function_takes_one_or_several_numbers_of_threads(exported: Path) -> None:
    found = facex.bench(exported / FP32, threads=[2, 1], runs=1, warmup=0)
    assert [entry.threads for entry in found.latency] == [2, 1]
    assert [entry.threads for entry in facex.bench(exported / FP32, threads=1, runs=1, warmup=0).latency] == [1]
    with pytest.raises(UsageError, match="threads: no number was given"):
        facex.bench(exported / FP32, threads=[])
    with pytest.raises(UsageError, match="--threads 0: must be 1 to"):
        facex.bench(exported / FP32, threads=[1, 0])


def test_a_budget_holds_for_every_number_of_threads(
    run_facex: Run, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(sessions: Any, *_: Any, threads: Any, **__: Any) -> Any:
        return tuple(
            Latency(
                artifact=name, device="host: x", kind=LatencyKind.MEASURED, threads=threads[name], runs=1,
                p50_ms=10.0 / threads[name], low_ms=1.0, high_ms=20.0, method="m",
            )
            for name in sessions
        )  # fmt: skip

    monkeypatch.setattr("facex.device_bench.host.measure", measure)
    line = ("bench", exported / FP32, "--threads", "4", "--threads", "1", "--max-latency-ms")
    assert run_facex(*line, "10").code == 0
    over = run_facex(*line, "5")
    assert over.code == 4
    fails = [line for line in over.out.splitlines() if line.startswith("FAIL")]
    assert fails == [f"FAIL {FP32} latency: with 1 thread measured 10 ms is above the limit of 5 ms"]


def test_an_options_file_may_list_numbers_of_threads(run_facex: Run, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text("[bench]\nthreads = [2, 1]\nruns = 1\n")
    found = json.loads(run_facex("bench", exported / FP32, "--json").out)
    assert [entry["threads"] for entry in found["latency"]] == [2, 1]


def test_a_profile_of_this_host_is_apart_from_the_latency(
    run_facex: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    ran = run_facex("bench", exported / FP32, "--profile", "--threads", "1", "--runs", "5", "--json")
    assert ran.code == 0
    assert list(folder.iterdir()) == []  # the trace is kept nowhere
    found = json.loads(ran.out)
    (report,) = found["devices"]
    (latency,) = found["latency"]
    assert report["name"] == latency["device"]
    (run,) = report["runs"]
    assert run["artifact"] == FP32
    operators = run["operators"]
    assert sum(o["operator"] in ("Conv", "FusedConv") for o in operators) > 20
    assert {o["unit"] for o in operators} == {"cpu"}
    assert 0.3 < sum(o["share"] for o in operators) <= 1.001
    assert max(operators, key=lambda o: o["mean_ms"])["mean_ms"] > 0
    (note,) = run["notes"]
    assert "operators: measured by the profiler of onnxruntime" in note
    assert "in 5 runs of their own after 5 to warm up, 1 thread" in note
    assert "no latency" in note
    shown = run_facex("bench", exported / FP32, "--profile", "--threads", "1", "--runs", "2").out
    assert "ms  Conv x " in shown
    assert "operators: measured by the profiler" in shown
