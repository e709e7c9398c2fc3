"""What this machine can do, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex import doctor, exporters
from facex.device_bench import emulator_setup

Run = Callable[..., Any]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`installed("Linux", torch="2.0", …)` makes exactly those distributions appear installed on that system."""

    def pretend(system: str, **versions: str) -> None:
        found = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(exporters, "version", found.get)
        monkeypatch.setattr("platform.system", lambda: system)

    return pretend


def _health(name: str) -> doctor.TargetHealth:
    return next(target for target in doctor.examine().targets if target.name == name)


def test_every_target_is_reported() -> None:
    assert [target.name for target in doctor.examine().targets] == exporters.names()


def test_a_complete_target(installed: Callable[..., None]) -> None:
    installed("Linux", onnx="1.17", onnxsim="0.4", onnxruntime="1.20")
    health = _health("onnx")
    assert (health.exports, health.runs, health.advice) == (True, "onnxruntime 1.20", "")


def test_nothing_is_installed(installed: Callable[..., None]) -> None:
    installed("Linux")
    health = _health("tflite")
    assert (health.exports, health.runs) == (False, "")
    assert health.advice == "tensorflow not installed: pip install 'facex[tflite]'"
    assert set(health.packages.values()) == {None}


def test_what_runs_without_what_exports(installed: Callable[..., None]) -> None:
    installed("Linux", ai_edge_litert="1.2")
    health = _health("tflite")
    assert (health.exports, health.runs) == (False, "ai-edge-litert 1.2")
    assert "tensorflow not installed" in health.advice


def test_the_best_runtime_is_named(installed: Callable[..., None]) -> None:
    installed("Linux", tensorflow="2.19", tflite_runtime="2.14")
    assert _health("tflite").runs == "tflite-runtime 2.14"
    installed("Linux", tensorflow="2.19", tflite_runtime="2.14", ai_edge_litert="1.2")
    assert _health("tflite").runs == "ai-edge-litert 1.2"


@pytest.mark.parametrize("system", ["Linux", "Darwin"])
def test_core_ml_files_run_wherever_coremltools_reads_them(installed: Callable[..., None], system: str) -> None:
    installed(system, coremltools="8.3")
    health = _health("coreml")
    assert (health.exports, health.runs, health.advice) == (True, "coremltools 8.3", "")


def test_doctor_fails_for_a_target_that_is_asked_for_and_lacking(
    run_facex: Run, installed: Callable[..., None]
) -> None:
    installed("Linux", onnx="1.17", onnxsim="0.4", onnxruntime="1.20")
    assert run_facex("doctor").code == 0
    assert run_facex("doctor", "--target", "onnx").code == 0
    for line in (["--target", "tflite"], ["--target", "onnx", "--target", "coreml"]):
        ran = run_facex("doctor", *line)
        assert ran.code == 5
        assert "pip install 'facex[" in ran.out
    found = json.loads(run_facex("doctor", "--target", "tflite", "--json").out)
    assert found["exit_code"] == 5
    assert {t["name"]: t["exports"] for t in found["targets"]} == {"coreml": False, "onnx": True, "tflite": False}


def test_doctor_agrees_with_what_is_installed_here(run_facex: Run) -> None:
    ran = run_facex("doctor", "--target", "onnx")
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["onnx", "yes", "onnxruntime"] in [row[:3] for row in rows]
    assert f"onnx {exporters.version('onnx')}" in ran.out


def test_the_preparation_of_arm64_is_shown_and_not_done(
    run_facex: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = emulator_setup.Step(name="one", purpose="the only one", line=("touch", "a file"), environment={"A": "b"})
    preparation = emulator_setup.Preparation(
        folder=tmp_path / "cache", folders=("in",), files={"in/a": "text\n"}, steps=(step,), ready={"emulator": "qemu"}
    )
    monkeypatch.setattr(emulator_setup, "plan", lambda: preparation)
    monkeypatch.setattr(emulator_setup, "_try", lambda _: None)
    shown = run_facex("doctor", "--setup-arm64")
    assert (shown.code, shown.out) == (0, preparation.script())
    assert "# the only one\nA=b touch 'a file'\n" in shown.out
    assert not preparation.folder.exists()
    done = run_facex("doctor", "--setup-arm64", "--yes")
    assert (done.code, done.out) == (0, f"{preparation.folder}: ready; facex check --arch arm64 uses it\n")
    assert (preparation.folder / "a file").is_file()
    assert run_facex("doctor", "--setup-arm64").out == done.out


@pytest.mark.parametrize("line", [["--yes"], ["--setup-arm64", "--json"], ["--setup-arm64", "--target", "onnx"]])
def test_options_that_do_not_go_together_are_refused(run_facex: Run, line: list[str]) -> None:
    assert run_facex("doctor", *line).code == 2
