"""The main job on real checkpoints and photographs, as small as it can be and still find many faces."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import facex
from facex.types import Verdict

pytestmark = [pytest.mark.shared, pytest.mark.slow]

CONTRACTS: dict[str, dict[str, str]] = {
    "mnet025": {},
    "mnet025_relu": {"activation": "relu"},
    "mnet025_relu_small_anchors": {"activation": "relu", "anchors": "10,20;32,64;128,256"},
    "mnet025_rgb": {"channel_order": "rgb"},
    "mnet025_fx_keys": {},
    "mnet025_10_landmarks": {},
}


@pytest.fixture(scope="module")
def photographs(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders with every n-th photograph of a set."""

    def folder(name: str, every: int) -> Path:
        chosen = tmp_path_factory.mktemp(name)
        for path in sorted((shared_dir / "data" / name / "images").iterdir())[::every]:
            shutil.copy(path, chosen)
        return chosen

    return {"dev": folder("dev", 8), "calib": folder("calib", 6)}


@pytest.mark.parametrize("name", CONTRACTS)
def test_float_files_agree_at_their_contract(
    shared_dir: Path, photographs: dict[str, Path], tmp_path: Path, name: str
) -> None:
    manifest = facex.export(
        shared_dir / "weights" / f"{name}.pth",
        targets=["onnx", "tflite"],
        precisions=["fp32"],
        sizes=["480x640"],
        images=photographs["dev"],
        out=tmp_path / "out",
        threads=2,
        **CONTRACTS[name],
    )
    assert manifest.exit_code == 0
    assert manifest.evaluation is not None
    assert manifest.evaluation.reference_faces > 50
    found = {(f.artifact.rsplit(".", 1)[1], f.name): f.actual for f in manifest.findings}
    for target in ("onnx", "tflite"):
        assert found[target, "matched_f1"] == 1.0
        error_px = found[target, "landmark_error_max_px"]
        assert error_px is not None
        assert error_px <= 0.01


def _int8(shared_dir: Path, photographs: dict[str, Path], out: Path, effort: str) -> Any:
    return facex.export(
        shared_dir / "weights" / "mnet025.pth",
        targets=["onnx", "tflite"],
        precisions=["fp16"],
        int8=True,
        int8_effort=effort,
        sizes=["480x640"],
        calib=photographs["calib"],
        images=photographs["dev"],
        out=out,
        threads=2,
    )


def test_ranges_from_extremes_lose_faces_and_are_refused(
    shared_dir: Path, photographs: dict[str, Path], tmp_path: Path
) -> None:
    manifest = _int8(shared_dir, photographs, tmp_path / "out", "minmax")
    assert manifest.exit_code == 3
    verdicts = {a.name: (manifest.verdict(a.name), a.promoted) for a in manifest.artifacts}
    assert verdicts == {
        "mnet025_480x640_fp16.onnx": (Verdict.PASS, True),
        "mnet025_480x640_w8a8.onnx": (Verdict.FAIL, False),
        "mnet025_480x640_fp16.tflite": (Verdict.PASS, True),
        "mnet025_480x640_w8a8.tflite": (Verdict.FAIL, False),
    }
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tflite")) == ["mnet025_480x640_fp16.tflite"]


def test_statistics_and_algebra_keep_the_faces(shared_dir: Path, photographs: dict[str, Path], tmp_path: Path) -> None:
    manifest = _int8(shared_dir, photographs, tmp_path / "out", "fast")
    assert manifest.exit_code == 0
    assert all(a.promoted for a in manifest.artifacts)
    found = {(f.artifact, f.name): f.actual for f in manifest.findings}
    for target in ("onnx", "tflite"):
        assert found[f"mnet025_480x640_w8a8.{target}", "lost_faces"] == 0
