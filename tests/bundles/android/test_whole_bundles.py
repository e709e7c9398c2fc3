"""`facex bundle` of files that choose faces themselves, and of an input that is no square, read by the Kotlin."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import facex
from facex import manifest
from facex.bundles import android
from facex.exporters import tflite
from facex.goldens import format as goldens
from facex.goldens import replay
from facex.types import Head, TensorInfo, Verdict

pytestmark = pytest.mark.slow  # it exports, bundles and compiles


@pytest.fixture(scope="module", params=[Head.DETECTIONS, Head.DECODED])
def build(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, seeded_checkpoint: Path, photo_dir: Path
) -> Path:
    """An export to TFLite at 240x320."""
    out = tmp_path_factory.mktemp("build") / "out"
    found = facex.export(
        seeded_checkpoint, targets=["tflite"], precisions=["fp32"], sizes=["240x320"], head=str(request.param),
        images=photo_dir, out=out,
    )  # fmt: skip
    assert found.exit_code == 0
    return out


def asked(kotlin: Callable[..., list[Any]], folder: Path, work: Path, images: Sequence[Any]) -> list[Any]:
    """What Kotlin says of the goldens when the file of a bundle is run on pictures."""
    description = goldens.load(folder)
    (model,) = description.models
    session = tflite.open_session(goldens.file_of(description, model), threads=1)
    questions = []
    for i, image in enumerate(images):
        files = {}
        for name, values in session({"image": image}).items():
            files[name] = str(work / f"{i}_{name}")
            np.asarray(values, "<f4").tofile(files[name])
        path = str(folder / android.ASSETS / goldens.DESCRIPTION)
        case = {"ask": "verdict", "description": path, "model": model.file, "golden": i}
        questions.append({**case, "outputs": files})
    return kotlin(*questions)


def test_a_bundle_of_any_head_and_shape_finds_its_goldens(
    build: Path, photo_dir: Path, kotlin: Callable[..., list[Any]], run_facex: Callable[..., Any], tmp_path: Path
) -> None:
    ran = run_facex("bundle", build / "manifest.json", "--android", "face", "--goldens", photo_dir, "--json")
    assert ran.code == 0, ran.err
    assert {f["verdict"] for f in json.loads(ran.out)["findings"]} == {str(Verdict.PASS)}
    description = goldens.load(tmp_path / "face")
    (model,) = description.models
    (artifact,) = manifest.load(build / "manifest.json").artifacts
    assert (str(model.size), model.head) == ("240x320", artifact.head)
    assert run_facex("check", build / artifact.path, "--goldens", "face").code == 0

    pictures = [replay.pixels(description.goldens, golden) for golden in description.goldens.goldens]
    (tmp_path / "work").mkdir()
    faces = [len(golden.faces) for golden in description.goldens.goldens]
    told = asked(kotlin, tmp_path / "face", tmp_path / "work", pictures)
    assert [answer["passed"] for answer in told] == [True] * len(pictures), told
    assert sum(answer["pairs"] for answer in told) == sum(faces) > 20
    swapped = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
    assert not all(answer["passed"] for answer in asked(kotlin, tmp_path / "face", tmp_path / "work", swapped))


def test_the_runtime_types_outputs_as_the_kotlin_reads_them(build: Path) -> None:
    """float32, and int32 for the count, under the names of the head, of fixed shape, as buffers are made before."""
    (artifact,) = manifest.load(build / "manifest.json").artifacts
    told = {info.name: info for info in tflite.describe(build / artifact.path).outputs}
    rows = 100 if artifact.head is Head.DETECTIONS else 3160
    shapes = {"boxes": (1, rows, 4), "scores": (1, rows), "landmarks": (1, rows, 10)}
    expected = {name: TensorInfo(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()}
    if artifact.head is Head.DETECTIONS:
        expected["count"] = TensorInfo(name="count", dtype="int32", shape=(1,))
    assert told == expected
