"""`facex diff`: variations of the golden manifest against itself, real files, and the command."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import facex
from facex import diffing
from facex.diffing import Diff, FieldChange
from facex.errors import ArtifactError, UsageError
from facex.regression import Figure, parse_rule
from facex.report import changes
from facex.types import Verdict

Run = Callable[..., Any]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "manifest.json").read_text(encoding="utf-8"))
ONNX, FP16, INT8, CORE_ML = (
    *("mnet_640x640_fp32.onnx", "mnet_640x640_fp16.tflite", "mnet_640x640_w8a8.tflite", "mnet_640x640_fp16.mlpackage"),
)

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., Diff]:
    """`compare(new, old=…, fail_on=[…])`: the golden manifest, changed by functions, against itself."""

    def run(new: Change, old: Change = lambda _: None, fail_on: tuple[str, ...] = ()) -> Diff:
        for name, change in (("old", old), ("new", new)):
            data = copy.deepcopy(GOLDEN)
            change(data)
            (tmp_path / name).mkdir()
            (tmp_path / name / "manifest.json").write_text(json.dumps(data))
        return diffing.diff(tmp_path / "old", tmp_path / "new", fail_on=tuple(map(parse_rule, fail_on)))

    return run


def _artifact(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(a for a in data["artifacts"] if a["path"].split("/")[-1].removesuffix(".failed") == name)


def _finding(data: dict[str, Any], artifact: str, name: str) -> dict[str, Any]:
    return next(f for f in data["findings"] if (f["artifact"], f["name"]) == (artifact, name))


def _set(artifact: str, name: str, value: float) -> Change:
    return lambda data: _finding(data, artifact, name).update(actual=value)


def _figure(found: Diff, artifact: str, name: str) -> Figure:
    (figure,) = [f for f in found.figures if (f.artifact, f.name, f.device) == (artifact, name, None)]
    return figure


def _failed(found: Diff) -> list[tuple[str, str]]:
    return [(f.artifact, f.name) for f in found.findings if f.verdict is Verdict.FAIL]


# --- figures ------------------------------------------------------------------------------------------------


def test_a_manifest_is_like_itself(compare: Run) -> None:
    found = compare(lambda _: None, fail_on=("regression:0%",))
    assert (found.fields, found.added, found.removed, found.operators) == ((), (), (), ())
    assert found.identical == (ONNX, FP16, INT8, CORE_ML)
    assert all(f.old == f.new and not f.reason for f in found.figures)
    assert {f.name for f in found.figures} >= {"size", "latency", "load", "memory", "matched_f1", "snr_db.boxes"}
    assert _failed(found) == []
    assert found.exit_code == 0


def test_a_size_is_that_of_the_file(compare: Run) -> None:
    found = compare(lambda d: _artifact(d, FP16).update(size_bytes=960_000), fail_on=("regression:5%",))
    figure = _figure(found, FP16, "size")
    assert (figure.old, figure.new, figure.unit, figure.worsening) == (0.912, 0.96, "MB", pytest.approx(0.048))
    assert _failed(found) == [(FP16, "size")]
    assert found.exit_code == 4


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [("matched_f1", 0.9, 3), ("landmark_nme_mean", 0.002, 3), ("matched_f1", 1.0, 0), ("landmark_nme_mean", 0.0, 0)],
)
def test_parity_is_that_of_the_findings(compare: Run, name: str, value: float, code: int) -> None:
    found = compare(_set(FP16, name, value), fail_on=("regression:5%",))
    assert _figure(found, FP16, name).new == value
    assert _failed(found) == ([(FP16, name)] if code else [])
    assert found.exit_code == code


def test_lost_parity_goes_before_a_budget(compare: Run) -> None:
    def worse(data: dict[str, Any]) -> None:
        _artifact(data, FP16).update(size_bytes=9_000_000)
        _finding(data, FP16, "matched_f1").update(actual=0.5)

    assert compare(worse, fail_on=("regression:5%",)).exit_code == 3


def test_without_a_rule_nothing_fails(compare: Run) -> None:
    found = compare(_set(FP16, "matched_f1", 0.0))
    assert (found.findings, found.exit_code) == ((), 0)


def test_a_figure_that_new_lost_fails(compare: Run) -> None:
    def lose(data: dict[str, Any]) -> None:
        skipped = {"actual": None, "verdict": "skipped", "reason": "no photographs were given (--images)"}
        _finding(data, FP16, "matched_f1").update(skipped)
        data["findings"].remove(_finding(data, FP16, "box_iou_p5"))

    found = compare(lose, fail_on=("regression:50%",))
    assert _failed(found) == [(FP16, "matched_f1"), (FP16, "box_iou_p5")]
    assert found.exit_code == 3


def test_a_figure_that_old_lacks_is_skipped_with_the_reason(compare: Run) -> None:
    def gain(data: dict[str, Any]) -> None:
        _finding(data, CORE_ML, "matched_f1").update(actual=0.9, verdict="pass", limit=0.8, reason="")

    found = compare(gain, fail_on=("regression:matched_f1:1%",))
    told = {f.artifact: (f.verdict, f.reason) for f in found.findings}
    assert told[CORE_ML] == (Verdict.SKIPPED, "OLD has no figure")
    assert told[FP16] == (Verdict.PASS, "")


def test_each_runtime_is_compared_with_itself(compare: Run) -> None:
    def two(slow: float) -> Change:
        def change(data: dict[str, Any]) -> None:
            one = _finding(data, FP16, "matched_f1")
            data["findings"].append({**one, "runtime": "native", "actual": slow})

        return change

    found = compare(two(0.5), two(0.9), fail_on=("regression:matched_f1:5%",))
    assert [(f.runtime, f.old, f.new) for f in found.figures if (f.artifact, f.name) == (FP16, "matched_f1")] == [
        (None, 0.99871, 0.99871),
        ("native", 0.9, 0.5),
    ]
    assert [f.runtime for f in found.findings if f.verdict is Verdict.FAIL] == ["native"]


# --- time: like with like -----------------------------------------------------------------------------------


def _entry(data: dict[str, Any], index: int) -> dict[str, Any]:
    entry: dict[str, Any] = data["latency"][index]
    return entry


def test_of_a_measurement_the_minimum_is_compared_and_of_an_estimate_the_median(compare: Run) -> None:
    def slower(data: dict[str, Any]) -> None:
        for entry in data["latency"]:
            entry.update(p50_ms=entry["p50_ms"] * 3)

    found = compare(slower, fail_on=("regression:latency:5%",))
    assert _figure(found, FP16, "latency").old == _figure(found, FP16, "latency").new == 89.06
    assert [(f.artifact, f.device) for f in found.findings if f.verdict is Verdict.FAIL] == [(INT8, "Example Phone")]
    assert found.exit_code == 4


@pytest.mark.parametrize("changed", [{"threads": 4}, {"device": "host: Other CPU, linux x86_64"}, {"kind": "emulated"}])
def test_times_that_are_not_alike_are_not_compared(compare: Run, changed: dict[str, Any]) -> None:
    found = compare(
        lambda d: _entry(d, 1).update(changed, low_ms=500.0, p50_ms=501.0), fail_on=("regression:latency:5%",)
    )
    figures = [f for f in found.figures if (f.artifact, f.name) == (FP16, "latency")]
    assert len(figures) == 2
    assert all(f.reason.startswith("not like with like: ") and f.worsening is None for f in figures)
    assert any("measured on host: Example CPU, linux x86_64, 2 threads" in f.reason for f in figures)
    assert [f.verdict for f in found.findings if f.artifact == FP16] == [Verdict.SKIPPED] * 2
    assert found.exit_code == 0


def test_a_time_that_new_did_not_measure_at_all_fails(compare: Run) -> None:
    found = compare(lambda d: d["latency"].pop(1), fail_on=("regression:latency:5%",))
    assert _failed(found) == [(FP16, "latency")]


def test_a_number_of_threads_that_was_left_out_fails(compare: Run) -> None:
    def both(data: dict[str, Any]) -> None:
        data["latency"].append({**_entry(data, 1), "threads": 1})

    found = compare(lambda _: None, both, fail_on=("regression:latency:5%",))
    assert _failed(found) == [(FP16, "latency")]


@pytest.mark.parametrize(("key", "name"), [("load_ms", "load"), ("memory_mb", "memory")])
def test_load_time_and_memory(compare: Run, key: str, name: str) -> None:
    found = compare(lambda d: _entry(d, 3).update({key: 99.0}), fail_on=(f"regression:{name}:5%",))
    assert [(f.artifact, f.name, f.device) for f in found.findings if f.verdict is Verdict.FAIL] == [
        (INT8, name, "Example Phone")
    ]
    assert found.exit_code == 4


# --- artifacts ----------------------------------------------------------------------------------------------


def _renamed(data: dict[str, Any], old: str, new: str) -> None:
    for entry in data["artifacts"]:
        entry["path"] = entry["path"].replace(old, new)
    for entry in (*data["findings"], *data["latency"]):
        entry["artifact"] = entry["artifact"].replace(old, new)


def test_artifacts_of_another_name_are_paired_by_what_they_are(compare: Run) -> None:
    found = compare(lambda d: _renamed(d, "mnet_", "better_"))
    assert (found.added, found.removed) == ((), ())
    assert FieldChange(
        subject="better_640x640_fp16.tflite", name="name", old=FP16, new=FP16.replace("mnet", "better")
    ) in (found.fields)
    assert _figure(found, "better_640x640_fp16.tflite", "matched_f1").old == 0.99871


def test_two_that_could_be_the_same_are_none(compare: Run) -> None:
    def twins(data: dict[str, Any]) -> None:
        _renamed(data, FP16, "other.tflite")
        data["artifacts"].append({**_artifact(data, "other.tflite"), "path": "another.tflite"})

    found = compare(twins)
    assert (found.added, found.removed) == (("other.tflite", "another.tflite"), (FP16,))


def test_added_and_removed(compare: Run) -> None:
    def fewer(data: dict[str, Any]) -> None:
        data["artifacts"].remove(_artifact(data, FP16))

    found = compare(fewer)
    assert (found.added, found.removed, found.exit_code) == ((), (FP16,), 0)
    assert not [f for f in found.figures if f.artifact == FP16]


def test_a_removed_artifact_breaks_every_rule_and_an_added_one_none(tmp_path: Path, compare: Run) -> None:
    def fewer(data: dict[str, Any]) -> None:
        data["artifacts"].remove(_artifact(data, FP16))

    found = compare(fewer, fail_on=("regression:size:50%",))
    assert _failed(found) == [(FP16, "present")]
    assert found.exit_code == 3
    back = diffing.diff(tmp_path / "new", tmp_path / "old", fail_on=[parse_rule("regression:size:50%")])
    assert (back.added, back.exit_code) == ((FP16,), 0)


def test_nothing_in_common_does_not_pass_silently(compare: Run) -> None:
    found = compare(lambda _: None, lambda d: d.update(artifacts=[]), fail_on=("regression:5%",))
    assert [(f.artifact, f.verdict) for f in found.findings] == [("*", Verdict.SKIPPED)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda d: d["source"].update(sha256="0" * 64),
            FieldChange(subject="checkpoint", name="sha256", old=GOLDEN["source"]["sha256"], new="0" * 64),
        ),
        (
            lambda d: d["source"]["contract"].update(mean=[0, 0, 0]),
            FieldChange(subject="contract", name="mean", old=[104.0, 117.0, 123.0], new=[0, 0, 0]),
        ),
        (
            lambda d: d["source"].update(assumed=[]),
            FieldChange(subject="checkpoint", name="assumed", old=GOLDEN["source"]["assumed"], new=[]),
        ),
        (
            lambda d: d["calibration"].update(seed=4),
            FieldChange(subject="calibration", name="seed", old=3, new=4),
        ),
        (
            lambda d: d["evaluation"].update(count=51),
            FieldChange(subject="evaluation", name="count", old=50, new=51),
        ),
        (
            lambda d: d["tools"].update(onnx="9.9"),
            FieldChange(subject="tools", name="onnx", old="1.17.0", new="9.9"),
        ),
        (
            lambda d: d["tools"].update(torch="2.6"),
            FieldChange(subject="tools", name="torch", old=None, new="2.6"),
        ),
        (
            lambda d: _artifact(d, FP16).update(minimum_runtime="TensorFlow Lite 2.9"),
            FieldChange(subject=FP16, name="minimum_runtime", old="TensorFlow Lite 2.3", new="TensorFlow Lite 2.9"),
        ),
        (
            lambda d: _finding(d, FP16, "matched_f1").update(verdict="fail", reason="lost"),
            FieldChange(subject=FP16, name="verdict", old="pass", new="fail"),
        ),
    ],
)
def test_what_else_changed(compare: Run, change: Change, expected: FieldChange) -> None:
    assert compare(change).fields == (expected,)


def test_a_run_without_photographs_lost_its_evaluation(compare: Run) -> None:
    fields = compare(lambda d: d.update(evaluation=None)).fields
    assert {(f.subject, f.name, f.new) for f in fields} == {
        ("evaluation", key, None) for key in ("count", "digest", "reference_faces")
    }


# --- operators ----------------------------------------------------------------------------------------------


def test_files_that_are_not_there_are_told(compare: Run) -> None:
    found = compare(lambda d: _artifact(d, FP16).update(sha256="0" * 64))
    (change,) = found.operators
    assert (change.artifact, change.operator, change.old, change.new) == (FP16, "", None, None)
    assert change.reason.endswith(f"{FP16}: is not beside its manifest")


def test_operators_of_real_files(tmp_path: Path, exported: Path) -> None:
    """The fp16 file stands in for another version of the fp32 one: it has casts."""
    old, new = (Path(shutil.copytree(exported, tmp_path / name)) for name in ("old", "new"))
    fp32, fp16 = "seeded_160x160_fp32.onnx", "seeded_160x160_fp16.onnx"
    shutil.copy(new / fp16, new / fp32)
    data = json.loads((new / "manifest.json").read_text())
    _artifact(data, fp32)["sha256"] = _artifact(data, fp16)["sha256"]
    (new / "manifest.json").write_text(json.dumps(data))
    found = diffing.diff(old, new)
    assert found.identical == (fp16,)
    (cast,) = [c for c in found.operators if c.operator == "Cast"]
    assert (cast.artifact, cast.old, cast.reason) == (fp32, 0, "")
    assert cast.new
    assert not [c for c in found.operators if c.operator == "Conv"]
    (new / fp32).write_bytes(b"other")
    (change,) = diffing.diff(old, new).operators
    assert change.reason.endswith("is not the file that its manifest describes")


# --- the manifests ------------------------------------------------------------------------------------------


def test_a_report_is_a_manifest_too(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    beside = {"timings_s": {}, "exit_code": 3, "command": "facex export", "source_path": "/a/model.pth"}
    path.write_text(json.dumps({**GOLDEN, **beside}))
    assert diffing.load(path).exit_code == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not a manifest"),
        ("[]", "schema_version is None"),
        (json.dumps({**GOLDEN, "schema_version": 2}), "schema_version is 2, this facex reads 1"),
        (json.dumps({**GOLDEN, "extra": 2}), "extra"),
        (
            json.dumps({**GOLDEN, "findings": [{**GOLDEN["findings"][0], "actual": float("nan")}]}),
            "not a finite number",
        ),
    ],
)
@pytest.mark.parametrize("side", ["old", "new"])
def test_manifests_that_cannot_be_used(
    tmp_path: Path, run_facex: Run, side: str, text: str | None, message: str
) -> None:
    paths = {name: tmp_path / f"{name}.json" for name in ("old", "new")}
    for name, path in paths.items():
        if name != side or text is not None:
            path.write_text(text if name == side and text is not None else json.dumps(GOLDEN))
    ran = run_facex("diff", paths["old"], paths["new"])
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith(f"error: {paths[side]}: ")
    assert message in ran.error


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no manifest\.json — name the folder of facex export --out"):
        diffing.load(tmp_path)


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """A manifest, and one of another checkpoint with a larger and a worse file and on other threads."""
    new = copy.deepcopy(GOLDEN)
    new["source"]["sha256"] = "0" * 64
    new["evaluation"]["digest"] = "0" * 64
    new["artifacts"].remove(_artifact(new, CORE_ML))
    _artifact(new, FP16).update(size_bytes=960_000, sha256="0" * 64)
    _finding(new, FP16, "matched_f1").update(actual=0.9)
    _entry(new, 1).update(threads=4)
    paths = tmp_path / "old.json", tmp_path / "new.json"
    for path, data in zip(paths, (GOLDEN, new), strict=True):
        path.write_text(json.dumps(data))
    return paths


def test_the_report(sides: tuple[Path, Path]) -> None:
    rules = ("regression:5%", "regression:matched_f1:0.5%")
    found = diffing.diff(*sides, fail_on=tuple(map(parse_rule, rules)))
    stream = io.StringIO()
    changes.render(found, Console(file=stream, width=80, highlight=False, soft_wrap=True))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert f"checkpoint: sha256 {GOLDEN['source']['sha256']} -> {'0' * 64}" in lines
    assert [line for line in lines if "other photographs" in line]
    assert f"removed: {CORE_ML}" in lines
    rows = [line.split() for line in lines if line.startswith(FP16)]
    assert rows == [
        [FP16, "size", "0.912", "MB", "0.96", "MB", "+0.048", "(+5.3%)", "worse"],
        *[row for row in rows if row[1] == "latency"],
        [FP16, "matched_f1", "0.99871", "0.9", "-0.0987", "(-9.9%)", "worse"],
    ]
    assert {row[-3] + row[-2] + row[-1] for row in rows if row[1] == "latency"} == {"[1]notcompared", "[2]notcompared"}
    assert "[1] measured on host: Example CPU, linux x86_64, 4 threads" in lines
    assert [line for line in lines if line.startswith("not compared: not like with like: ")]
    assert f"FAIL {FP16} matched_f1: 0.99871 to 0.9 ratio: worse by 0.09871, more than {rules[1]} allows" in lines
    assert f"FAIL {CORE_ML} present: NEW has no such artifact, so nothing tells whether it became worse" in lines
    assert "  operators: " + FP16 in lines
    assert lines[-1].startswith("FAILED  exit code 3, parity failed: 3 of ")


def test_the_command_and_its_exit_codes(run_facex: Run, sides: tuple[Path, Path]) -> None:
    old, new = sides
    assert run_facex("diff", old, old).code == 0
    same = run_facex("diff", old, old, "--fail-on", "regression:0%")
    assert (same.code, same.out.splitlines()[0]) == (0, "checkpoint: the same bytes")
    assert run_facex("diff", old, new).code == 0
    assert run_facex("diff", old, new, "--fail-on", "regression:5%").code == 3
    back = run_facex("diff", new, old, "--fail-on", "regression:size:1%")  # smaller, and one more
    assert (back.code, back.err) == (0, "")
    larger = json.loads(old.read_text())
    _artifact(larger, FP16).update(size_bytes=9_600_000)
    new.write_text(json.dumps(larger))
    assert run_facex("diff", old, new, "--fail-on", "regression:5%").code == 4
    assert run_facex("diff", old, new, "--fail-on", "regression:5%", "--fail-on", "regression:size:99").code == 0


def test_json_is_the_diff(run_facex: Run, sides: tuple[Path, Path]) -> None:
    ran = run_facex("diff", *sides, "--fail-on", "regression:5%", "--json")
    told = json.loads(ran.out)
    assert ran.code == told["exit_code"] == 3
    assert set(told) == {
        *("fields", "added", "removed", "identical", "figures", "operators", "findings", "exit_code"),
    }
    assert set(told["findings"][0]) == set(GOLDEN["findings"][0])
    assert told["removed"] == [CORE_ML]


def test_options_of_the_command_may_stand_in_a_file(run_facex: Run, sides: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "facex.toml").write_text('[diff]\nfail-on = ["regression:5%"]\n')
    assert run_facex("diff", *sides).code == 3
    (tmp_path / "facex.toml").write_text('[diff]\nfail-on = ["regression:5"]\n')
    ran = run_facex("diff", *sides)
    assert ran.code == 2
    assert "'diff.fail-on': --fail-on regression:5: one number does not suit" in ran.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'OLD'"),
        (("old.json",), "Missing argument 'NEW'"),
        (("old.json", "new.json", "third.json"), "unexpected extra argument"),
        (("missing.json", "new.json"), "missing.json: cannot be read: No such file"),
        (("old.json", "missing.json"), "missing.json: cannot be read: No such file"),
        (("old.json", "new.json", "--fail-on", "worse"), "--fail-on worse: is not regression:"),
        (("old.json", "new.json", "--fail-on"), "requires an argument"),
        (("old.json", "new.json", "--jason"), "No such option"),
    ],
)
def test_one_mistake_in_each_argument(
    run_facex: Run, sides: tuple[Path, Path], arguments: tuple[str, ...], message: str
) -> None:
    ran = run_facex("diff", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.error


def test_from_python(sides: tuple[Path, Path]) -> None:
    found = facex.diff(str(sides[0]), sides[1], fail_on=["regression:5%"])
    assert isinstance(found, Diff)
    assert found.exit_code == 3
    assert facex.diff(*sides).exit_code == 0
    with pytest.raises(UsageError, match="fail_on 'regression:5%': must be several"):
        facex.diff(*sides, fail_on="regression:5%")
