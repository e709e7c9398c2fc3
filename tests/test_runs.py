"""Which file is run in which runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from facex import exporters, runs
from facex.errors import MissingExtraError, SessionUnavailableError
from facex.runs import Subject, executor_of, open_sessions, runs_of
from facex.types import FileFacts, Head, Precision, Runtime, Size

EXECUTOR, ANE = Runtime.EXECUTOR, Runtime.NATIVE_ANE


@pytest.fixture
def subject() -> Callable[[str], Subject]:
    def make(target: str) -> Subject:
        name = f"a{exporters.info(target).suffix}"
        facts = FileFacts(
            inputs=(), outputs=(), operators={}, macs=0, integer_macs=0, float_islands=(), minimum_runtime=""
        )
        return Subject(
            name=name,
            path=Path(name),
            target=target,
            precision=Precision.FP32,
            head=Head.DECODED,
            size=Size(height=64, width=64),
            facts=facts,
        )

    return make


def test_only_files_that_facex_executes_itself_run_in_more_than_one_runtime(subject) -> None:
    files = [subject(target) for target in exporters.names()]
    found = [(r.name, r.runtime, r.label) for r in runs_of(files, (ANE, EXECUTOR))]
    assert found == [
        ("a.mlpackage in native-ane", ANE, ANE),
        ("a.mlpackage in executor", EXECUTOR, EXECUTOR),
        ("a.onnx", ANE, None),
        ("a.tflite", ANE, None),
    ]


def test_a_single_runtime_has_no_label(subject) -> None:
    (run,) = runs_of([subject("coreml")], (ANE,))
    assert (run.name, run.runtime, run.label) == ("a.mlpackage", ANE, None)


def test_other_runtimes_are_held_against_the_executor_s_run_of_the_same_file(subject) -> None:
    found = runs_of([subject("coreml"), subject("coreml")], (ANE, EXECUTOR))
    first, base, second, other = found
    assert executor_of(first, found) is base
    assert executor_of(second, found) is other
    assert executor_of(base, found) is None
    apart = runs_of([subject("coreml")], (ANE, Runtime.NATIVE))
    assert [executor_of(run, apart) for run in apart] == [None, None]
    alone = runs_of([subject("coreml")], (ANE,))
    assert executor_of(alone[0], alone) is None


def test_what_cannot_run_here_has_a_reason_by_runtime(subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_session(target: str, path: Path, threads: int, runtime: Runtime) -> SimpleNamespace:
        if target == "tflite":
            raise MissingExtraError("ai-edge-litert", extra="tflite", purpose="running .tflite")
        if target == "coreml" and runtime is ANE:
            raise SessionUnavailableError("not a Mac")
        return SimpleNamespace(untimed="slow" if target == "coreml" else "")

    monkeypatch.setattr(exporters, "open_session", open_session)
    files = [subject(target) for target in ("coreml", "onnx", "tflite")]
    sessions, absent = open_sessions(runs_of(files, (EXECUTOR, ANE)), threads=1)
    assert set(sessions) == {"a.mlpackage in executor", "a.onnx"}
    assert absent.keys() == {"a.mlpackage in native-ane", "a.tflite"}
    assert absent["a.mlpackage in native-ane"] == "not a Mac"
    assert runs.untimed(sessions) == {"a.mlpackage in executor": "slow"}
