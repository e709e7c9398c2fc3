"""Core ML packages through `facex check` on any system: an intact one passes, each sabotaged one is red."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import facex

pytestmark = pytest.mark.slow

Run = Callable[..., Any]
BGR = 30
"""`ImageFeatureType.ColorSpace` in Core ML's FeatureTypes.proto."""


@pytest.fixture(scope="module")
def exported(seeded_checkpoint: Path, other_checkpoint: Path, tmp_path_factory) -> dict[str, Path]:
    """Single-precision packages of two checkpoints."""
    found = {}
    for name, checkpoint in (("own", seeded_checkpoint), ("other", other_checkpoint)):
        out = tmp_path_factory.mktemp("export")
        record = facex.export(checkpoint, targets=["coreml"], precisions=["fp32"], sizes=["160x160"], out=out)
        found[name] = out / record.artifacts[0].path
    return found


def _operations(spec: Any) -> Any:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def _swapped_layout(spec: Any) -> None:
    spec.description.input[0].type.imageType.colorSpace = BGR


def _missing_bias(spec: Any) -> None:
    convolutions = [op for op in _operations(spec) if op.type == "conv" and "bias" in op.inputs]
    del convolutions[len(convolutions) // 2].inputs["bias"]


def _permuted_boxes(spec: Any) -> None:
    """The corners change places."""
    corners = next(op for op in _operations(spec) if op.outputs[0].name == "boxes")
    first, second = (a.name for a in corners.inputs["values"].arguments)
    corners.inputs["values"].arguments[0].name, corners.inputs["values"].arguments[1].name = second, first


def _permuted_landmarks(spec: Any) -> None:
    """The levels change places."""
    levels = next(op for op in _operations(spec) if op.outputs[0].name == "landmarks")
    names = [a.name for a in levels.inputs["values"].arguments]
    # the shape stays the one that is declared
    for argument, name in zip(levels.inputs["values"].arguments, reversed(names), strict=True):
        argument.name = name


def _wrong_slope(spec: Any) -> None:
    for op in _operations(spec):
        if op.type == "leaky_relu":
            op.type = "relu"
            del op.inputs["alpha"]


SABOTAGES = [_swapped_layout, _missing_bias, _permuted_boxes, _permuted_landmarks, _wrong_slope]


def _sabotaged(path: Path, folder: Path, sabotage: Callable[[Any], None]) -> Path:
    from coremltools.proto import Model_pb2

    copy = Path(shutil.copytree(path, folder / path.name))
    file = copy / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    before = spec.SerializeToString(deterministic=True)
    sabotage(spec)
    assert spec.SerializeToString(deterministic=True) != before
    file.write_bytes(spec.SerializeToString())
    return copy


def _checked(run_facex: Run, package: Path, checkpoint: Path, photos: Path, *more: str) -> tuple[int, dict[str, Any]]:
    ran = run_facex("check", str(package), "--reference", str(checkpoint), "--images", str(photos), "--json", *more)
    return ran.code, json.loads(ran.out)


def test_an_intact_package_passes_on_faces_and_is_not_timed(run_facex, exported, seeded_checkpoint, photo_dir):
    code, found = _checked(run_facex, exported["own"], seeded_checkpoint, photo_dir)
    assert code == 0
    verdicts = {f["name"]: f["verdict"] for f in found["findings"]}
    assert verdicts["matched_f1"] == verdicts["landmark_nme_mean"] == verdicts["snr_db.boxes"] == "pass"
    assert verdicts["latency"] == "skipped"
    assert found["latency"] == []
    assert "executor" in found["artifacts"][0]["runtime"]


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_a_sabotaged_package_is_red(run_facex, exported, seeded_checkpoint, photo_dir, tmp_path, sabotage):
    package = _sabotaged(exported["own"], tmp_path, sabotage)
    code, found = _checked(run_facex, package, seeded_checkpoint, photo_dir)
    assert code == 3
    assert any(f["verdict"] == "fail" for f in found["findings"])


def test_a_package_of_another_checkpoint_is_red(run_facex, exported, seeded_checkpoint, photo_dir):
    code, _ = _checked(run_facex, exported["other"], seeded_checkpoint, photo_dir)
    assert code == 3


def test_weights_of_another_checkpoint_in_the_package_are_red(
    run_facex, exported, seeded_checkpoint, photo_dir, tmp_path
):
    package = Path(shutil.copytree(exported["own"], tmp_path / exported["own"].name))
    weights = Path("Data", "com.apple.CoreML", "weights", "weight.bin")
    assert (package / weights).stat().st_size == (exported["other"] / weights).stat().st_size
    shutil.copyfile(exported["other"] / weights, package / weights)
    code, _ = _checked(run_facex, package, seeded_checkpoint, photo_dir)
    assert code == 3


def test_an_operator_that_is_not_known_ends_with_the_backend_s_exit_code(
    run_facex, exported, seeded_checkpoint, photo_dir, tmp_path
):
    def exotic(spec: Any) -> None:
        next(op for op in _operations(spec) if op.type == "sigmoid").type = "warp"

    package = _sabotaged(exported["own"], tmp_path, exotic)
    ran = run_facex("check", str(package), "--reference", str(seeded_checkpoint), "--images", str(photo_dir))
    assert ran.code == 6
    assert "warp" in ran.err
    assert "leaky_relu" in ran.err  # among those that are known


def test_off_a_mac_the_native_runtime_is_skipped_and_says_why(run_facex, exported, seeded_checkpoint, photo_dir):
    line = ["--runtime", "native-cpu"]
    code, found = _checked(run_facex, exported["own"], seeded_checkpoint, photo_dir, *line)
    assert code == 0
    reasons = {f["reason"] for f in found["findings"] if f["verdict"] == "skipped"}
    assert any("Core ML runs on macOS only" in reason for reason in reasons)
    assert not any(f["name"] == "matched_f1" and f["verdict"] == "pass" for f in found["findings"])
