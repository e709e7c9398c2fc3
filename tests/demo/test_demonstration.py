"""The bundled detector, and an export of it with nothing at hand: end to end, for every target."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pytest

import facex
from facex import cache, demo, exporters
from facex.demo import bundled, evaluate, gallery
from facex.manifest import Manifest
from facex.reference import detector
from facex.types import Precision, Verdict

SIZE = "320x320"


@pytest.fixture(scope="module")
def record() -> dict[str, object]:
    found: dict[str, object] = json.loads(demo.RECORD.read_text(encoding="utf-8"))
    return found


def test_it_is_small_and_its_contract_is_known() -> None:
    assert demo.CHECKPOINT.stat().st_size <= 1_000_000
    loaded = detector.load(demo.CHECKPOINT, demo.CONTRACT)
    assert loaded.contract.backbone == "mobilenetv1-0.25"
    assert loaded.assumed == ()


def test_its_record_is_of_this_file(record: dict[str, object]) -> None:
    assert record["sha256"] == hashlib.sha256(demo.CHECKPOINT.read_bytes()).hexdigest()
    assert set(record) == {"sha256", "settings", "torch", "evaluation", "loss"}


def test_its_training_came_to_an_end(record: dict[str, object]) -> None:
    settings, curve = record["settings"], record["loss"]
    assert isinstance(settings, dict)
    assert isinstance(curve, list)
    ends = list(itertools.accumulate(settings["steps"]))
    assert curve[-1]["step"] == ends[-1]
    for part in ("class", "box"):
        assert curve[-1][part] < 0.5 * curve[0][part]
    # landmarks are weighed otherwise in every stage
    for first, last in zip((0, *ends[:-1]), ends, strict=True):
        points = [point for point in curve if first < point["step"] <= last]
        assert points[-1]["landmark"] < 0.9 * points[0]["landmark"]


def test_it_was_evaluated_on_photographs_that_it_had_not_seen(record: dict[str, object]) -> None:
    found = record["evaluation"]
    assert isinstance(found, dict)
    assert found["photographs"] == evaluate.COUNT == 200
    assert found["ap_hard"] >= 0.90
    assert found["landmark_nme_large"] <= 0.04
    assert found["landmark_nme_easy"] <= 0.045
    assert found["landmark_nme_hard"] <= 0.09


@pytest.mark.slow
def test_it_does_as_well_on_others() -> None:
    """On photographs of another seed, rendered now."""
    found = evaluate.evaluate(demo.CHECKPOINT, count=40, seed=1)
    assert found["ap_medium"] >= 0.90
    assert found["landmark_nme_easy"] <= 0.06


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demonstration") / "build"


@pytest.fixture(scope="module")
def exported(out: Path) -> Manifest:
    """Everything that `facex export` makes of nothing, from fewer photographs and at a smaller size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, str(out.parent / "cache"))
        patch.setattr(bundled, "CALIBRATION_COUNT", 64)
        patch.setattr(bundled, "PARITY_COUNT", 32)
        # a hundred faces: one lost is 1 %, and five decide the 5th percentile
        limits = ["w8a8.lost_faces=0.03", "w8a8.box_iou_p5=0.85"]
        return facex.export(sizes=[SIZE], int8_effort="fast", max_size_mb=2, limits=limits, out=out, threads=2)


@pytest.mark.slow
def test_every_file_passes(exported: Manifest) -> None:
    assert exported.exit_code == 0
    for artifact in exported.artifacts:
        assert exported.verdict(artifact.name) is Verdict.PASS, artifact.name


@pytest.mark.slow
def test_every_target_writes_what_it_shows(exported: Manifest, out: Path) -> None:
    targets = [exporters.info(name) for name in exporters.names()]
    wanted = {(target.name, precision) for target in targets for precision in target.shown or target.precisions}
    assert {(a.target, a.precision) for a in exported.artifacts} == wanted
    for artifact in exported.artifacts:
        suffix = exporters.info(artifact.target).suffix
        assert artifact.path == f"facex-demo_{SIZE}_{artifact.precision}{suffix}"
        assert (out / artifact.path).exists()


@pytest.mark.slow
def test_the_manifest_says_what_it_is(exported: Manifest) -> None:
    assert exported.source.demonstration
    assert exported.source.assumed == ()
    assert exported.calibration is not None
    assert exported.calibration.count == 64
    assert exported.evaluation is not None
    assert exported.evaluation.count == 32
    assert exported.evaluation.reference_faces > 30


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_int8_is_integer_and_keeps_the_faces(exported: Manifest, target: str) -> None:
    (artifact,) = (a for a in exported.artifacts if a.target == target and a.precision is Precision.W8A8)
    values = {f.name: f.actual for f in exported.findings if f.artifact == artifact.name}
    assert artifact.integer_mac_fraction == 1
    assert values["matched_f1"] is not None
    assert values["matched_f1"] >= 0.95
    assert values["ap_drop_hard"] is not None
    assert abs(values["ap_drop_hard"]) < 0.02


@pytest.mark.slow
def test_a_file_of_it_finds_the_faces_of_a_photograph(exported: Manifest, out: Path, tmp_path: Path) -> None:
    """The int8 file through its own runtime, against the truth of the renderer and not against the reference."""
    from facex.parity import ground_truth
    from facex.reference import geometry, photographs
    from facex.types import Size

    gallery.render(tmp_path / "faces", stream=gallery.Stream.OTHER, count=12, seed=5)
    truth = ground_truth.load(tmp_path / "faces" / gallery.GROUND_TRUTH)
    found = photographs.find(tmp_path / "faces" / gallery.IMAGES, option="--images")
    session = exporters.load("tflite").open_session(out / f"facex-demo_{SIZE}_w8a8.tflite", threads=1)
    hits = faces = 0
    for photograph, entry in zip(found, ground_truth.assign(truth, found), strict=True):
        assert entry is not None
        assert entry.faces is not None
        boxed = photographs.letterbox(photographs.load(photograph.path), Size(height=320, width=320), (123, 117, 104))
        outputs = session({"image": boxed.pixels[None]})
        seen = geometry.detect(outputs["boxes"][0], outputs["scores"][0], outputs["landmarks"][0], score=0.5)
        large = (entry.faces.boxes[:, 3] - entry.faces.boxes[:, 1]) * boxed.scale > 20
        boxes = (
            entry.faces.boxes[large & entry.faces.flags["easy"]] * boxed.scale
            if len(entry.faces)
            else entry.faces.boxes
        )
        faces += len(boxes)
        hits += int((geometry.iou_matrix(boxes, seen.boxes).max(axis=1, initial=0) >= 0.5).sum())
    assert faces >= 8
    assert hits >= 0.9 * faces
