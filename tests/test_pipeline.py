"""The gate, end to end: what fails stays in the work folder, what was good stays good, and the exit code tells."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from facex import exporters, manifest, workspace
from facex.types import Selection, Verdict

pytestmark = pytest.mark.slow  # each is a whole export

Run = Callable[..., Any]
NAME = "seeded_160x160_fp32.onnx"
FAILED = f"{workspace.FOLDER}/{NAME}.failed"
REPORTS = {"manifest.json", "report.json", "junit.xml", "report.html"}
FAR_TOO_STRICT = ("--limit", "snr_db=200")


@pytest.fixture(scope="module")
def traced_anew() -> Callable[..., None]:
    """The tracing itself, whatever a test puts in its place."""
    from facex.exporters import _pivot

    return _pivot.write


@pytest.fixture
def export(run_facex: Run, quick_pivot: None, seeded_checkpoint: Path, photo_dir: Path) -> Run:
    """`export("--int8", …)` exports the seeded checkpoint to ONNX at 160x160 into `out`, with photographs."""

    def run(*options: object, checkpoint: Path = seeded_checkpoint, out: str = "out") -> Any:
        line = ("export", checkpoint, "--target", "onnx", "--size", "160x160", "--images", photo_dir, "--out", out)
        return run_facex(*line, *options)

    return run


def _files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_what_passes_is_promoted_with_its_reports(export: Run, tmp_path: Path) -> None:
    ran = export("--precision", "fp32", "--precision", "fp16")
    assert ran.code == 0
    assert _files(tmp_path / "out") == {NAME, "seeded_160x160_fp16.onnx", *REPORTS}
    record = manifest.load(tmp_path / "out" / "manifest.json")
    assert [a.promoted for a in record.artifacts] == [True, True]
    for artifact in record.artifacts:
        assert manifest.sha256_of(tmp_path / "out" / artifact.path) == artifact.sha256
        assert artifact.runtime
        assert record.verdict(artifact.name) is Verdict.PASS
    assert record.evaluation
    assert record.evaluation.count == 6
    assert record.evaluation.reference_faces > 50
    assert "PASSED" in ran.out


def test_reports_are_valid(export: Run, tmp_path: Path) -> None:
    assert export("--max-size-mb", "3").code == 0
    plain = json.loads((tmp_path / "out" / "manifest.json").read_text())
    jsonschema.validate(plain, manifest.schema())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["exit_code"] == 0
    assert report["command"].startswith("facex export ")
    assert set(report["timings_s"]) >= {"read", "trace", "export onnx", "parity", "latency"}
    assert report["artifacts"] == plain["artifacts"]
    suites = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    assert suites.get("failures") == "0"


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(
    export: Run,
    tmp_path: Path,
    other_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    traced_anew: Callable[..., None],
) -> None:
    monkeypatch.setattr("facex.exporters._pivot.write", traced_anew)
    for out in ("one", "two"):
        assert export(out=out).code == 0
    for name in ("manifest.json", NAME):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert export(out="three", checkpoint=other_checkpoint).code == 0
    assert (tmp_path / "three" / "manifest.json").read_bytes() != (tmp_path / "one" / "manifest.json").read_bytes()


def test_failed_parity_is_kept_marked_and_not_promoted(
    export: Run, tmp_path: Path, content: Callable[[Path], dict[str, bytes | None]]
) -> None:
    ran = export(*FAR_TOO_STRICT)
    assert ran.code == 3
    assert _files(tmp_path / "out") == {FAILED, f"{workspace.FOLDER}/{workspace.MARKER}", *REPORTS}
    record = manifest.load(tmp_path / "out" / "manifest.json")
    assert [(a.path, a.promoted) for a in record.artifacts] == [(FAILED, False)]
    assert manifest.sha256_of(tmp_path / "out" / FAILED) == record.artifacts[0].sha256
    assert record.exit_code == 3
    suites = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    assert int(suites.get("failures", "0")) > 0
    assert "FAILED" in ran.out
    assert NAME in ran.out


def test_an_older_good_file_outlives_a_failure(export: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / NAME).write_bytes(b"last week's good one")
    assert export(*FAR_TOO_STRICT).code == 3
    assert (tmp_path / "out" / NAME).read_bytes() == b"last week's good one"
    assert export().code == 0
    assert (tmp_path / "out" / NAME).read_bytes() != b"last week's good one"
    assert _files(tmp_path / "out") == {NAME, *REPORTS}  # and the failed one is gone with its work folder


def test_only_what_passes_is_promoted(export: Run, tmp_path: Path) -> None:
    ran = export("--precision", "fp32", "--precision", "fp16", "--limit", "fp16.snr_db=200")
    assert ran.code == 3
    record = manifest.load(tmp_path / "out" / "manifest.json")
    assert [(a.path, a.promoted) for a in record.artifacts] == [
        (NAME, True),
        (f"{workspace.FOLDER}/seeded_160x160_fp16.onnx.failed", False),
    ]
    assert all((tmp_path / "out" / a.path).is_file() for a in record.artifacts)


@pytest.mark.parametrize(
    ("options", "code", "failed"),
    [
        (("--max-size-mb", "0.5"), 4, {"size"}),
        (("--max-latency-ms", "0.0001"), 4, {"latency"}),
        (("--max-size-mb", "0.5", "--max-latency-ms", "0.0001"), 4, {"size", "latency"}),
        (("--max-size-mb", "0.5", "--limit", "snr_db.boxes=200"), 3, {"size", "snr_db.boxes"}),
        (("--max-size-mb", "50", "--max-latency-ms", "60000"), 0, set()),
        (("--max-load-ms", "0.0001", "--max-memory-mb", "60000"), 4, {"load"}),
    ],
    ids=["size", "latency", "both budgets", "budget and parity", "within", "load"],
)
def test_budgets(export: Run, tmp_path: Path, options: tuple[str, ...], code: int, failed: set[str]) -> None:
    assert export(*options).code == code
    record = manifest.load(tmp_path / "out" / "manifest.json")
    assert {f.name for f in record.findings if f.verdict is Verdict.FAIL} == failed
    assert record.artifacts[0].promoted is (code == 0)
    assert (tmp_path / "out" / NAME).exists() is (code == 0)


def test_without_photographs_nothing_passes_for_faces(run_facex: Run, tmp_path: Path, seeded_checkpoint: Path) -> None:
    ran = run_facex("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--out", "out")
    assert ran.code == 0
    record = manifest.load(tmp_path / "out" / "manifest.json")
    faces = [f for f in record.findings if f.name == "matched_f1"]
    assert [(f.verdict, f.actual) for f in faces] == [(Verdict.SKIPPED, None)]
    assert "no photographs were given" in faces[0].reason
    assert record.verdict(NAME) is Verdict.SKIPPED
    assert record.evaluation is None
    assert "1 not compared with the reference" in " ".join(ran.out.split())


def test_without_photographs_the_tensors_are_still_held_to_their_limits(
    run_facex: Run, tmp_path: Path, seeded_checkpoint: Path
) -> None:
    line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--out", "out")
    assert run_facex(*line, *FAR_TOO_STRICT).code == 3
    assert not (tmp_path / "out" / NAME).exists()


def test_several_sizes_are_each_compared(export: Run, tmp_path: Path) -> None:
    assert export("--size", "128x160").code == 0  # the fixture's 160x160 comes first
    record = manifest.load(tmp_path / "out" / "manifest.json")
    assert [str(a.size) for a in record.artifacts] == ["160x160", "128x160"]
    for artifact in record.artifacts:
        assert (1, 3, artifact.size.height, artifact.size.width) == artifact.inputs[0].shape
        assert record.verdict(artifact.name) is Verdict.PASS


def test_the_raw_head_is_compared_too(export: Run, tmp_path: Path) -> None:
    assert export("--head", "raw").code == 0
    record = manifest.load(tmp_path / "out" / "manifest.json")
    assert [t.name for t in record.artifacts[0].outputs] == ["loc", "conf", "landm"]
    assert record.verdict(NAME) is Verdict.PASS


def test_files_that_choose_faces(
    export: Run, run_facex: Run, tmp_path: Path, seeded_checkpoint: Path, photo_dir: Path
) -> None:
    """What they choose faces by is in the manifest, in the file for `check` and `inspect`, and in what is compared."""
    options = ("--head", "detections", "--score-threshold", "0.6", "--max-faces", "7")
    assert export(*options, "--precision", "fp32", "--precision", "fp16").code == 0
    record = manifest.load(tmp_path / "out" / "manifest.json")
    wanted = Selection(score_threshold=0.6, nms_iou=0.4, max_faces=7)
    assert [a.selection for a in record.artifacts] == [wanted, wanted]
    names = {f.name for f in record.findings if f.verdict is Verdict.PASS}
    assert {"matched_f1", "box_iou_p5", "landmark_nme_mean", "malformed_rows"} <= names
    assert not [f.name for f in record.findings if f.name.startswith("snr_db")]
    line = ("check", "out/manifest.json", "--reference", seeded_checkpoint, "--images", photo_dir, "--json")
    checked = run_facex(*line)
    assert checked.code == 0
    assert json.loads(checked.out)["artifacts"][0]["selection"] == {
        "score_threshold": 0.6, "nms_iou": 0.4, "max_faces": 7
    }  # fmt: skip
    assert "score >= 0.6, overlap <= 0.4, 7 faces at most" in run_facex("inspect", f"out/{NAME}").out


def test_without_photographs_the_rows_of_chosen_faces_are_still_held_to_their_promise(
    run_facex: Run, quick_pivot: None, tmp_path: Path, seeded_checkpoint: Path
) -> None:
    line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--head", "detections")
    assert run_facex(*line, "--out", "out").code == 0
    record = manifest.load(tmp_path / "out" / "manifest.json")
    verdicts = {f.name: f.verdict for f in record.findings if f.name in ("matched_f1", "malformed_rows")}
    assert verdicts == {"matched_f1": Verdict.SKIPPED, "malformed_rows": Verdict.PASS}


def test_calibration_is_recorded(export: Run, tmp_path: Path, calib_dir: Path) -> None:
    ran = export("--int8", "--int8-effort", "minmax", "--seed", 3, "--calib", calib_dir)
    assert "warning: --calib" in ran.err
    assert "4 photographs are few" in ran.err
    record = manifest.load(tmp_path / "out" / "manifest.json")
    sums = sorted(manifest.sha256_of(path) for path in calib_dir.iterdir())
    assert record.calibration
    assert (record.calibration.count, list(record.calibration.sha256)) == (4, sums)
    assert record.calibration.digest == manifest.digest_of(sums)
    told = record.calibration
    assert (told.effort, told.method, told.seed) == ("minmax", "minmax", 3)
    assert told.photographs_with_faces == 4
    assert told.near_duplicates == 0
    assert told.stability
    assert 0 < told.stability.median <= told.stability.worst < 1
    assert told.stability.tensor
    assert record.artifacts[0].integer_mac_fraction > 0.5


def test_ground_truth_adds_average_precision(export: Run, tmp_path: Path, photo_dir: Path) -> None:
    faces = [{"bbox": [20, 20, 40, 40]}]
    images = [{"file": path.name, "faces": faces} for path in photo_dir.iterdir()]
    (tmp_path / "gt.json").write_text(json.dumps({"images": images}))
    assert export("--ground-truth", "gt.json").code == 0
    record = manifest.load(tmp_path / "out" / "manifest.json")
    drop = next(f for f in record.findings if f.name == "ap_drop_all")
    assert drop.verdict is Verdict.PASS
    assert drop.limit is not None


@pytest.mark.slow
def test_every_target_in_every_precision_end_to_end(
    run_facex: Run, tmp_path: Path, seeded_checkpoint: Path, photo_dir: Path, calib_dir: Path
) -> None:
    ran = run_facex(
        *("export", seeded_checkpoint, "--size", "160x160", "--precision", "fp32", "--fp16", "--int8"),
        *("--images", photo_dir, "--calib", calib_dir, "--out", "out", "--json"),
        *("--int8-effort", "fast"),
    )
    assert ran.code in (0, 3)
    record = manifest.load(tmp_path / "out" / "manifest.json")
    by_name = {a.name: a for a in record.artifacts}
    stem = "seeded_160x160"
    assert set(by_name) == {
        f"{stem}_{precision}{exporters.info(target).suffix}"
        for target in exporters.names()
        for precision in ("fp32", "fp16", exporters.info(target).int8)
    }
    assert json.loads(ran.out)["exit_code"] == record.exit_code == ran.code
    for name, artifact in by_name.items():
        verdict = record.verdict(name)
        assert artifact.promoted is (verdict is not Verdict.FAIL)
        assert (tmp_path / "out" / artifact.path).exists()
        # Core ML also computes in half precision, which an untrained network amplifies beyond the limits
        if artifact.precision == "fp32" or (artifact.precision == "fp16" and artifact.target != "coreml"):
            assert verdict is Verdict.PASS
        assert artifact.runtime
        (f1,) = (f.actual for f in record.findings if f.artifact == name and f.name == "matched_f1")
        assert f1 > 0.8
    assert by_name[f"{stem}_w8a8.tflite"].integer_mac_fraction > 0.9
    assert by_name[f"{stem}_w8a8.tflite"].size_bytes < 0.5 * by_name[f"{stem}_fp32.tflite"].size_bytes
