"""The command line as an interface: help, output, JSON, and how it ends."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import facex
from facex.cli import cli
from facex.types import KernelFacts, ReferenceKernel

Run = Callable[..., Any]
FP32, FP16 = "seeded_160x160_fp32.onnx", "seeded_160x160_fp16.onnx"
COMMANDS = sorted(cli.commands)
HEAVY = {"torch", "tensorflow", "onnx", "onnxruntime", "onnxsim", "coremltools", "numpy", "PIL", "rich", "jsonschema"}
HELP_SECONDS = 0.15


def _facex(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "facex", *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **options)


def test_help_is_quick(tmp_path: Path) -> None:
    def processor_seconds() -> float:  # of ended children: what else the machine does is no matter
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    seconds = []
    for _ in range(5):
        started = processor_seconds()
        assert _facex("--help", cwd=tmp_path).returncode == 0
        seconds.append(processor_seconds() - started)
    assert min(seconds) < HELP_SECONDS


@pytest.mark.parametrize(
    "line",
    [
        ["--help"],
        ["export", "--help"],
        ["export", "m.pth", "--plan"],
        ["doctor", "--json"],
        ["weights", "list", "--json"],
    ],
)
def test_no_heavy_package_is_imported_for(tmp_path: Path, line: list[str]) -> None:
    code = (
        "import sys; from facex import cli\n"
        f"sys.argv = ['facex', *{line!r}]\n"
        "try: cli.main()\n"
        "finally: print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in eval(done.stderr.splitlines()[-1])}
    assert "facex" in loaded
    # what a target says of itself is in its module, which may import NumPy for the code below it
    allowed = {"numpy"} if "--plan" in line or "doctor" in line else set()
    assert loaded & (HEAVY - allowed) == set()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_shows_examples(run_facex: Run, command: str, flag: str) -> None:
    ran = run_facex(command, flag)
    assert (ran.code, ran.err) == (0, "")
    _, found, examples = ran.out.partition("Examples:\n")
    assert found
    lines = [line.strip() for line in examples.split("\n\n")[0].splitlines()]
    assert all(line.startswith(f"facex {command}") for line in lines)
    assert len(lines) >= 2


def test_the_examples_of_the_help_are_understood(run_facex: Run) -> None:
    for line in run_facex("export", "--help").out.splitlines():
        if line.strip().startswith("facex export"):
            ran = run_facex(*line.replace("'", "").split()[1:], "--plan")
            assert (ran.code, ran.err) == (0, ""), line


def test_help_lists_the_commands_and_the_exit_codes(run_facex: Run) -> None:
    ran = run_facex("--help")
    assert ran.code == 0
    assert COMMANDS == [
        "bench",
        "bundle",
        "check",
        "debug-fp16",
        "debug-int8",
        "diff",
        "doctor",
        "export",
        "identify",
        "inspect",
        "render",
        "weights",
    ]
    for command in COMMANDS:
        assert f"\n  {command} " in ran.out
    for words in ("0 all passed", "2 usage", "3 parity", "4 budget", "5 a needed extra", "6 a backend"):
        assert words in " ".join(ran.out.split())


def test_version(run_facex: Run) -> None:
    ran = run_facex("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"facex, version {facex.__version__}\n", "")


def test_without_a_command_the_help_is_shown_and_it_is_an_error(run_facex: Run) -> None:
    ran = run_facex()
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: facex" in ran.err


@pytest.fixture
def lines(quick_pivot: None, exported: Path, seeded_checkpoint: Path, photo_dir: Path) -> dict[str, list[object]]:
    """A line of every command that ends well."""
    return {
        "export": ["export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--out", "out"],
        "plan": ["export", "m.pth", "--plan"],
        "check": ["check", exported / FP32, "--reference", seeded_checkpoint, "--images", photo_dir],
        "bench": ["bench", exported / FP32, exported / FP16, "--runs", "3"],
        "inspect": ["inspect", exported / "manifest.json"],
        "diff": ["diff", exported, exported / "report.json", "--fail-on", "regression:5%"],
        "doctor": ["doctor"],
        "weights": ["weights", "list"],
    }


KEYS = {
    "export": {"artifacts", "findings", "latency", "source", "tools", "timings_s", "command", "schema_version"},
    "plan": {"recipe", "steps"},
    "check": {"artifacts", "findings", "latency", "source", "tools", "timings_s", "command", "schema_version"},
    "bench": {"artifacts", "findings", "latency", "tools"},
    "inspect": {"artifacts", "manifest"},
    "diff": {"added", "fields", "figures", "findings", "identical", "operators", "removed"},
    "doctor": {"facex", "python", "system", "targets"},
    "weights": {"cache", "checkpoints"},
}


@pytest.mark.parametrize("command", KEYS)
def test_json_is_all_there_is_on_stdout(run_facex: Run, lines: dict[str, list[object]], command: str) -> None:
    ran = run_facex(*lines[command], "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert set(found) >= KEYS[command]
    assert found["exit_code"] == 0
    assert all(line.endswith(" …") for line in ran.err.splitlines())


@pytest.mark.parametrize("command", KEYS)
def test_without_json_stdout_is_for_people(run_facex: Run, lines: dict[str, list[object]], command: str) -> None:
    ran = run_facex(*lines[command])
    assert ran.code == 0
    assert ran.out.strip()
    with pytest.raises(ValueError, match=r"Expecting value|Extra data"):
        json.loads(ran.out)


def test_json_tells_the_exit_code_of_a_failure(run_facex: Run, lines: dict[str, list[object]]) -> None:
    for command, options, code in (
        ("check", ["--limit", "snr_db=200"], 3),
        ("check", ["--max-size-mb", "0.1"], 4),
        ("bench", ["--max-size-mb", "0.1"], 4),
        ("bench", ["--max-latency-ms", "0.00001"], 4),
    ):
        ran = run_facex(*lines[command], *options, "--json")
        assert ran.code == json.loads(ran.out)["exit_code"] == code


def test_errors_leave_stdout_empty_for_json(run_facex: Run) -> None:
    ran = run_facex("inspect", "missing.onnx", "--json")
    assert (ran.code, ran.out) == (2, "")


def test_bench_compares_with_fp32(run_facex: Run, lines: dict[str, list[object]]) -> None:
    ran = run_facex(*lines["bench"])
    rows = {line.split()[0]: line.split()[1:] for line in ran.out.splitlines() if line.startswith("seeded")}
    low = {name: float(cells[1]) for name, cells in rows.items()}
    assert set(rows) == {FP32, FP16}
    assert rows[FP32][0] == rows[FP16][0] == "measured"
    assert rows[FP32][4] == "1.00"
    assert float(rows[FP16][4]) == pytest.approx(low[FP16] / low[FP32], rel=0.05)
    assert "measured on host: " in ran.out
    assert "3 runs" in ran.out


def test_bench_says_which_budget_was_exceeded(run_facex: Run, exported: Path) -> None:
    ran = run_facex("bench", exported / FP32, "--runs", "1", "--max-size-mb", "1")
    assert ran.code == 4
    assert f"FAIL {FP32} size: 1." in ran.out
    assert "is above the limit of 1 MB" in ran.out


def test_bench_measures_what_was_asked(run_facex: Run, exported: Path) -> None:
    ran = run_facex("bench", exported / FP32, "--runs", "2", "--warmup", "1", "--threads", "1", "--json")
    (entry,) = json.loads(ran.out)["latency"]
    assert (entry["runs"], entry["threads"], entry["kind"]) == (2, 1, "measured")
    assert "1 warm-up rounds" in entry["method"]
    assert 0 < entry["low_ms"] <= entry["p50_ms"] <= entry["high_ms"]
    assert entry["load_ms"] > entry["low_ms"] / 100
    assert "load is the median of" in entry["method"]


def test_inspect_shows_what_a_file_says_of_itself(run_facex: Run, exported: Path) -> None:
    ran = run_facex("inspect", exported / FP32)
    fields = {line[2:21].strip(): line[21:] for line in ran.out.splitlines()[1:]}
    assert ran.code == 0
    assert ran.out.splitlines()[0] == FP32
    assert fields["target"] == "onnx, fp32, decoded head, 160x160"
    assert fields["inputs"] == "image float32[1, 3, 160, 160]"
    assert fields["outputs"].startswith("boxes float32[1, 1050, 4], scores float32[1, 1050]")
    assert " Conv" in fields["operators"]
    assert "0.00% of them integer" in fields["MACs"]
    assert json.loads(fields["contract"])["family"] == "retinaface"
    assert "manifest" not in ran.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--nms-iou", "0.3"), "--nms-iou 0.3: is of files that choose faces themselves"),
        (("--head", "raw", "--max-faces", "5"), "--head raw leaves that to the app"),
        (("--head", "detections", "--score-threshold", "1"), "--score-threshold 1: must be from 0.0001 to 0.9999"),
        (("--head", "detections", "--score-threshold", "nan"), "--score-threshold nan: must be from"),
        (("--head", "detections", "--nms-iou", "0"), "--nms-iou 0: must be from 0.01 to 0.99"),
        (("--head", "detections", "--max-faces", "0"), "--max-faces 0: must be 1 to 1000"),
    ],
)
def test_how_faces_are_chosen_is_refused_where_it_has_no_sense(
    run_facex: Run, options: tuple[str, ...], message: str
) -> None:
    ran = run_facex("export", *options)
    assert ran.code == 2
    assert message in ran.err


def test_inspect_of_a_manifest_shows_what_it_recorded(run_facex: Run, exported: Path) -> None:
    ran = run_facex("inspect", exported / "manifest.json")
    lines = ran.out.splitlines()
    assert {FP32, FP16, "manifest"} <= set(lines)
    recorded = lines[lines.index("manifest") :]
    assert any("6 photographs, " in line for line in recorded)
    assert any(line.split()[:3] == ["pass", FP32, "matched_f1"] for line in recorded)


def test_inspect_counts_the_integer_share(
    run_facex: Run, quick_pivot: None, tmp_path: Path, seeded_checkpoint: Path, calib_dir: Path
) -> None:
    line = ("export", seeded_checkpoint, "--target", "onnx", "--int8", "--size", "160x160", "--calib", calib_dir)
    assert run_facex(*line, "--int8-effort", "minmax", "--out", "out").code == 0
    name = tmp_path / "out" / "seeded_160x160_w8a8.onnx"
    (artifact,) = json.loads(run_facex("inspect", name, "--json").out)["artifacts"]
    assert artifact["integer_mac_fraction"] == pytest.approx(artifact["integer_macs"] / artifact["macs"])
    assert 0.5 < artifact["integer_mac_fraction"] <= 1
    assert sum(i["macs"] for i in artifact["float_islands"]) == artifact["macs"] - artifact["integer_macs"]
    shown = run_facex("inspect", name).out
    assert f"{artifact['integer_mac_fraction']:.2%} of them integer" in shown
    for island in artifact["float_islands"][:12]:
        assert island["name"] in shown


def test_inspect_tells_the_kernels_where_the_target_does(
    run_facex: Run, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported / FP32
    (artifact,) = json.loads(run_facex("inspect", path, "--json").out)["artifacts"]
    assert (artifact["reference_kernels"], artifact["reference_kernels_method"]) == (None, None)
    assert "reference kernel" not in run_facex("inspect", path).out

    kernel = ReferenceKernel(operator="RELU", name="a relu", share_of_time=0.123456789)
    found = KernelFacts(reference_kernels=(kernel,), reference_kernels_method="with a clock")
    asked = []
    monkeypatch.setattr("facex.exporters.kernels", lambda *question: asked.append(question) or found)
    (artifact,) = json.loads(run_facex("inspect", path, "--json").out)["artifacts"]
    assert artifact["reference_kernels"] == [{"operator": "RELU", "name": "a relu", "share_of_time": 0.123457}]
    assert artifact["reference_kernels_method"] == "with a clock"
    assert "  reference kernel   a relu (RELU, 12.35% of the time)" in run_facex("inspect", path).out.splitlines()
    assert asked == [("onnx", path)] * 2


@pytest.mark.slow
def test_inspect_of_tflite_files_is_quick_and_names_every_reference_kernel(
    run_facex: Run, tmp_path: Path, seeded_checkpoint: Path
) -> None:
    assert run_facex("export", seeded_checkpoint, "--target", "tflite", "--size", "640x640", "--out", "out").code == 0
    path = tmp_path / "out" / "seeded_640x640_fp32.tflite"
    started = time.perf_counter()
    ran = run_facex("inspect", path, "--json")
    assert time.perf_counter() - started < 10
    (artifact,) = json.loads(ran.out)["artifacts"]
    left = artifact["reference_kernels"]
    assert {kernel["operator"] for kernel in left} <= set(artifact["operators"])
    assert all(0 <= kernel["share_of_time"] < 1 for kernel in left)
    assert "ai-edge-litert" in artifact["reference_kernels_method"]

    damaged = path.with_name("cut_fp32.tflite")
    damaged.write_bytes(path.read_bytes()[:5000])
    ran = run_facex("inspect", damaged)
    assert (ran.code, ran.out) == (2, "")


@pytest.mark.parametrize("command", ["doctor", "plan", "inspect", "weights", "help"])
def test_a_reader_that_goes_away_changes_nothing(tmp_path: Path, lines: dict[str, list[object]], command: str) -> None:
    line = map(str, lines.get(command, ["--help"]))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        done = subprocess.run(
            [sys.executable, "-m", "facex", *line], cwd=tmp_path, stdout=broken, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stderr


def test_a_reader_that_goes_away_does_not_hide_a_failure(tmp_path: Path, exported: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    line = ["bench", str(exported / FP32), "--runs", "1", "--max-size-mb", "0.1"]
    with os.fdopen(writer, "w") as broken:
        done = subprocess.run([sys.executable, "-m", "facex", *line], cwd=tmp_path, stdout=broken, check=False)
    assert done.returncode == 4


@pytest.mark.parametrize("command", ["doctor", "inspect", "plan", "weights"])
def test_output_fits_a_terminal_that_knows_only_ascii(
    tmp_path: Path, lines: dict[str, list[object]], command: str
) -> None:
    done = _facex(*map(str, lines[command]), cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


def test_a_fault_of_facex_is_one_line(run_facex: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("facex.doctor.examine", crash)
    ran = run_facex("doctor")
    assert ran.code == 6
    assert ran.err.startswith("error: ZeroDivisionError: division by zero — a fault of facex")
    assert len(ran.err.splitlines()) == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    line = ["inspect", "missing.onnx"]
    assert "Traceback" not in _facex(*line, cwd=tmp_path).stderr
    debugged = _facex("--debug", *line, cwd=tmp_path)
    assert "Traceback" in debugged.stderr
    assert debugged.stderr.splitlines()[-1].startswith("error: ")
    assert debugged.returncode == 2


def test_warnings_of_libraries_are_for_debugging(tmp_path: Path) -> None:
    code = (
        "import sys, warnings; from facex import cli, doctor\n"
        "examine = doctor.examine\n"
        "doctor.examine = lambda: (warnings.warn('old API', DeprecationWarning, stacklevel=1), examine())[1]\n"
        "warnings.simplefilter('default')\n"
        "cli.main()"
    )
    for line, shown in ((["doctor"], False), (["--debug", "doctor"], True)):
        done = subprocess.run(
            [sys.executable, "-c", code, *line], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert ("old API" in done.stderr) is shown


def test_limits_of_every_kind_are_understood(run_facex: Run, exported: Path, seeded_checkpoint: Path) -> None:
    ran = run_facex(
        *("check", exported / FP32, "--reference", seeded_checkpoint, "--json"),
        *("--min-f1", "0.5", "--max-nme", "0.25", "--limit", "fp32.snr_db.boxes=60", "--limit", "fp16.snr_db=199"),
    )
    assert ran.code == 0
    limits = {f["name"]: f["limit"] for f in json.loads(ran.out)["findings"]}
    assert (limits["matched_f1"], limits["landmark_nme_mean"]) == (0.5, 0.25)
    assert (limits["snr_db.boxes"], limits["snr_db.scores"]) == (60, 80)
