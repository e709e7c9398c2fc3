"""The modules that the tutorials print are put into the package and run: a target, and a detector family."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import facex
from facex import exporters
from facex.errors import ArtifactError, CheckpointError, UsageError
from facex.reference import families
from facex.types import Size, Verdict

ROOT = Path(__file__).resolve().parents[1]
TARGET_PAGE = ROOT / "docs" / "adding_a_target.md"
FAMILY_PAGE = ROOT / "docs" / "adding_a_family.md"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(page, package)` puts the page's module into the package for one test, and gives its folder."""
    added = []

    def put(page: Path, package) -> Path:
        printed = rf"`{package.__name__.replace('.', '/')}/(\w+)\.py`:\n\n```python\n(.*?)^```$"
        name, source = re.search(printed, page.read_text(encoding="utf-8"), flags=re.M | re.S).groups()
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        importlib.invalidate_caches()
        added.append((package, name))
        return folder

    yield put
    for package, name in added:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


@pytest.mark.slow
def test_the_example_of_a_target(install, tmp_path, seeded_checkpoint, photo_dir):
    install(TARGET_PAGE, exporters)
    out = tmp_path / "build"
    manifest = facex.export(
        seeded_checkpoint, targets=["onnxz", "onnx"], sizes=["160x160"], images=photo_dir, out=out, threads=1
    )
    assert manifest.exit_code == 0
    packed, plain = manifest.artifacts
    assert exporters.info("onnxz").name == "onnxz"
    assert packed.path == "seeded_160x160_fp32.onnxz"
    assert packed.size_bytes < plain.size_bytes
    assert manifest.verdict(packed.name) is Verdict.PASS
    checked = facex.check(out / packed.path, reference=seeded_checkpoint, images=photo_dir, threads=1)
    assert checked.verdict(packed.name) is Verdict.PASS
    damaged = tmp_path / "damaged_fp32.onnxz"
    damaged.write_bytes(b"no zlib stream")
    with pytest.raises(ArtifactError, match="zlib"):
        facex.check(damaged, reference=seeded_checkpoint)


def test_the_command_line_follows_a_new_target(install):
    folder = install(TARGET_PAGE, exporters)
    program = (
        f"import sys, facex.exporters as e; e.__path__.append({str(folder)!r}); sys.argv[0] = 'facex'\n"
        "from facex.cli import main; main()"
    )

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout

    assert "[coreml|onnx|onnxz|tflite]" in run("export", "--help")
    assert "model_640x640_fp32.onnxz" in run("export", "model.pth", "--target", "onnxz", "--plan")
    assert "onnxz" in [target["name"] for target in json.loads(run("doctor", "--json"))["targets"]]


def plain_checkpoint(path: Path, draw_photograph) -> Path:
    """A PlainFace with random weights, its batch norms fed with pictures, for which some priors are faces."""
    import torch

    from facex.reference.photographs import letterbox, network_input

    plainface = families.load("plainface")
    pictures = [np.asarray(draw_photograph(500 + i, 200, 160)) for i in range(8)]
    pixels = [letterbox(picture, Size(height=160, width=160), (123.0, 117.0, 104.0)).pixels for picture in pictures]
    inputs = torch.from_numpy(network_input(np.stack(pixels), plainface.ASSUMED["mean"], (1.0, 1.0, 1.0), bgr=True))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        network = plainface.PlainFace(16, 2, 5, 0.1)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # plain averages
        network.train()(inputs)
    torch.save({"state_dict": network.state_dict()}, path)
    return path


@pytest.mark.slow
def test_the_example_of_a_family(install, tmp_path, draw_photograph, photo_dir):
    install(FAMILY_PAGE, families)
    checkpoint = plain_checkpoint(tmp_path / "plain.pth", draw_photograph)
    asked = {"targets": ["onnx"], "sizes": ["160x160"], "images": photo_dir, "threads": 1, "out": tmp_path / "build"}
    with pytest.raises(UsageError, match=r"the checkpoint's heads have \[2\]"):
        facex.export(checkpoint, anchors="48", **asked)
    manifest = facex.export(checkpoint, **asked)
    assert manifest.exit_code == 0
    assert manifest.source.contract.family == "plainface"
    assert manifest.source.contract.strides == (16,)
    assert manifest.source.contract.min_sizes == ((48.0, 96.0),)
    assert manifest.evaluation.reference_faces > 0
    assert manifest.verdict(manifest.artifacts[0].name) is Verdict.PASS


def test_families_are_told_apart(install, seeded_checkpoint, tmp_path, draw_photograph):
    from facex.reference import checkpoint

    install(FAMILY_PAGE, families)
    assert families.names() == ["plainface", "retinaface", "retinaface_full", "ultralight"]
    assert checkpoint.recognise(seeded_checkpoint, checkpoint.read(seeded_checkpoint)).family == "retinaface"
    path = plain_checkpoint(tmp_path / "plain.pth", draw_photograph)
    state = checkpoint.read(path)
    assert checkpoint.recognise(path, state).family == "plainface"
    broken = state | {"conf.weight": state["conf.weight"][:1]}
    with pytest.raises(CheckpointError, match=r"plainface .* wrong shape conf\.weight"):
        checkpoint.recognise(path, broken)
    del state["loc.bias"]
    with pytest.raises(CheckpointError, match=r"plainface .* missing loc\.bias"):
        checkpoint.recognise(path, state)
