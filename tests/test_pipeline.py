"""The gate, end to end: what fails stays in the work folder, what was good stays good, and the exit code tells."""

from __future__ import annotations

import errno
import json
import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from facex import exporters, manifest, workspace
from facex.errors import ArtifactError
from facex.types import Verdict

Run = Callable[..., Any]
NAME = "seeded_160x160_fp32.onnx"
FAILED = f"{workspace.FOLDER}/{NAME}.failed"
REPORTS = {"manifest.json", "report.json", "junit.xml"}
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
    ],
    ids=["size", "latency", "both budgets", "budget and parity", "within"],
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


def test_calibration_is_recorded(export: Run, tmp_path: Path, calib_dir: Path) -> None:
    ran = export("--int8", "--calib", calib_dir)
    assert "warning: --calib" in ran.err
    assert "4 photographs are few" in ran.err
    record = manifest.load(tmp_path / "out" / "manifest.json")
    sums = sorted(manifest.sha256_of(path) for path in calib_dir.iterdir())
    assert record.calibration
    assert (record.calibration.count, list(record.calibration.sha256)) == (4, sums)
    assert record.calibration.digest == manifest.digest_of(sums)
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


def test_a_missing_package_is_named_and_nothing_is_written(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = exporters.version
    monkeypatch.setattr(exporters, "version", lambda name: None if name == "onnxsim" else version(name))
    ran = export()
    assert ran.code == 5
    assert "needs the package 'onnxsim'" in ran.error
    assert "pip install 'facex[" in ran.error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def before(
    exported: Path, tmp_path: Path, content: Callable[[Path], dict[str, bytes | None]]
) -> dict[str, bytes | None]:
    """`out` as a run left it of which one artifact failed, with a file of the user's beside."""
    shutil.copytree(exported, tmp_path / "out")
    (tmp_path / "out" / workspace.FOLDER).mkdir()
    (tmp_path / "out" / workspace.FOLDER / workspace.MARKER).touch()
    (tmp_path / "out" / workspace.FOLDER / "seeded_160x160_w8a8.onnx.failed").write_text("lost faces")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    return content(tmp_path / "out")


def _raise(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        ("facex.exporters._pivot.write", "trace"),
        ("facex.exporters.onnx.export", "export onnx"),
        ("facex.exporters.onnx.describe", "export onnx"),
        ("facex.exporters.onnx.OnnxSession.__call__", NAME),
        ("facex.device_bench.host.measure", "latency"),
        ("facex.report.junit.to_xml", "promote"),
    ],
)
def test_a_backend_that_fails_changes_nothing(
    export: Run,
    tmp_path: Path,
    content: Callable[[Path], dict[str, bytes | None]],
    before: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    stage: str,
) -> None:
    monkeypatch.setattr(where, _raise(RuntimeError("segment\noverlap\n")))
    ran = export()
    assert ran.code == 6
    assert ran.error.startswith(f"error: [{stage}] RuntimeError: segment")
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        ("facex.workspace.tempfile.mkdtemp", "prepare"),
        ("facex.exporters.onnx.shutil.copyfile", "export onnx"),
        ("facex.manifest.os.fsync", "promote"),
        ("facex.workspace.os.replace", "promote"),
    ],
)
def test_a_full_disk_changes_nothing(
    export: Run,
    tmp_path: Path,
    content: Callable[[Path], dict[str, bytes | None]],
    before: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    stage: str,
) -> None:
    monkeypatch.setattr(where, _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    ran = export()
    monkeypatch.undo()
    assert ran.code == 6
    assert ran.error == f"error: [{stage}] No space left on device — free some space and run again"
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("promoted", [0, 1, 2, 3])
def test_a_promotion_that_stops_half_way_changes_nothing(
    export: Run,
    tmp_path: Path,
    content: Callable[[Path], dict[str, bytes | None]],
    before: dict[str, bytes | None],
    monkeypatch: pytest.MonkeyPatch,
    promoted: int,
) -> None:
    replace, moved = os.replace, []

    def move(source: Path, destination: Path) -> None:
        if Path(destination).parent == Path("out"):
            if len(moved) == promoted:
                monkeypatch.setattr("facex.workspace.os.replace", replace)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            moved.append(destination)
        replace(source, destination)

    monkeypatch.setattr("facex.workspace.os.replace", move)
    ran = export()
    assert ran.code == 6
    assert "[promote] Input/output error" in ran.error
    assert len(moved) == promoted
    assert content(tmp_path / "out") == before


def test_an_export_that_cannot_be_read_back_is_the_backends_fault(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facex.exporters.onnx.export", lambda job: job.path.write_bytes(b"half a file"))
    ran = export()
    assert ran.code == 6
    assert ran.error.startswith("error: [export onnx] ")
    assert "is not an ONNX model" in ran.error
    assert not (tmp_path / "out").exists()


def test_an_export_that_no_runtime_loads_is_the_backends_fault(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facex.exporters.onnx.open_session", _raise(ArtifactError("no kernel for Conv")))
    ran = export()
    assert ran.code == 6
    assert ran.error == f"error: [{NAME}] no kernel for Conv"
    assert not (tmp_path / "out").exists()


def _renamed(graph: Any) -> None:
    next(node for node in graph.node if "scores" in node.output).output[0] = "Identity_1"
    next(output for output in graph.output if output.name == "scores").name = "Identity_1"


def _reordered(graph: Any) -> None:
    first = graph.output.pop(0)
    graph.output.append(first)


def _grown(graph: Any) -> None:
    graph.output.append(graph.input[0])


@pytest.mark.parametrize("change", [_renamed, _reordered, _grown], ids=lambda change: change.__name__[1:])
def test_an_interface_that_the_converter_changed_is_the_backends_fault(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]
) -> None:
    import onnx

    from facex.exporters import onnx as target

    written = target.export

    def changed(job: exporters.Job) -> None:
        written(job)
        model = onnx.load(str(job.path))
        change(model.graph)
        onnx.save(model, str(job.path))

    monkeypatch.setattr(target, "export", changed)
    ran = export()
    assert ran.code == 6
    assert ran.error.startswith(f"error: [export onnx] {NAME}: outputs are ")
    assert ", expected boxes float32[1, 1050, 4], scores " in ran.error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_target_in_every_precision_end_to_end(
    run_facex: Run, tmp_path: Path, seeded_checkpoint: Path, photo_dir: Path, calib_dir: Path
) -> None:
    ran = run_facex(
        *("export", seeded_checkpoint, "--size", "160x160", "--precision", "fp32", "--fp16", "--int8"),
        *("--images", photo_dir, "--calib", calib_dir, "--out", "out", "--json"),
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
        if artifact.precision in ("fp32", "fp16") and artifact.runtime:
            assert verdict is Verdict.PASS
        if artifact.runtime is None:
            assert verdict is Verdict.SKIPPED
    assert by_name[f"{stem}_w8a8.tflite"].integer_mac_fraction > 0.9
    assert by_name[f"{stem}_w8a8.tflite"].size_bytes < 0.5 * by_name[f"{stem}_fp32.tflite"].size_bytes
