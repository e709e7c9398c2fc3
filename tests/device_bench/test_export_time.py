"""The export benchmark, on small processes in place of exports."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "export_time.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("export_time", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _python(bench: ModuleType, name: str, program: str, *expected: str) -> object:
    return bench.Command(name=name, argv=(sys.executable, "-c", program, "{out}"), env=os.environ, expected=expected)


def test_time_and_peak_memory_are_the_child_s(bench: ModuleType, tmp_path: Path) -> None:
    program = "import time; block = bytearray(b'x') * 150_000_000; time.sleep(0.3)"
    code, run = bench.time_process([sys.executable, "-c", program], os.environ, tmp_path / "log")
    assert code == 0
    assert 0.3 <= run.seconds < 30
    assert 150e6 < run.peak_bytes < 100e9  # a test process that has loaded torch counts towards it


def test_exit_code_and_output_are_kept(bench: ModuleType, tmp_path: Path) -> None:
    program = "import sys; print('to stdout', flush=True); sys.exit('to stderr')"
    code, _ = bench.time_process([sys.executable, "-c", program], os.environ, tmp_path / "log")
    assert code == 1
    assert (tmp_path / "log").read_text().splitlines() == ["to stdout", "to stderr"]


def test_a_failing_run_is_an_error_with_the_end_of_its_output(bench: ModuleType) -> None:
    with pytest.raises(bench.RunError, match=r"bad: exit code 3(.|\n)*last words"):
        bench.run_once(_python(bench, "bad", "import sys; print('last words'); sys.exit(3)"))


@pytest.mark.parametrize("program", ["pass", "import sys; open(sys.argv[1] + '/a.onnx', 'w')"])
def test_a_run_that_writes_nothing_is_an_error(bench: ModuleType, program: str) -> None:
    with pytest.raises(bench.RunError, match=r"silent: wrote no \*\.onnx"):
        bench.run_once(_python(bench, "silent", program, "*.onnx"))


def test_runs_are_interleaved_in_both_directions_and_warm_up_is_not_kept(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "order"
    commands = [_python(bench, name, f"print('{name}', file=open({str(log)!r}, 'a'))") for name in ("facex", "peer")]
    results = bench.interleaved(commands, warmup=1, runs=3)
    pairs = [set(log.read_text().split()[i : i + 2]) for i in range(0, 8, 2)]
    firsts = log.read_text().split()[::2]
    assert pairs == [{"facex", "peer"}] * 4
    assert firsts == ["peer", "facex", "peer", "facex"]
    assert {name: len(runs) for name, runs in results.items()} == {"facex": 3, "peer": 3}
    assert capsys.readouterr().out.count("warm-up") == 2


def test_summary_compares_pair_by_pair(bench: ModuleType) -> None:
    def runs(*seconds: float) -> list[object]:
        return [bench.Run(seconds=s, peak_bytes=round(s * 1e8)) for s in seconds]

    text = bench.summary({"facex": runs(2, 4, 8), "peer 1.0": runs(8, 8, 8)}, "peer 1.0")
    facex_line = next(line for line in text.splitlines() if line.startswith("facex"))
    assert facex_line.split()[1:] == ["2.00", "4.00", "8.00", "800"]
    assert "peer 1.0 / facex, pair by pair: min 1.00, median 2.00, max 4.00" in text


def test_without_a_peer_there_is_no_ratio(bench: ModuleType) -> None:
    assert "pair by pair" not in bench.summary({"facex": [bench.Run(seconds=1, peak_bytes=1)]}, None)


def test_a_peer_that_cannot_run_is_a_reason(bench: ModuleType, tmp_path: Path) -> None:
    def reason(*arguments: str) -> str:
        options = bench.parsed(["--checkpoint", "m.pth", *arguments])
        answer = bench.peer_command(options, tmp_path / f"path{len(arguments)}")
        assert isinstance(answer, str)
        return answer

    assert reason() == "no --peer-python given"
    assert "No such file" in reason("--peer-python", str(tmp_path / "python"))


@pytest.mark.slow
def test_a_peer_without_the_package_is_a_reason(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PEER_PACKAGES", ("no_such_package", "nor_this_one"))
    options = bench.parsed(["--checkpoint", "m.pth", "--peer-python", sys.executable])
    reason = bench.peer_command(options, tmp_path / "path")
    assert reason.endswith("neither no_such_package nor nor_this_one is installed there")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runs", "3"],
        ["--checkpoint", "m.pth", "--runs", "0"],
        ["--checkpoint", "m.pth", "--runs", "-1"],
        ["--checkpoint", "m.pth", "--size", "640"],
        ["--checkpoint", "m.pth", "--size", "0x640"],
        ["--checkpoint", "m.pth", "--full", "--calib", "photos"],
    ],
)
def test_wrong_arguments_are_usage_errors(bench: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.parsed(arguments)
    assert caught.value.code == 2


def test_the_measured_commands_say_what_was_asked(bench: ModuleType) -> None:
    options = bench.parsed(["--checkpoint", "m.pth", "--size", "320x480", "--full", "--calib", "c", "--images", "i"])
    short, full = bench.facex_command(options).argv, bench.full_command(options).argv
    assert short[:4] == (sys.executable, "-m", "facex", "export")
    assert short[4:] == (
        *("m.pth", "--target", "onnx", "--target", "tflite", "--precision", "fp32"),
        *("--size", "320x480", "--out", "{out}"),
    )
    assert [full[i + 1] for i, word in enumerate(full) if word == "--target"] == ["onnx", "tflite", "coreml"]
    assert [full[i + 1] for i, word in enumerate(full) if word == "--precision"] == ["fp32", "fp16"]
    assert full[full.index("--calib") + 1] == "c"
    assert full[full.index("--images") + 1] == "i"


@pytest.mark.parametrize(("program", "exit_code"), [("pass", 0), ("raise SystemExit(6)", 1)])
def test_the_whole_script(
    bench: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    exit_code: int,
) -> None:
    monkeypatch.setattr(bench, "facex_command", lambda options: _python(bench, "facex", program))
    assert bench.main(["--checkpoint", "m.pth", "--runs", "2", "--warmup", "0"]) == exit_code
    shown = capsys.readouterr()
    assert "comparison with litert-torch skipped: no --peer-python given" in shown.out
    assert ("median s" in shown.out) is (exit_code == 0)
    assert ("error: facex: exit code 6" in shown.err) is (exit_code == 1)
