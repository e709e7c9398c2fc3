"""`facex debug-int8` on the seeded detector with plain min/max grids, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from facex import debugging
from facex.calibration import qdq
from facex.calibration.graph import Graph
from facex.calibration.plan import make_plan
from facex.calibration.twin import with_outputs
from facex.exporters import _pivot
from facex.reference.photographs import find
from facex.types import Head, Size

Run = Callable[..., Any]
NAME = "seeded_160x160_w8a8.onnx"
SIZE = Size(height=160, width=160)


@pytest.fixture(scope="module")
def exported(detector: Any, tmp_path_factory: pytest.TempPathFactory, run_onnx: Callable[..., Any]) -> Path:
    """A QDQ file whose grids span what one picture of noise gives."""
    folder = tmp_path_factory.mktemp("debug")
    _pivot.write(detector, SIZE, Head.DECODED, 17, folder / "pivot.onnx")
    model = onnx.load(str(folder / "pivot.onnx"))
    graph = Graph(model)
    names = [name for name in graph.quantized_tensors() if name != "image"]
    noise = np.random.default_rng(1).integers(0, 256, (1, 3, 160, 160)).astype(np.float32)
    seen = run_onnx(with_outputs(model, names), {"image": noise})
    ranges = {name: (float(x.min()), float(x.max())) for name, x in seen.items()}
    qdq.write(model, make_plan(graph, ranges, "minmax"), folder / NAME)
    return folder / NAME


@pytest.fixture(scope="module")
def heads(exported: Path) -> list[str]:
    return Graph(onnx.load(str(exported))).heads


def test_what_it_prints(run_facex: Run, exported: Path, photo_dir: Path) -> None:
    ran = run_facex("debug-int8", exported, "--images", photo_dir, "--photographs", 2, "--top", 5)
    assert ran.code in (0, 3)
    assert "2 of 6 photographs, evenly spaced" in ran.out
    assert "5 of " in ran.out
    assert "score_step" in ran.out
    table = ran.out.split("\u2500\n")[1].split("\n5 of ")[0].splitlines()
    ratios = [float(line.split()[-1]) for line in table]
    assert len(ratios) == 5
    assert ratios == sorted(ratios)  # the worst first


def test_its_json_lists_every_tensor(run_facex: Run, exported: Path, photo_dir: Path) -> None:
    ran = run_facex("debug-int8", exported, "--images", photo_dir, "--photographs", 2, "--top", 1, "--json")
    found = json.loads(ran.out)
    assert ran.code == found["exit_code"]
    assert (found["artifact"], found["photographs"], found["photographs_available"]) == (NAME, 2, 6)
    graph = Graph(onnx.load(str(exported)))
    quantized = [n.input[0] for n in graph.nodes if n.op_type == "QuantizeLinear"]
    assert [t["name"] for t in found["tensors"]] == quantized
    assert set(found["head_sqnr_db"]) == {"scores", "boxes", "landmarks"}
    assert found["tensors"][0]["head_sqnr_db"] == 200.0  # the image loses nothing
    assert {f["name"] for f in found["findings"]} >= {"score_step", "requantizations"}


def test_a_ruined_head_fails_the_lint(run_facex: Run, exported: Path, photo_dir: Path, tmp_path: Path) -> None:
    model = onnx.load(str(exported))
    ruined = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and "class_heads.1" in n.input[0])
    for tensor in model.graph.initializer:
        if tensor.name == ruined.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(640 / 255), tensor.name))
    path = tmp_path / NAME
    onnx.save(model, str(path))
    line = ("debug-int8", path, "--images", photo_dir, "--photographs", 1, "--json")
    ran = run_facex(*line)
    assert ran.code == 3
    (finding,) = [f for f in json.loads(ran.out)["findings"] if f["name"] == "score_step"]
    assert finding["verdict"] == "fail"
    assert ruined.input[0] in finding["reason"]
    (again,) = [f for f in json.loads(run_facex(*line, "--limit", "score_step=1").out)["findings"] if f["limit"] == 1]
    assert (again["name"], again["verdict"]) == ("score_step", "pass")


def test_photographs_are_evenly_spaced(photo_dir: Path) -> None:
    photographs = find(photo_dir, option="--images")
    assert debugging.spaced(photographs, 3) == photographs[::2]
    assert debugging.spaced(photographs, 100) == photographs
    assert debugging.spaced(photographs, 1) == photographs[:1]


def test_a_file_without_grids_is_refused(run_facex: Run, exported: Path, photo_dir: Path) -> None:
    ran = run_facex("debug-int8", exported.with_name("pivot.onnx"), "--images", photo_dir)
    assert ran.code == 2
    assert "no 8-bit activation" in ran.error


@pytest.mark.parametrize("arguments", [["--images", "nowhere"], []])
def test_photographs_are_needed(arguments: list[str], run_facex: Run, exported: Path) -> None:
    ran = run_facex("debug-int8", exported, *arguments)
    assert ran.code == 2
    assert "--images" in ran.error


def test_a_tflite_file_shows_its_lint_and_names_the_onnx_file(
    run_facex: Run, photo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path
) -> None:
    import dataclasses

    from facex import checking

    path = tmp_path / "seeded_160x160_w8a8.tflite"
    path.write_bytes(b"")
    (opened,), _ = checking.find([exported])
    subject = dataclasses.replace(opened.subject, name=path.name, path=path, target="tflite")
    seen = (dataclasses.replace(opened, subject=subject),)
    monkeypatch.setattr(debugging, "find", lambda *_: (seen, None))
    ran = run_facex("debug-int8", path, "--images", photo_dir)
    assert ran.code == 2
    assert "score_step" in ran.out
    assert NAME in ran.error
