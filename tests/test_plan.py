"""What a plan says before anything is done."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex import exporters, pipeline
from facex.errors import UsageError
from facex.recipe import Recipe, parse_size
from facex.types import Head, Precision

FP32, FP16, W8, W8A8 = Precision.FP32, Precision.FP16, Precision.W8, Precision.W8A8


def _recipe(**changes: Any) -> Recipe:
    return Recipe(**{"checkpoint": Path("nowhere/model.v2.pth"), "sizes": (parse_size("480x640"),), **changes})


def _files(**changes: Any) -> list[str]:
    return [step.file_name for step in pipeline.plan(_recipe(**changes)).steps]


def test_a_plan_needs_nothing_on_disk_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in exporters.names():
        exporters.info(name)  # the modules themselves are read once
    monkeypatch.chdir(tmp_path)

    def forbidden(*arguments: object, **_: object) -> None:
        raise AssertionError(f"a plan opened {arguments}")

    monkeypatch.setattr(builtins, "open", forbidden)
    monkeypatch.setattr(Path, "open", forbidden)
    monkeypatch.setattr(Path, "exists", forbidden)
    recipe = _recipe(
        int8=True, calib=Path("no/calib"), images=Path("no/images"), ground_truth=Path("no/gt.json"), out=Path("no/out")
    )
    planned = pipeline.plan(recipe)
    assert planned == pipeline.plan(recipe)
    assert planned.recipe is recipe
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_files_are_named_after_checkpoint_size_and_precision() -> None:
    assert _files(targets=("onnx", "tflite", "coreml"), precisions=(FP32, FP16)) == [
        "model.v2_480x640_fp32.onnx",
        "model.v2_480x640_fp16.onnx",
        "model.v2_480x640_fp32.tflite",
        "model.v2_480x640_fp16.tflite",
        "model.v2_480x640_fp32.mlpackage",
        "model.v2_480x640_fp16.mlpackage",
    ]


def test_without_targets_and_precisions_every_target_writes_its_best() -> None:
    assert _files() == ["model.v2_480x640_fp16.mlpackage", "model.v2_480x640_fp32.onnx", "model.v2_480x640_fp32.tflite"]
    assert pipeline.plan(_recipe()).targets == tuple(exporters.names())


def test_int8_means_what_each_target_says() -> None:
    meant = {step.target: step.precision for step in pipeline.plan(_recipe(int8=True, calib=Path("c"))).steps}
    assert meant == {"coreml": W8, "onnx": W8A8, "tflite": W8A8}
    assert meant == {name: exporters.info(name).int8 for name in exporters.names()}


def test_int8_adds_to_the_precisions_asked_for() -> None:
    assert _files(targets=("onnx",), precisions=(FP16,), int8=True, calib=Path("c")) == [
        "model.v2_480x640_fp16.onnx",
        "model.v2_480x640_w8a8.onnx",
    ]


def test_duplicates_are_written_once_in_the_order_asked() -> None:
    size, other = parse_size("640x640"), parse_size("320")
    files = _files(
        targets=("tflite", "onnx", "tflite"),
        precisions=(W8A8, FP32, W8A8),
        int8=True,
        calib=Path("c"),
        sizes=(size, other, size),
    )
    assert files == [
        f"model.v2_{s}_{p}.{t}" for s in ("640x640", "320x320") for t in ("tflite", "onnx") for p in ("w8a8", "fp32")
    ]


@pytest.mark.parametrize(
    ("target", "precision"),
    [(name, p) for name in exporters.names() for p in Precision if p not in exporters.info(name).precisions],
)
def test_a_precision_that_a_target_cannot_write_is_refused_with_the_choices(target: str, precision: Precision) -> None:
    with pytest.raises(UsageError, match=f"--precision {precision}: {target} cannot write it") as caught:
        _files(targets=(target,), precisions=(FP32, precision), calib=Path("c"))
    assert f"{target} writes {', '.join(exporters.info(target).precisions)}" in caught.value.hint


def test_an_unknown_target_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match="--target ncnn: unknown") as caught:
        _files(targets=("onnx", "ncnn"))
    assert all(name in caught.value.hint for name in exporters.names())


@pytest.mark.parametrize("asked", [{"int8": True}, {"precisions": (W8A8,)}])
@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_integer_activations_need_photographs(asked: dict[str, Any], target: str) -> None:
    with pytest.raises(UsageError, match=f"{target} w8a8 needs calibration photographs") as caught:
        _files(targets=(target,), **asked)
    assert "--calib" in caught.value.hint


def test_int8_for_core_ml_needs_no_photographs() -> None:
    assert _files(targets=("coreml",), int8=True) == ["model.v2_480x640_w8.mlpackage"]


def test_a_plan_reads_well() -> None:
    shown = str(pipeline.plan(_recipe(targets=("onnx",), head=Head.RAW, out=Path("there"), images=Path("photos"))))
    assert shown.splitlines() == [
        "nowhere/model.v2.pth -> there",
        "  model.v2_480x640_fp32.onnx  (onnx, fp32, 480x640, raw head)",
        "  calibration: none needed",
        "  parity: photos",
    ]


def test_plan_prints_and_stops(run_facex: Callable[..., Any], tmp_path: Path) -> None:
    ran = run_facex("export", "no.pth", "--target", "tflite", "--int8", "--calib", "c", "--fp16", "--plan")
    assert (ran.code, ran.err) == (0, "")
    assert "no_640x640_fp16.tflite" in ran.out
    assert "no_640x640_w8a8.tflite" in ran.out
    assert "parity: skipped, no --images" in ran.out
    assert list(tmp_path.iterdir()) == []
