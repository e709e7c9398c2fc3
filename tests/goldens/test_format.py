"""`goldens.json` and `facex.json`: what is written is what is read, and whatever is damaged is said to be."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from facex.errors import ArtifactError
from facex.goldens import format as goldens
from facex.goldens import replay
from facex.goldens.format import Description, Tolerances
from facex.goldens.record import record
from facex.progress import Clock
from facex.reference import photographs
from facex.reference.detector import Detector
from facex.types import Precision, Size


@pytest.fixture
def folder(goldens_dir: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(goldens_dir, tmp_path / "goldens")
    return tmp_path / "goldens"


def _change(folder: Path, change: Callable[[Any], object]) -> Path:
    path = folder / goldens.STANDALONE
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(goldens.schema())


def test_what_is_written_is_read(folder: Path, detector: Detector, photo_dir: Path, tmp_path: Path) -> None:
    found = goldens.load(folder)
    (tmp_path / "again").mkdir()
    sources = photographs.find(photo_dir, option="--goldens")
    size = Size(height=160, width=160)
    again = record(sources, detector, size, tmp_path / "again", threads=1, clock=Clock())
    assert found.goldens == dataclasses.replace(again, folder=folder)
    assert (found.checkpoint, found.sha256, found.contract) == (detector.path.name, detector.sha256, detector.contract)
    first, second = found.models
    assert (first.file, first.precision, first.size) == ("model_160x160_w8a8.onnx", Precision.W8A8, size)
    assert first.tolerances == Tolerances(score=0.02, box=0.03, landmark=0.04)
    assert second.sha256 == "1" * 64


def test_the_text_is_that_of_other_reports(folder: Path) -> None:
    text = (folder / goldens.STANDALONE).read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    data = json.loads(text)
    assert data["padding_rgb"] == [123, 117, 104]
    assert (data["score_threshold"], data["nms_iou"], data["saturated_score"]) == (0.5, 0.4, 0.99999)


def test_things_may_lie_in_folders_of_their_own_and_be_there_twice(folder: Path) -> None:
    expected = goldens.load(folder)
    (folder / "pictures").mkdir()
    for picture in folder.glob("*.png"):
        picture.rename(folder / "pictures" / picture.name)
    (folder / "assets").mkdir()
    (folder / goldens.STANDALONE).rename(folder / "assets" / goldens.DESCRIPTION)
    shutil.copytree(folder / "assets", folder / "tests")
    (folder / "tests" / "golden_0.png").write_bytes(b"another picture of that name")
    found = goldens.load(folder)
    assert found.goldens == dataclasses.replace(expected.goldens, folder=folder / "pictures")
    (folder / "tests" / goldens.DESCRIPTION).write_text("{}")
    with pytest.raises(ArtifactError, match=r"holds several that differ: assets/facex\.json, tests/facex\.json"):
        goldens.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("schema_version"), "schema_version is None, this facex reads 1"),
        (lambda d: d.update(schema_version=2), "schema_version is 2, this facex reads 1"),
        (lambda d: d.pop("goldens"), "top level: 'goldens' is a required property"),
        (lambda d: d.update(padding_rgb=[1, 2]), "padding_rgb: [1, 2] is too short"),
        (lambda d: d.update(nms_iou=0.3), "nms_iou is 0.3, this facex finds faces by 0.4"),
        (lambda d: d["models"].clear(), "models: [] should be non-empty"),
        (lambda d: d["models"][1].update(file=d["models"][0]["file"]), "models: two have the same file name"),
        (lambda d: d["models"][0].update(file="../a.onnx"), "models/0/file: '../a.onnx' does not match"),
        (lambda d: d["models"][0].update(precision="int8"), "models/0/precision: 'int8' is not one of"),
        (lambda d: d["models"][0]["tolerances"].update(box=0.3), "models/0/tolerances/box: 0.3 is greater than"),
        (lambda d: d["models"][0]["tolerances"].update(box=0), "models/0/tolerances/box: 0 is less than or equal to"),
        (lambda d: d["contract"].pop("variances"), "contract: 'variances' is a required property"),
        (lambda d: d["goldens"]["photographs"].clear(), "goldens/photographs: [] should be non-empty"),
        (lambda d: d["goldens"]["photographs"][0].update(scale=0), "goldens/photographs/0/scale: 0 is less than"),
        (lambda d: _face(d).update(score=1.5), "goldens/photographs/0/faces/0/score: 1.5 is greater than"),
        (lambda d: _face(d)["landmarks"].pop(), "golden_0.png: face 0: has 9 landmark values, expected 10"),
        (lambda d: _face(d).update(box=[5, 5, 5, 9]), "golden_0.png: face 0: its box is empty: [5, 5, 5, 9]"),
        (lambda d: _face(d).update(box=[1e999, 5, 5, 9]), "is not a description of goldens"),
    ],
)
def test_a_damaged_description_says_where(folder: Path, change: Callable[[Any], object], message: str) -> None:
    path = _change(folder, change)
    with pytest.raises(ArtifactError) as caught:
        goldens.load(folder)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def _face(data: Any) -> Any:
    return data["goldens"]["photographs"][0]["faces"][0]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_what_is_no_description_is_refused(folder: Path, text: str) -> None:
    (folder / goldens.STANDALONE).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=r"goldens\.json: (is not a description|schema_version is None)"):
        goldens.load(folder)


def test_a_folder_without_goldens_is_refused(tmp_path: Path) -> None:
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path, r"holds no facex\.json and no goldens")):
        with pytest.raises(ArtifactError, match=f"--replay .*: {message}"):
            goldens.load(folder, option="--replay")
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="is a file"):
        goldens.load(tmp_path / "file")


def test_a_picture_that_is_missing_or_another_is_named(folder: Path) -> None:
    shutil.copy(folder / "golden_1.png", folder / "golden_2.png")
    with pytest.raises(ArtifactError, match=r"golden_2\.png: is not the picture that was recorded"):
        goldens.load(folder)
    (folder / "golden_2.png").unlink()
    with pytest.raises(ArtifactError, match=r"golden_2\.png: is missing"):
        goldens.load(folder)
    (folder / "golden_0.png").unlink()
    with pytest.raises(ArtifactError, match=r"golden_0\.png is missing"):
        goldens.load(folder)


def _resized(found: Description, folder: Path) -> Description:
    larger = dataclasses.replace(found.goldens, size=Size(height=320, width=160), folder=folder)
    return dataclasses.replace(found, goldens=larger)


def test_pictures_of_another_size_are_refused(folder: Path) -> None:
    found = _resized(goldens.load(folder), folder)
    with pytest.raises(ArtifactError, match=r"golden_0\.png: is RGB 160x160, the goldens are RGB 320x160"):
        replay.pixels(found.goldens, found.goldens.goldens[0])
    (folder / "golden_0.png").write_bytes(b"no picture")
    with pytest.raises(ArtifactError, match=r"golden_0\.png: cannot be decoded"):
        replay.pixels(found.goldens, found.goldens.goldens[0])


def test_the_file_of_a_model_is_found_or_missed(folder: Path) -> None:
    found = goldens.load(folder)
    with pytest.raises(ArtifactError, match=r"model_160x160_w8a8\.onnx: is missing"):
        goldens.file_of(found, found.models[0])
    (folder / "models").mkdir()
    (folder / "models" / found.models[0].file).write_bytes(b"another")
    with pytest.raises(ArtifactError, match=r"model_160x160_w8a8\.onnx: is not the file that was recorded"):
        goldens.file_of(found, found.models[0])
