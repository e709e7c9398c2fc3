"""Starts of artifacts: real ones in processes of their own, and what is made of their figures."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facex import exporters, launching
from facex.errors import BackendError
from facex.launching import Start, added, measure
from facex.progress import Clock, Silent
from facex.runs import Run, Subject
from facex.types import FileFacts, Head, Latency, LatencyKind, Precision, Runtime, Size

FP32 = "seeded_160x160_fp32.onnx"


def _run(path: Path, target: str = "onnx") -> Run:
    facts = FileFacts(inputs=(), outputs=(), operators={}, macs=0, integer_macs=0, float_islands=(), minimum_runtime="")
    subject = Subject(
        name=path.name,
        path=path,
        target=target,
        precision=Precision.FP32,
        head=Head.DECODED,
        size=Size(height=160, width=160),
        facts=facts,
    )
    return Run(subject=subject, runtime=Runtime.EXECUTOR, label=None)


def _latency(name: str, threads: int = 1) -> Latency:
    return Latency(
        artifact=name, device="host: x", kind=LatencyKind.MEASURED, threads=threads, runs=5, p50_ms=2.0, low_ms=1.0,
        high_ms=3.0, method="m",
    )  # fmt: skip


@pytest.mark.slow
def test_a_real_file_is_started_in_processes_of_its_own(exported: Path) -> None:
    class Counted(Silent):
        steps = 0

        def advance(self) -> None:
            self.steps += 1

    progress = Counted()
    entry = _latency(FP32)
    (found,) = added([_run(exported / FP32)], [entry], Clock(progress))
    assert progress.steps == launching.STARTS
    assert found.load_ms is not None
    assert 1 < found.load_ms < 60_000
    assert dataclasses.replace(found, load_ms=None, memory_mb=None, method="m") == entry
    assert found.method.startswith("m; load is the median of 3 processes with the library loaded")
    if sys.platform == "linux":
        assert found.memory_mb is not None
        assert 1 < found.memory_mb < 1000  # of this process with its libraries it would be more
    assert "onnxruntime" in exporters.load("onnx").open_session(exported / FP32, threads=1).runtime


@pytest.mark.slow
def test_memory_of_a_process_is_not_that_of_its_parent(exported: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("memory is told on Linux only")
    ballast = np.ones(300_000_000, dtype=np.uint8)  # what getrusage would tell of the child
    (found,) = added([_run(exported / FP32)], [_latency(FP32)], Clock())
    assert ballast.nbytes > 200e6
    assert found.memory_mb is not None
    assert found.memory_mb < 200


def test_nothing_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started"))
    assert added([], [], Clock()) == ()


def test_starts_are_interleaved_and_the_median_and_the_highest_peak_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    loads = {"a.onnx": [9.0, 1.0, 4.0], "b.onnx": [5.0, 6.0, 7.0]}
    peaks: dict[str, list[float | None]] = {"a.onnx": [2.0, 8.0, 3.0], "b.onnx": [None, None, None]}

    def start(run: Run, threads: int) -> Start:
        assert threads == 3
        order.append(run.name)
        index = order.count(run.name) - 1
        return Start(load_ms=loads[run.name][index], memory_mb=peaks[run.name][index])

    monkeypatch.setattr(launching, "_in_process", start)
    runs = [_run(Path(name)) for name in ("a.onnx", "untimed.onnx", "b.onnx")]
    a, b = added(runs, [_latency("a.onnx", 3), _latency("b.onnx", 3)], Clock())
    assert order == ["a.onnx", "b.onnx"] * 3
    assert (a.load_ms, a.memory_mb) == (4.0, 8.0)
    assert (b.load_ms, b.memory_mb) == (6.0, None)
    assert a.method.endswith("memory their highest peak above what they held before")
    assert b.method.endswith("memory is not told here")


def test_every_number_of_threads_is_started_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_in_process", lambda run, threads: Start(load_ms=10.0 * threads, memory_mb=None))
    entries = [_latency("a.onnx", threads) for threads in (1, 4)]
    found = added([_run(Path("a.onnx"))], entries, Clock())
    assert [(entry.threads, entry.load_ms) for entry in found] == [(1, 10.0), (4, 40.0)]


def test_the_process_is_told_everything_and_needs_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        seen.append((command, options))
        return SimpleNamespace(returncode=0, stdout='noise\n{"load_ms": 1.5, "memory_mb": null}\n', stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    (found,) = added([_run(Path("a.tflite"), "tflite")], [_latency("a.tflite", 4)], Clock())
    assert (found.load_ms, found.memory_mb) == (1.5, None)
    command, options = seen[0]
    assert command[1:] == [
        *("-m", "facex.launching", "tflite", str(tmp_path / "a.tflite"), "160", "160", "4", "executor")
    ]
    assert (options["cwd"] / "facex" / "launching.py").is_file()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (SimpleNamespace(returncode=1, stdout="", stderr="Trace\nRuntimeError: delegate lost\n"), "delegate lost"),
        (SimpleNamespace(returncode=-11, stdout="", stderr=""), "exit code -11"),
        (SimpleNamespace(returncode=0, stdout="no JSON\n", stderr=""), "JSONDecodeError"),
        (SimpleNamespace(returncode=0, stdout="", stderr=""), "IndexError"),
        (subprocess.TimeoutExpired("facex", 300), "gave no result within 300 s"),
    ],
)
def test_a_process_that_fails_names_the_artifact(monkeypatch: pytest.MonkeyPatch, result: Any, message: str) -> None:
    def run(*_: Any, **__: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(BackendError, match=rf"\[a\.onnx\] .*{message}"):
        added([_run(Path("a.onnx"))], [_latency("a.onnx")], Clock())


class Session:
    runtime, untimed = "fake", ""

    def __call__(self, inputs: Any) -> dict[str, Any]:
        assert inputs["image"].shape == (1, 32, 64, 3)
        assert inputs["image"].dtype == np.uint8
        return {}


@pytest.mark.parametrize(
    ("status", "memory_mb"),
    [
        (["VmHWM:\t 900 kB\nVmRSS:\t 100 kB\n", "VmHWM:\t 1100 kB\nVmRSS:\t 300 kB\n"], 1.024),
        (["VmRSS:\t 100 kB\n", "VmRSS:\t 100 kB\n"], None),  # a kernel that keeps no peak
        (["VmRSS:\t 100 kB\n", "VmHWM:\t 100 kB\n"], None),  # nothing that could be seen
    ],
)
def test_memory_is_the_peak_above_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: list[str], memory_mb: float | None
) -> None:
    told, clear = tmp_path / "status", tmp_path / "clear_refs"
    told.write_text(status[0])
    clear.touch()
    monkeypatch.setattr(launching, "_STATUS", told)
    monkeypatch.setattr(launching, "_CLEAR", clear)
    opened: list[Path] = []

    def open_session(target: str, path: Path, threads: int, runtime: Runtime) -> Session:
        opened.append(path)
        if path.name == "a.onnx":
            assert clear.read_text() == "5"
            told.write_text(status[1])
        else:
            assert path.read_bytes() == b""
        return Session()

    monkeypatch.setattr(exporters, "open_session", open_session)
    found = measure("onnx", Path("a.onnx"), 32, 64, 1, Runtime.EXECUTOR)
    assert [path.suffix for path in opened] == [".onnx", ".onnx"]
    assert found.load_ms > 0
    assert found.memory_mb == memory_mb


def test_a_system_that_cannot_forget_its_peak_tells_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launching, "_CLEAR", tmp_path / "nowhere" / "clear_refs")
    monkeypatch.setattr(exporters, "open_session", lambda *_: Session())
    assert measure("onnx", Path("a.onnx"), 32, 64, 1, Runtime.EXECUTOR).memory_mb is None


def test_the_process_prints_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(launching, "measure", lambda *told: Start(load_ms=float(told[2]), memory_mb=None))
    launching.main("onnx", "a.onnx", "32", "64", "1", "executor")
    assert json.loads(capsys.readouterr().out) == {"load_ms": 32.0, "memory_mb": None}


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_the_runtime_s_library_is_loaded_before_the_clock_starts(target: str, tmp_path: Path) -> None:
    module = {"onnx": "onnxruntime", "tflite": "ai_edge_litert.interpreter"}[target]
    pytest.importorskip(module)
    code = (
        "import sys; from facex import launching; from facex.types import Runtime\n"
        f"launching._load_library({target!r}, {exporters.info(target).suffix!r}, Runtime.EXECUTOR)\n"
        f"print({module!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
