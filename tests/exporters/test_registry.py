"""The registry of targets, and the check that every finished file must pass."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from facex import exporters
from facex.errors import EXIT_BACKEND, EXIT_MISSING_EXTRA, BackendError, MissingExtraError
from facex.types import FileFacts, Head, Precision, TensorInfo


def test_the_file_names_are_the_registry():
    folder = Path(exporters.__file__).parent
    files = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    assert exporters.names() == files
    assert {"coreml", "onnx", "tflite"} <= set(files)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a_640x640_fp32.onnx", "onnx"),
        ("deep/a.tflite", "tflite"),
        ("a.mlpackage", "coreml"),
        ("A.TFLITE", "tflite"),
        ("a.pth", None),
        ("onnx", None),
        ("a.onnx.failed", None),
    ],
)
def test_a_suffix_tells_the_target(path, target):
    assert exporters.target_of(Path(path)) == target


def test_versions_are_those_of_installed_distributions():
    assert exporters.version("numpy") == importlib.metadata.version("numpy")
    assert exporters.version("no-such-distribution-at-all") is None


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr(exporters, "version", lambda name: None if name == "coremltools" else "1")
    target = exporters.info("coreml")
    exporters.require(target, ["numpy"], "anything")
    with pytest.raises(MissingExtraError) as caught:
        exporters.require(target, ["numpy", "coremltools"], "the target 'coreml'")
    assert caught.value.exit_code == EXIT_MISSING_EXTRA
    assert "the target 'coreml' needs the package 'coremltools'" in str(caught.value)
    assert "pip install 'facex[coreml]'" in str(caught.value)


def test_a_package_of_the_base_installation_is_asked_for_with_everything(monkeypatch):
    monkeypatch.setattr(exporters, "version", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"facex\[all\]"):
        exporters.require(exporters.info("onnx"), ["onnx"], "the target 'onnx'")


@pytest.fixture
def job(make_job, tmp_path):
    return make_job(tmp_path / "a.onnx", Precision.FP32)


def good(target: str) -> FileFacts:
    info = exporters.info(target)
    shape = (1, 160, 160, 3) if info.channels_last else (1, 3, 160, 160)
    return FileFacts(
        inputs=(TensorInfo(name="image", shape=shape, dtype=info.image_dtype),),
        outputs=(
            TensorInfo(name="boxes", shape=(1, 1050, 4), dtype="float32"),
            TensorInfo(name="scores", shape=(1, 1050), dtype="float32"),
            TensorInfo(name="landmarks", shape=(1, 1050, 10), dtype="float32"),
        ),
        operators={},
        macs=1,
        integer_macs=0,
        float_islands=(),
        minimum_runtime="any",
    )


@pytest.mark.parametrize("target", exporters.names())
def test_the_agreed_inputs_and_outputs_pass(job, target):
    exporters.verify(job, exporters.info(target), good(target))


def test_a_raw_head_has_other_outputs(job):
    raw = replace(job, head=Head.RAW)
    with pytest.raises(BackendError, match=r"outputs are boxes float32\[1, 1050, 4\].*expected loc float32"):
        exporters.verify(raw, exporters.info("onnx"), good("onnx"))


BOXES, SCORES, LANDMARKS = good("onnx").outputs
SPOILT = {
    "an output renamed": {"outputs": (replace(BOXES, name="Identity"), SCORES, LANDMARKS)},
    "outputs in another order": {"outputs": (SCORES, BOXES, LANDMARKS)},
    "an output lost": {"outputs": (BOXES, SCORES)},
    "no outputs": {"outputs": ()},
    "another type": {"outputs": (replace(BOXES, dtype="float16"), SCORES, LANDMARKS)},
    "another shape": {"outputs": (BOXES, replace(SCORES, shape=(1, 1050, 1)), LANDMARKS)},
    "an input renamed": {"inputs": (TensorInfo(name="input.1", shape=(1, 3, 160, 160), dtype="float32"),)},
    "the other layout": {"inputs": (TensorInfo(name="image", shape=(1, 160, 160, 3), dtype="float32"),)},
    "a byte image": {"inputs": (TensorInfo(name="image", shape=(1, 3, 160, 160), dtype="uint8"),)},
    "two inputs": {"inputs": good("onnx").inputs * 2},
}


@pytest.mark.parametrize("fault", SPOILT)
def test_whatever_a_converter_changes_is_an_error_that_shows_both(job, fault):
    facts = replace(good("onnx"), **SPOILT[fault])
    with pytest.raises(BackendError) as caught:
        exporters.verify(job, exporters.info("onnx"), facts)
    text = str(caught.value)
    assert text.startswith("a.onnx: ")
    assert "expected" in text
    assert next(iter(SPOILT[fault])) in text
    assert caught.value.exit_code == EXIT_BACKEND
