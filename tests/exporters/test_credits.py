"""Author, licence and version: from the options into every file, and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from facex import exporters, manifest
from facex.errors import BackendError
from facex.exporters import Job, _credits, _pivot, coreml
from facex.exporters._litert import _metadata
from facex.types import Credits, Head, Precision, Size

STATED = Credits(author="Ana Núñez, Example Org", license="CC BY 4.0\nsee LICENCE", version="2.1-rc1 \U0001f642")
ONNX = {"model_author": STATED.author, "model_license": STATED.license, "model_version": STATED.version}
PRECISIONS = [
    ("onnx", Precision.FP32),
    pytest.param("onnx", Precision.FP16, marks=pytest.mark.slow),
    pytest.param("tflite", Precision.FP32, marks=pytest.mark.slow),
    pytest.param("coreml", Precision.FP16, marks=pytest.mark.slow),
    pytest.param("coreml", Precision.P6, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def signed(detector, tmp_path_factory) -> Path:
    """A pivot with credits."""
    path = tmp_path_factory.mktemp("signed") / "pivot.onnx"
    _pivot.write(detector, Size(height=160, width=160), Head.DECODED, 17, path, STATED)
    return path


@pytest.fixture
def stated(make_job: Callable[..., Job], signed: Path, tmp_path: Path) -> Callable[[str, Precision], Job]:
    """`stated(target, precision)` gives a job whose user stated everything."""

    def make(target: str, precision: Precision) -> Job:
        job = make_job(tmp_path / f"a_{precision}{exporters.info(target).suffix}", precision)
        options = dataclasses.replace(job.options, credits=STATED)
        return dataclasses.replace(job, options=options, pivot=signed)

    return make


@pytest.mark.parametrize(("target", "precision"), PRECISIONS)
def test_what_was_stated_is_read_back_from_the_file(stated, target, precision):
    job = stated(target, precision)
    exporters.load(target).export(job)
    facts = exporters.load(target).describe(job.path)
    assert facts.credits == STATED
    assert all(key.startswith("facex.") for key in facts.metadata)  # told once
    exporters.verify(job, exporters.info(target), facts)


@pytest.mark.parametrize(("target", "precision"), PRECISIONS)
def test_nothing_stated_is_nothing_written(make_job, tmp_path, target, precision):
    job = make_job(tmp_path / f"a{exporters.info(target).suffix}", precision)
    exporters.load(target).export(job)
    assert exporters.load(target).describe(job.path).credits == Credits(author="", license="", version="")


def test_onnx_has_them_under_the_keys_of_its_specification(signed):
    told = {p.key: p.value for p in onnx.load(str(signed)).metadata_props}
    assert {key: value for key, value in told.items() if not key.startswith("facex.")} == ONNX


@pytest.mark.slow
def test_tflite_has_them_under_the_same_keys(stated):
    job = stated("tflite", Precision.FP32)
    exporters.load("tflite").export(job)
    found = _metadata(job.path)
    assert {key: found[key].decode() for key in ONNX} == ONNX


@pytest.mark.slow
def test_core_ml_has_them_in_its_own_fields_and_facex_s_version_apart(stated):
    from coremltools.models import MLModel

    from facex import __version__

    job = stated("coreml", Precision.FP16)
    coreml.export(job)
    model = MLModel(str(job.path), skip_model_load=True)
    assert (model.author, model.license, model.version) == (STATED.author, STATED.license, STATED.version)
    assert model.user_defined_metadata["facex.version"] == __version__
    again = dataclasses.replace(job, path=job.path.with_name("again.mlpackage"))
    coreml.export(again)
    assert manifest.sha256_of(again.path) == manifest.sha256_of(job.path)


def test_a_file_that_lost_its_author_is_the_converter_s_fault(stated):
    job = stated("onnx", Precision.FP32)
    target = exporters.load("onnx")
    target.export(job)
    facts = target.describe(job.path)
    lost = dataclasses.replace(facts, credits=dataclasses.replace(STATED, author=""))
    with pytest.raises(BackendError, match="expected Credits"):
        exporters.verify(job, target.INFO, lost)


def test_entries_hold_what_was_stated_alone_and_read_back():
    partly = Credits(license="MIT")
    assert _credits.entries(partly) == {"model_license": "MIT"}
    assert _credits.read({**_credits.entries(partly), "facex.head": "raw"}) == partly
    assert _credits.read({}) == Credits()


@pytest.mark.slow
def test_an_export_records_them_and_inspect_shows_them(run_facex, seeded_checkpoint, tmp_path, quick_pivot):
    (tmp_path / "facex.toml").write_text('license = "MIT"\nmodel-version = 1.5\n', encoding="utf-8")
    line = ("export", seeded_checkpoint, "--target", "onnx", "--target", "coreml", "--size", "160x160", "--out", "out")
    assert run_facex(*line, "--author", "Some Body").code == 0
    wanted = Credits(author="Some Body", license="MIT", version="1.5")
    record = manifest.load(tmp_path / "out" / "manifest.json")
    assert [artifact.credits for artifact in record.artifacts] == [wanted] * 2
    forecasts = {artifact.target: artifact.neural_engine_forecast for artifact in record.artifacts}
    assert forecasts["onnx"] is None
    assert forecasts["coreml"]
    shown = run_facex("inspect", tmp_path / "out" / "manifest.json").out
    for field in ("author             Some Body", "licence            MIT", "model version      1.5"):
        assert shown.count(field) == 2
    assert "forecast for the Neural Engine" in shown
    told = json.loads(run_facex("inspect", tmp_path / "out" / "manifest.json", "--json").out)
    assert [artifact["credits"]["author"] for artifact in told["artifacts"]] == ["Some Body"] * 2
    coreml_entry = next(artifact for artifact in told["artifacts"] if artifact["target"] == "coreml")
    assert coreml_entry["neural_engine_forecast"]["resident_mac_fraction"] == 1.0
