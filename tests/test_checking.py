"""Existing files held against a reference: `facex check`, and what `bench` and `inspect` find of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex import checking, manifest
from facex.errors import ArtifactError, UsageError
from facex.types import ContractOptions, Precision, Selection

pytestmark = pytest.mark.slow  # each is a whole check

Run = Callable[..., Any]
FP32, FP16 = "seeded_160x160_fp32.onnx", "seeded_160x160_fp16.onnx"


@pytest.fixture
def check(run_facex: Run, seeded_checkpoint: Path, photo_dir: Path) -> Run:
    """`check(artifact, …)` runs `facex check` against the seeded checkpoint and adds its JSON as `found`."""

    @dataclasses.dataclass
    class Checked:
        ran: Any
        found: Any

    def run(*arguments: object, reference: Path = seeded_checkpoint, images: Path | None = photo_dir) -> Checked:
        photographs = ("--images", images) if images else ()
        ran = run_facex("check", *arguments, "--reference", reference, *photographs, "--json")
        return Checked(ran=ran, found=json.loads(ran.out) if ran.out else None)

    return run


def _named(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [finding for finding in found["findings"] if finding["name"] == name]


def test_an_artifact_alone(check: Run, exported: Path) -> None:
    checked = check(exported / FP32)
    assert checked.ran.code == checked.found["exit_code"] == 0
    assert [a["path"] for a in checked.found["artifacts"]] == [FP32]
    assert _named(checked.found, "matched_f1")[0]["verdict"] == "pass"
    assert _named(checked.found, "unchanged") == []
    assert checked.found["evaluation"]["count"] == 6


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (None, "does not say by which threshold"),
        ('{"score_threshold": 0.5, "nms_iou": 0.4, "max_faces": 20}', "gives 20 faces, and has 24 rows"),
        ('{"score_threshold": 2, "nms_iou": 0.4, "max_faces": 24}', "makes no sense"),
        ('{"threshold": 0.5}', "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_a_file_that_chooses_faces_must_say_how(exported: Path, tmp_path: Path, told: str | None, message: str) -> None:
    import onnx

    from facex.exporters import SELECTION, _detections_onnx

    path = tmp_path / FP32
    shutil.copyfile(exported / FP32, path)
    _detections_onnx.append(path, Selection(max_faces=24))
    assert checking.find([path])[0][0].subject.selection == Selection(max_faces=24)
    model = onnx.load(str(path))
    kept = {p.key: p.value for p in model.metadata_props if p.key != SELECTION}
    del model.metadata_props[:]
    for key, value in {**kept, **({} if told is None else {SELECTION: told})}.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
    with pytest.raises(ArtifactError, match=message):
        checking.find([path])


def test_several_artifacts(check: Run, exported: Path) -> None:
    checked = check(exported / FP16, exported / FP32)
    assert checked.ran.code == 0
    assert [a["path"] for a in checked.found["artifacts"]] == [FP16, FP32]
    assert [a["precision"] for a in checked.found["artifacts"]] == ["fp16", "fp32"]


def test_a_manifest_stands_for_all_its_artifacts(check: Run, exported: Path) -> None:
    checked = check(exported / "manifest.json")
    assert checked.ran.code == 0
    assert [a["path"] for a in checked.found["artifacts"]] == [FP32, FP16]
    assert [(f["artifact"], f["verdict"]) for f in _named(checked.found, "unchanged")] == [
        (FP32, "pass"),
        (FP16, "pass"),
    ]


def test_a_file_changed_after_its_export_fails(check: Run, exported: Path, tmp_path: Path) -> None:
    import onnx

    out = shutil.copytree(exported, tmp_path / "out")
    model = onnx.load(str(out / FP32))
    model.doc_string = "still the same network"
    onnx.save(model, str(out / FP32))
    checked = check(out / "manifest.json")
    assert checked.ran.code == 3
    failed = [f for f in checked.found["findings"] if f["verdict"] == "fail"]
    assert [(f["name"], f["artifact"]) for f in failed] == [("unchanged", FP32)]
    assert "SHA-256" in failed[0]["reason"]


def test_a_file_that_went_missing_is_an_error(check: Run, exported: Path, tmp_path: Path) -> None:
    out = shutil.copytree(exported, tmp_path / "out")
    (out / FP16).unlink()
    checked = check(out / "manifest.json")
    assert checked.ran.code == 2
    assert f"{FP16}: no such file" in checked.ran.error


def _rewritten(exported: Path, out: Path, change: Callable[[manifest.Manifest], manifest.Manifest]) -> Path:
    shutil.copytree(exported, out)
    path = out / "manifest.json"
    manifest.write_text(path, manifest.to_json(change(manifest.load(path))))
    return path


def test_what_was_not_promoted_is_not_checked_and_the_user_is_told(check: Run, exported: Path, tmp_path: Path) -> None:
    def fail_the_second(record: manifest.Manifest) -> manifest.Manifest:
        first, second = record.artifacts
        failed = dataclasses.replace(second, path=f"facex-work/{FP16}.failed", promoted=False)
        return dataclasses.replace(record, artifacts=(first, failed))

    checked = check(_rewritten(exported, tmp_path / "out", fail_the_second))
    assert checked.ran.code == 0
    assert [a["path"] for a in checked.found["artifacts"]] == [FP32]
    assert f"warning: not checked, because the export did not promote them: {FP16}" in checked.ran.err


def test_a_manifest_that_promoted_nothing_is_an_error(check: Run, exported: Path, tmp_path: Path) -> None:
    def fail_all(record: manifest.Manifest) -> manifest.Manifest:
        return dataclasses.replace(
            record, artifacts=tuple(dataclasses.replace(a, promoted=False) for a in record.artifacts)
        )

    checked = check(_rewritten(exported, tmp_path / "out", fail_all))
    assert checked.ran.code == 2
    assert "promoted no artifact, so there is nothing to check" in checked.ran.error


def test_calibration_photographs_are_refused_as_evidence(
    check: Run, exported: Path, tmp_path: Path, photo_dir: Path
) -> None:
    sums = tuple(sorted(manifest.sha256_of(path) for path in photo_dir.iterdir()))
    calibration = manifest.Calibration(
        count=1,
        digest=manifest.digest_of(list(sums)),
        method="minmax",
        effort="minmax",
        seed=0,
        photographs_with_faces=None,
        near_duplicates=0,
        stability=None,
        sha256=sums[:1],
    )
    path = _rewritten(exported, tmp_path / "out", lambda record: dataclasses.replace(record, calibration=calibration))
    checked = check(path)
    assert checked.ran.code == 2
    assert "--images and --calib share picture_" in checked.ran.error


@pytest.mark.slow
def test_calibration_photographs_of_a_real_export_are_refused(
    run_facex: Run, check: Run, tmp_path: Path, seeded_checkpoint: Path, calib_dir: Path
) -> None:
    line = ("export", seeded_checkpoint, "--target", "onnx", "--int8", "--size", "160x160", "--calib", calib_dir)
    assert run_facex(*line, "--int8-effort", "minmax", "--out", "out").code == 0
    checked = check(tmp_path / "out" / "manifest.json", images=calib_dir)
    assert checked.ran.code == 2
    assert "--images and --calib share calibration_0.png" in checked.ran.error


def test_the_contract_comes_from_the_file(
    run_facex: Run, check: Run, tmp_path: Path, seeded_checkpoint: Path, photo_dir: Path
) -> None:
    contract = ("--activation", "leaky:0.2", "--mean", "100,110,120", "--channel-order", "rgb")
    line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--images", photo_dir)
    assert run_facex(*line, *contract, "--out", "out").code == 0
    artifact = tmp_path / "out" / FP32
    checked = check(artifact)
    assert checked.ran.code == 0
    contract_found = checked.found["source"]["contract"]
    assert (contract_found["activation_slope"], contract_found["mean"]) == (0.2, [100.0, 110.0, 120.0])
    assert contract_found["channel_order"] == "rgb"
    assert checked.found["source"]["assumed"] == []
    assert check(artifact, *contract).ran.code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "stated",
    [
        ("--channel-order", "rgb"),
        ("--mean", "0,0,0"),
        ("--scale", "0.5,0.5,0.5"),
        ("--activation", "relu"),
        ("--anchors", "20,40;80,160;320,640"),
        ("--variances", "0.2,0.2"),
    ],
    ids=lambda stated: stated[0],
)
def test_a_wrong_contract_that_is_stated_fails(check: Run, exported: Path, stated: tuple[str, str]) -> None:
    checked = check(exported / FP32, *stated)
    assert checked.ran.code == 3
    assert _named(checked.found, "matched_f1")


def test_artifacts_of_different_contracts_are_refused(
    run_facex: Run, check: Run, exported: Path, tmp_path: Path, seeded_checkpoint: Path
) -> None:
    line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "128x128", "--activation", "relu")
    assert run_facex(*line, "--out", "out").code == 0
    checked = check(exported / FP32, tmp_path / "out" / "seeded_128x128_fp32.onnx")
    assert checked.ran.code == 2
    assert "the artifacts record different contracts" in checked.ran.error


def test_the_precision_must_be_known(check: Run, exported: Path, tmp_path: Path) -> None:
    renamed = shutil.copy(exported / FP32, tmp_path / "face.onnx")
    checked = check(renamed)
    assert checked.ran.code == 2
    assert "its name does not end in a precision" in checked.ran.error
    assert "--precision fp32|fp16|w8|p6|p4|w8a8" in checked.ran.error
    checked = check(renamed, "--precision", "w8")
    assert checked.ran.code == 0
    assert checked.found["artifacts"][0]["precision"] == "w8"


def test_a_precision_contradicts_a_manifest(check: Run, exported: Path) -> None:
    checked = check(exported / "manifest.json", "--precision", "w8a8")
    assert checked.ran.code == 2
    assert "--precision w8a8: manifest.json records the precision" in checked.ran.error


def test_the_precision_chooses_the_limits(check: Run, exported: Path) -> None:
    strict = check(exported / FP16, "--precision", "fp32")
    assert strict.ran.code == 3
    assert {f["name"] for f in strict.found["findings"] if f["verdict"] == "fail"} >= {"landmark_error_max_px"}


def test_two_files_of_one_name_are_refused(check: Run, exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / FP32, tmp_path / FP32)
    checked = check(exported / FP32, tmp_path / FP32)
    assert checked.ran.code == 2
    assert "two artifacts have the same file name" in checked.ran.error


def test_out_gets_the_reports_and_nothing_else(check: Run, exported: Path, tmp_path: Path) -> None:
    checked = check(exported / FP32, "--max-size-mb", "0.1", "--out", tmp_path / "deep" / "reports")
    assert checked.ran.code == 4
    written = tmp_path / "deep" / "reports"
    assert {p.name for p in written.iterdir()} == {"report.json", "junit.xml", "report.html"}
    assert json.loads((written / "report.json").read_text()) == checked.found
    assert ET.parse(written / "junit.xml").getroot().get("failures") == "1"


def test_without_out_nothing_is_written(
    check: Run, exported: Path, tmp_path: Path, content: Callable[[Path], dict[str, bytes | None]]
) -> None:
    before = content(exported)
    assert check(exported / FP32).ran.code == 0
    assert list(tmp_path.iterdir()) == []
    assert content(exported) == before


def test_without_photographs_faces_are_skipped(check: Run, exported: Path) -> None:
    checked = check(exported / FP32, images=None)
    assert checked.ran.code == 0
    assert [f["verdict"] for f in _named(checked.found, "matched_f1")] == ["skipped"]
    assert _named(checked.found, "snr_db.boxes")[0]["verdict"] == "pass"


def test_both_a_lost_parity_and_a_budget_are_a_lost_parity(check: Run, exported: Path) -> None:
    assert check(exported / FP32, "--limit", "snr_db=200", "--max-size-mb", "0.1").ran.code == 3


@pytest.fixture
def foreign(onnx_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """`foreign(name, input_name, input_shape, outputs)` writes a model that facex did not export."""

    def write(
        name: str,
        input_name: str = "image",
        shape: tuple[Any, ...] = (1, 3, 160, 160),
        outputs: tuple[str, ...] = ("boxes", "scores", "landmarks"),
        boxes: int = 1050,
    ) -> Path:
        import onnx
        from onnx import helper

        values = {"boxes": (1, boxes, 4), "scores": (1, boxes), "landmarks": (1, boxes, 10)}
        constants = {f"{o}_value": np.zeros(values.get(o, (1,)), np.float32) for o in outputs}
        nodes = [helper.make_node("Identity", [f"{o}_value"], [o]) for o in outputs]
        path = tmp_path / name
        onnx.save(onnx_model(nodes, {input_name: shape}, outputs, constants), str(path))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"outputs": ("output0",)},
            "its outputs are output0 — expected boxes, scores, landmarks and possibly count, or loc, conf, landm; and",
        ),
        ({"outputs": ("boxes", "scores")}, "its outputs are boxes, scores"),
        ({"input_name": "input.1"}, "its inputs are input.1 float32[1, 3, 160, 160]"),
        ({"shape": (1, 3, "height", "width")}, "its image is [1, 3, 0, 0] — expected [1, 3, H, W] of a fixed size"),
        ({"shape": (1, 160, 160, 3)}, "its image is [1, 160, 160, 3]"),
        ({"shape": (4, 3, 160, 160)}, "its image is [4, 3, 160, 160]"),
        ({"shape": (1, 3, 160)}, "its inputs are image float32[1, 3, 160]"),
        ({"shape": (1, 3, 100, 100)}, "its image is 100x100 pixels, which is no input of the reference"),
        ({"boxes": 7}, "output boxes has shape [1, 7, 4], the reference has [1, 1050, 4]"),
    ],
    ids=str,
)
def test_a_foreign_model_is_refused_in_one_line(
    check: Run, foreign: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    checked = check(foreign("yolo_fp32.onnx", **changes))
    assert checked.ran.code == 2
    assert message in checked.ran.error


def test_a_foreign_model_of_our_interface_is_judged(check: Run, foreign: Callable[..., Path]) -> None:
    checked = check(foreign("theirs_fp32.onnx"))
    assert checked.ran.code == 3
    assert _named(checked.found, "matched_f1")[0]["actual"] == 0
    assert set(checked.found["source"]["assumed"]) >= {"activation_slope", "mean"}


@pytest.mark.parametrize("name", ["text_fp32.onnx", "text_fp32.tflite"])
@pytest.mark.parametrize("command", ["check", "bench", "inspect"])
def test_a_damaged_file_is_refused_in_one_line(
    run_facex: Run, tmp_path: Path, seeded_checkpoint: Path, name: str, command: str
) -> None:
    if name.endswith(".tflite"):
        pytest.importorskip("tensorflow")
    (tmp_path / name).write_text("hello" * 100)
    ran = run_facex(command, name, *(("--reference", seeded_checkpoint) if command == "check" else ()))
    assert ran.code == 2
    assert f"{name}: is not a" in ran.error


def test_a_reader_that_crashes_on_a_file_blames_the_file(
    check: Run, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_: Path) -> None:
        raise KeyError("graph_output")

    monkeypatch.setattr("facex.exporters.onnx.describe", crash)
    checked = check(exported / FP32)
    assert checked.ran.code == 2
    assert f"{FP32}: cannot be read as onnx: KeyError" in checked.ran.error


def test_contract_metadata_that_makes_no_sense_is_refused(exported: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(exported / FP32))
    entry = next(p for p in model.metadata_props if p.key == "facex.contract")
    for text in ("[]", "nonsense", "5", "{}", '{"channel_order": "grb"}'):
        entry.value = text
        onnx.save(model, str(tmp_path / FP32))
        with pytest.raises(ArtifactError, match="the contract in its metadata cannot be read"):
            checking.find([tmp_path / FP32])


def test_find_wants_something() -> None:
    with pytest.raises(UsageError, match="no artifact was given"):
        checking.find([])


def test_find_tells_the_name_apart_from_the_precision(exported: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(exported / FP32, tmp_path / "my_fp16_face_w8a8.onnx"))
    (found,), record = checking.find([path])
    assert record is None
    assert found.subject.precision is Precision.W8A8


def test_a_record_of_the_same_checkpoint_brings_no_warning(check: Run, exported: Path) -> None:
    assert "warning" not in check(exported / "manifest.json").ran.err


def test_contract_options_complete_what_the_artifact_records(exported: Path) -> None:
    opened, _ = checking.find([exported / FP32])
    completed = checking._completed(ContractOptions(mean=(1.0, 2.0, 3.0)), opened)
    assert completed.mean == (1.0, 2.0, 3.0)
    assert completed.activation_slope == 0.1
    assert completed.landmarks is None
    assert checking._completed(ContractOptions(), []) == ContractOptions()


def test_mesh_codes_are_compared_like_the_other_outputs(
    run_facex: Run, photo_dir: Path, tmp_path: Path, seeded_network: Callable[..., Any]
) -> None:
    import torch

    from facex.reference.families.retinaface_full import RetinaFaceFull

    state = seeded_network(lambda: RetinaFaceFull(18, 8, (3,) * 5, 5, 0.0, size_variance=0.2, mesh=4))
    torch.save(state, tmp_path / "full.pth")
    torch.save({**state, "mesh_heads.3.bias": state["mesh_heads.3.bias"] + 0.5}, tmp_path / "other.pth")
    common = ("--images", photo_dir, "--json")
    exported = run_facex("export", tmp_path / "full.pth", "--target", "onnx", "--size", "160x160", *common)
    assert exported.code == 0, exported.err
    assert json.loads(exported.out)["source"]["contract"]["mesh"] == 4
    artifact = tmp_path / "build" / "full_160x160_fp32.onnx"
    for reference, verdict in (("full.pth", "pass"), ("other.pth", "fail")):
        ran = run_facex("check", artifact, "--reference", tmp_path / reference, *common)
        found = json.loads(ran.out)
        assert [f["verdict"] for f in _named(found, "snr_db.mesh")] == [verdict]
        assert {f["name"] for f in found["findings"] if f["verdict"] == "fail"} == (
            set() if verdict == "pass" else {"snr_db.mesh"}
        )
    assert ran.code == 3
