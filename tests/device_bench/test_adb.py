"""TFLite files timed on a fake phone: no test of facex has seen a real one."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex.device_bench import adb
from facex.errors import DeviceError, UsageError
from facex.progress import Silent
from facex.types import Delegate, DeviceFile, DeviceOptions, FileFacts, LatencyKind, Size

ONNX = "seeded_160x160_fp32.onnx"
FACTS = FileFacts(
    inputs=(), outputs=(), operators={}, macs=0, integer_macs=0, float_islands=(), minimum_runtime="unknown"
)
NAME = "adb: Google Pixel 4, SM8150, Android 13, arm64-v8a"


@pytest.fixture
def file(tmp_path: Path) -> DeviceFile:
    path = tmp_path / "a model's file.tflite"
    path.write_bytes(b"TFL3")
    return DeviceFile(name=path.name, path=path, size=Size(height=32, width=32), facts=FACTS)


def _measure(file: DeviceFile, progress: Silent | None = None, **options: Any) -> Any:
    return adb.measure([file], "", DeviceOptions(**options), progress or Silent())


def _benchmarks(phone: Any) -> list[str]:
    """The calls that run the program, without the folder."""
    return [call.partition("shell ")[2] for call in phone.calls if "--graph=" in call and not call.startswith("am ")]


def test_a_file_is_timed_and_nothing_is_left(fake_phone: Any, file: DeviceFile) -> None:
    (latency,), report = _measure(file, threads=4, warmup=3, runs=50)
    assert (latency.artifact, latency.device, latency.kind) == (file.name, NAME, LatencyKind.MEASURED)
    assert (latency.p50_ms, latency.low_ms, latency.high_ms) == (12.1, 11.9, 13.0)
    assert (latency.threads, latency.runs) == (4, 50)
    assert latency.method == (
        "benchmark_model (program, any CPU), delegate xnnpack; 3 warm-up runs; "
        "low is the minimum, high the 95th percentile; load ends with the first inference; "
        "memory is what the process grew by"
    )
    assert (latency.load_ms, latency.memory_mb) == (12.5 + 31.0, 9.25 * 1.048576)
    (run,) = report.runs
    assert (run.load_ms, run.first_ms, run.warmup_ms, run.memory_mb) == (12.5, 31.0, 16.0, 9.25)
    assert run.before.cpu_mhz == run.after.cpu_mhz == (1766.4, 2841.6, 825.6)
    assert (report.name, report.facts["model"], report.warnings) == (NAME, "Pixel 4", ())
    assert fake_phone.left == []
    (call,) = _benchmarks(fake_phone)
    for flag in ("num_threads=4", "warmup_runs=3", "num_runs=50", "min_secs=0", "use_xnnpack=true", "use_gpu=false"):
        assert f"--{flag}" in call


def test_several_files_share_the_program(fake_phone: Any, file: DeviceFile, tmp_path: Path) -> None:
    other = DeviceFile(name="other.tflite", path=file.path, size=file.size, facts=FACTS)
    latencies, report = adb.measure([file, other], "0123456789ABCDEF", DeviceOptions(), Silent())
    assert [entry.artifact for entry in latencies] == [run.artifact for run in report.runs] == [file.name, other.name]
    assert sum(" push " in call for call in fake_phone.calls) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpu_mask": "0xF0"}, ["taskset f0 ", "--use_xnnpack=true"]),
        ({"delegate": Delegate.GPU}, ["--use_xnnpack=false", "--use_gpu=true"]),
        ({"delegate": Delegate.NONE}, ["--use_xnnpack=false", "--use_gpu=false"]),
    ],
)
def test_options_reach_the_program(
    fake_phone: Any, file: DeviceFile, options: dict[str, Any], words: list[str]
) -> None:
    (latency,), _ = _measure(file, **options)
    (call,) = _benchmarks(fake_phone)
    assert all(word in call for word in words)
    told = str(options.get("delegate", "CPU mask f0"))
    assert told in latency.method


def test_a_profile_is_a_run_of_its_own(fake_phone: Any, file: DeviceFile) -> None:
    _, report = _measure(file, profile=True)
    first, second = _benchmarks(fake_phone)
    assert ("profiling" in first, "profiling" in second) == (False, True)
    assert [operator.share for operator in report.runs[0].operators] == [0.75, 0.2, 0.05]
    assert fake_phone.left == []


def test_a_program_that_writes_no_profile(fake_phone: Any, file: DeviceFile) -> None:
    (fake_phone.here / "profile.csv").unlink()
    with pytest.raises(DeviceError, match=r"pull .*: exit code 1: adb: error: failed to stat"):
        _measure(file, profile=True)
    assert fake_phone.left == []


def test_without_percentiles_it_is_said(fake_phone: Any, file: DeviceFile) -> None:
    text = (fake_phone.here / "output").read_text()
    fake_phone.set("output", text.replace(" p5=11950 median=12100 p95=13000", ""))
    (latency,), _ = _measure(file)
    assert (latency.p50_ms, latency.low_ms, latency.high_ms) == (12.2005, 11.9, 14.0)
    assert "p50 is the mean, low the minimum, high the maximum" in latency.method
    fake_phone.set("output", text[text.index("INFO: Inference timings") :])
    (latency,), _ = _measure(file, runs=7)
    assert (latency.p50_ms, latency.low_ms, latency.high_ms, latency.runs) == (12.2005, 12.2005, 12.2005, 7)
    assert "only the mean is told" in latency.method
    fake_phone.set("output", "Average inference timings in us: Warmup: 91471, Init: 4108, Inference: 80660.1\n")
    (latency,), _ = _measure(file)
    assert (latency.p50_ms, latency.load_ms, latency.memory_mb) == (80.6601, None, None)


def test_a_hot_phone_is_a_warning(fake_phone: Any, file: DeviceFile) -> None:
    fake_phone.set("thermal", "Thermal Status: 2\n")
    progress = Silent()
    _, report = _measure(file, progress)
    assert progress.warnings == list(report.warnings)
    assert "the phone was hot (thermal status 2)" in progress.warnings[0]


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("", 0, "printed no result, but: no output at all"),
        ("\x00\x01 gar\xffbage\nmore\n", 0, "gar.*bage"),
        ("ERROR: Failed to apply GPU delegate.\nBenchmarking failed.\n", 1, "exit code 1: ERROR: Failed to apply GPU"),
        ("Segmentation fault\n", 139, "exit code 139: Segmentation fault"),
        ("INFO: Inference timings in us: Init: 12500, First inf", 0, "printed no result, but: INFO: Inference"),
    ],
)
def test_output_that_is_no_result(fake_phone: Any, file: DeviceFile, output: str, code: int, message: str) -> None:
    fake_phone.set("output", output)
    fake_phone.set("exit", str(code))
    with pytest.raises(DeviceError, match=message) as caught:
        _measure(file)
    assert caught.value.stage == file.name
    assert fake_phone.left == []


@pytest.mark.parametrize(
    ("line", "delegate", "message"),
    [
        ("Unconsumed cmdline flags: --use_gpu=true", Delegate.GPU, "does not know gpu"),
        (
            "Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.",
            Delegate.GPU,
            "gpu runs none of the operators",
        ),
        (
            "Though XNNPACK delegate is explicitly applied, the model graph will not be executed by the delegate.",
            Delegate.XNNPACK,
            "xnnpack runs none of the operators",
        ),
    ],
)
def test_a_delegate_that_did_not_run_is_no_time_for_it(
    fake_phone: Any, file: DeviceFile, line: str, delegate: Delegate, message: str
) -> None:
    fake_phone.set("output", f"INFO: {line}\n{(fake_phone.here / 'output').read_text()}")
    with pytest.raises(DeviceError, match=message):
        _measure(file, delegate=delegate)


def test_a_phone_that_is_unplugged_half_way(fake_phone: Any, file: DeviceFile) -> None:
    fake_phone.rule("--graph=", print="INFO: STARTING!\nINFO: count=5 fir", unplug=True, exit=255)
    progress = Silent()
    with pytest.raises(DeviceError, match=r"exit code 255: INFO: STARTING!.*still connected"):
        _measure(file, progress)
    (warning,) = progress.warnings
    assert "may be left on the phone" in warning
    assert "not found" in warning


def test_a_phone_that_hangs(fake_phone: Any, file: DeviceFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb, "RUN_S", 0.5)
    fake_phone.rule("--graph=", sleep=30)
    with pytest.raises(DeviceError, match="no answer in 0 s"):
        _measure(file)
    assert fake_phone.left == []


def test_control_c_leaves_nothing(fake_phone: Any, file: DeviceFile, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_phone.rule("--graph=", sleep=60)
    monkeypatch.setattr(adb._phone, "state", lambda phone: threading.Timer(0.5, _interrupt).start())
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _measure(file)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert fake_phone.left == []
    assert any("pkill" in call for call in fake_phone.calls)


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_failing_clean_up_does_not_lose_the_result(fake_phone: Any, file: DeviceFile) -> None:
    fake_phone.rule("rm -rf", print="rm: Device or resource busy\n", exit=0)
    (latency,), report = _measure(file)
    assert latency.p50_ms == 12.1
    assert "Device or resource busy" in report.warnings[0]


def test_a_full_phone(fake_phone: Any, file: DeviceFile) -> None:
    fake_phone.rule("push", print="adb: error: failed to copy: remote write failed: No space left on device\n", exit=1)
    with pytest.raises(DeviceError, match="No space left on device"):
        _measure(file)
    assert fake_phone.left == []


def test_flags_that_do_not_matter_may_be_ignored(fake_phone: Any, file: DeviceFile) -> None:
    text = (fake_phone.here / "output").read_text()
    fake_phone.set("output", f"Unconsumed cmdline flags: --use_gpu=false --min_secs=0\n{text}")
    _, report = _measure(file)
    assert report.runs[0].notes == ("Unconsumed cmdline flags: --use_gpu=false --min_secs=0",)


@pytest.mark.parametrize(
    ("abi", "hint"), [("arm64-v8a", "get android_aarch64_benchmark_model from"), ("riscv64", "build one for riscv64")]
)
def test_a_missing_program_is_not_fetched(fake_phone: Any, file: DeviceFile, abi: str, hint: str) -> None:
    fake_phone.program.unlink()
    fake_phone.set("properties", (fake_phone.here / "properties").read_text().replace("[arm64-v8a]", f"[{abi}]"))
    with pytest.raises(UsageError) as caught:
        _measure(file)
    where = fake_phone.program.parents[1] / abi / "benchmark_model"
    assert f"no benchmark_model at {where}" in caught.value.what
    assert hint in caught.value.hint
    assert "nothing is fetched" in caught.value.hint


def test_a_program_can_be_given(fake_phone: Any, file: DeviceFile, tmp_path: Path) -> None:
    own = fake_phone.program.rename(tmp_path / "own build")
    assert _measure(file, benchmark_model=own)[0]


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n" * 10, b"\x7fELF" + bytes(14) + b"\x3e\x00" + bytes(9)])
def test_a_program_for_something_else_is_refused(fake_phone: Any, file: DeviceFile, content: bytes) -> None:
    fake_phone.program.write_bytes(content)
    with pytest.raises(UsageError, match="is no program for arm64-v8a"):
        _measure(file)


@pytest.mark.parametrize("mask", ["g0", "0", "-1", "f 0", "f0;reboot", "0b_1"])
def test_a_mask_is_hexadecimal(fake_phone: Any, file: DeviceFile, mask: str) -> None:
    with pytest.raises(UsageError, match=r"--cpu-mask .* no mask of CPUs"):
        _measure(file, cpu_mask=mask)
    assert fake_phone.calls == []


# The app


def test_the_app_is_used_where_it_is_asked_for(fake_phone: Any, file: DeviceFile) -> None:
    fake_phone.set("log", (fake_phone.here / "output").read_text().replace("12100", "99000"))  # of an earlier run
    fake_phone.program.unlink()
    (latency,), report = _measure(file, benchmark_apk=True, threads=2)
    assert (latency.p50_ms, report.runs[0].load_ms) == (12.1, 12.5)
    assert "benchmark_model (app)" in latency.method
    started = next(call for call in fake_phone.calls if call.startswith("am start"))
    assert "-n org.tensorflow.lite.benchmark/.BenchmarkModelActivity --es args --graph=" in started
    assert "--num_threads=2" in started
    assert "am force-stop org.tensorflow.lite.benchmark" in fake_phone.calls
    assert fake_phone.left == []


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("installed", "", UsageError, "is not installed on the phone"),
        ("am", "Error type 3\nError: Activity class does not exist.\n", DeviceError, "did not start: Error type 3"),
        ("output", "ERROR: Failed to load.\nBenchmarking failed.\n", DeviceError, "ERROR: Failed to load."),
        ("output", "nothing yet\n", DeviceError, "gave no result in 0 s; it logged: nothing yet"),
        ("deaf", "", DeviceError, "gave no result in 0 s; it logged: no output at all"),  # results of no known run
    ],
)
def test_an_app_that_fails(
    fake_phone: Any,
    file: DeviceFile,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(adb, "RUN_S", 0.3)
    monkeypatch.setattr(adb, "POLL_S", 0.1)
    fake_phone.set(name, text)
    with pytest.raises(error, match=message):
        _measure(file, benchmark_apk=True)
    assert fake_phone.left == []


@pytest.mark.parametrize("option", [{"benchmark_model": Path("m")}, {"cpu_mask": "f0"}, {"profile": True}])
def test_options_of_the_program_contradict_the_app(fake_phone: Any, file: DeviceFile, option: dict[str, Any]) -> None:
    name = next(iter(option)).replace("_", "-")
    with pytest.raises(UsageError, match=f"--{name} contradicts --benchmark-apk"):
        _measure(file, benchmark_apk=True, **option)


# The command line


@pytest.mark.slow
def test_a_real_file_on_a_fake_phone(
    fake_phone: Any,
    run_facex: Callable[..., Any],
    seeded_checkpoint: Path,
    photo_dir: Path,
    exported: Path,
    tmp_path: Path,
) -> None:
    line = ["export", seeded_checkpoint, "--target", "tflite", "--size", "160x160", "--images", photo_dir]
    assert run_facex(*line, "--precision", "fp32", "--out", "out").code == 0
    shutil.copy(exported / ONNX, tmp_path / "out")
    files = [tmp_path / "out/seeded_160x160_fp32.tflite", tmp_path / "out" / ONNX]
    ran = run_facex("bench", *files, "--device", "adb", "--threads", "4", "--profile", "--max-latency-ms", "12")
    assert ran.code == 4
    assert f"measured on {NAME}, 4 threads, 50 runs: benchmark_model (program, any CPU), delegate xnnpack" in ran.out
    assert "FAIL seeded_160x160_fp32.tflite latency on adb: measured 12.1 ms is above the limit of 12 ms" in ran.out
    assert f"skipped {ONNX} latency on adb: adb times .tflite files only" in ran.out
    assert "75.0%    9.000 ms  Convolution (NHWC, F32) IGEMM x 1" in ran.out
    assert fake_phone.left == []
    fake_phone.rule("--graph=", unplug=True, exit=255)
    ran = run_facex("bench", *files, "--device", "adb")
    assert ran.code == 6
    assert "[seeded_160x160_fp32.tflite] adb -s 0123456789ABCDEF shell" in ran.error
    assert "warning: /data/local/tmp/facex-" in ran.err
