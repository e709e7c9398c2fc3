"""Sabotage through the whole export and the whole check: each must end with exit code 3, and none is promoted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facex import manifest, workspace
from facex.types import ContractOptions, Verdict

pytestmark = pytest.mark.slow  # each is a whole export

Run = Callable[..., Any]


def _swapped_channels(model: Any, _: Any) -> None:
    forward = model.forward
    model.forward = lambda image: forward(image.flip(1))


def _shifted_mean(model: Any, _: Any) -> None:
    model.mean += 20


def _forgotten_mean(model: Any, _: Any) -> None:
    model.mean *= 0


def _wrong_anchors(model: Any, size: Any) -> None:
    from facex.exporters._rewrites import Decoder
    from facex.reference.families.retinaface import ASSUMED

    contract = dataclasses.replace(
        model.contract, min_sizes=tuple(tuple(1.25 * side for side in level) for level in ASSUMED["min_sizes"])
    )
    model.decoder = Decoder(contract, size)


def _wrong_activation(model: Any, _: Any) -> None:
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.0


def _zeroed_head(model: Any, _: Any) -> None:
    for head in model.network.class_heads:
        head.weight.data.zero_()
        head.bias.data.zero_()


def _zeroed_landmarks(model: Any, _: Any) -> None:
    for head in model.network.landmark_heads:
        head.weight.data.zero_()


def _not_a_number(model: Any, _: Any) -> None:
    model.network.class_heads[0].bias.data[0] = float("nan")


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any, Any], None] | None], None]:
    """`sabotage(change)` lets `change(model, size)` spoil the model that is about to be traced."""
    from facex.exporters import _pivot
    from facex.exporters._rewrites import ImageModel

    def install(change: Callable[[Any, Any], None] | None) -> None:
        def build(detector: Any, size: Any, head: Any) -> Any:
            model = ImageModel(detector, size, head)
            model.contract = detector.contract
            if change:
                change(model, size)
            return model

        monkeypatch.setattr(_pivot, "ImageModel", build)

    return install


SABOTAGE = [_swapped_channels, _shifted_mean, _zeroed_head]
MORE_SABOTAGE = [_forgotten_mean, _wrong_activation, _zeroed_landmarks, _not_a_number]
CASES = [
    *(pytest.param(change, "decoded", id=f"{change.__name__[1:]} decoded") for change in (_wrong_anchors, *SABOTAGE)),
    *(
        pytest.param(change, head, id=f"{change.__name__[1:]} {head}", marks=pytest.mark.slow)
        for changes, head in ((MORE_SABOTAGE, "decoded"), ([*SABOTAGE, *MORE_SABOTAGE], "raw"))
        for change in changes
    ),
]
"""A raw head has no anchors inside that could be wrong."""


@pytest.fixture
def export(run_facex: Run, seeded_checkpoint: Path, photo_dir: Path) -> Run:
    def run(*options: object) -> Any:
        line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--out", "out")
        return run_facex(*line, "--images", photo_dir, *options)

    return run


def _nothing_was_promoted(out: Path) -> None:
    record = manifest.load(out / "manifest.json")
    assert record.artifacts
    assert not any(artifact.promoted for artifact in record.artifacts)
    assert {p.name for p in out.iterdir()} == {
        *("manifest.json", "report.json", "junit.xml", "report.html"),
        workspace.FOLDER,
    }


@pytest.mark.parametrize(("change", "head"), CASES)
def test_a_sabotaged_export_is_never_promoted(
    export: Run, tmp_path: Path, sabotage: Run, change: Callable[[Any, Any], None], head: str
) -> None:
    sabotage(change)
    assert export("--head", head).code == 3
    _nothing_was_promoted(tmp_path / "out")


def test_the_same_export_without_sabotage_is_promoted(export: Run, tmp_path: Path, sabotage: Run) -> None:
    sabotage(None)
    assert export().code == 0
    assert all(a.promoted for a in manifest.load(tmp_path / "out" / "manifest.json").artifacts)


def test_stale_weights_are_never_promoted(
    export: Run, tmp_path: Path, other_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facex.exporters import _pivot
    from facex.reference import detector

    stale = detector.load(other_checkpoint, ContractOptions())
    write = _pivot.write
    monkeypatch.setattr(_pivot, "write", lambda _, *rest: write(stale, *rest))
    assert export().code == 3
    _nothing_was_promoted(tmp_path / "out")


def test_a_file_damaged_after_its_conversion_is_never_promoted(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import numpy_helper

    from facex.exporters import onnx as target

    written = target.export

    def damaged(job: Any) -> None:
        written(job)
        model = onnx.load(str(job.path))
        largest = max(model.graph.initializer, key=lambda tensor: numpy_helper.to_array(tensor).size)
        spoiled = numpy_helper.to_array(largest).copy()
        spoiled[: len(spoiled) // 4] = 0
        largest.CopyFrom(numpy_helper.from_array(spoiled, largest.name))
        onnx.save(model, str(job.path))

    monkeypatch.setattr(target, "export", damaged)
    assert export().code == 3
    _nothing_was_promoted(tmp_path / "out")


@pytest.mark.parametrize("change", [_swapped_channels, _wrong_anchors], ids=["swapped channels", "wrong anchors"])
def test_sabotage_is_seen_by_check(
    run_facex: Run,
    seeded_checkpoint: Path,
    photo_dir: Path,
    tmp_path: Path,
    sabotage: Run,
    change: Callable[[Any, Any], None],
) -> None:
    sabotage(change)  # and no photographs at the export, so that only the noise could tell
    line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--out", "out")
    assert run_facex(*line, "--limit", "snr_db=-200").code == 0
    checked = run_facex(
        "check", tmp_path / "out" / "seeded_160x160_fp32.onnx", "--reference", seeded_checkpoint, "--images", photo_dir
    )
    assert checked.code == 3


def test_stale_weights_are_seen_by_check(
    run_facex: Run, exported: Path, other_checkpoint: Path, photo_dir: Path
) -> None:
    ran = run_facex("check", exported / "manifest.json", "--reference", other_checkpoint, "--images", photo_dir)
    assert ran.code == 3
    assert "warning: other.pth is not the checkpoint that the manifest was made from" in ran.err


def test_sabotage_is_seen_without_photographs(
    export: Run, run_facex: Run, seeded_checkpoint: Path, sabotage: Run
) -> None:
    sabotage(_shifted_mean)
    line = ("export", seeded_checkpoint, "--target", "onnx", "--size", "160x160", "--out", "out")
    assert run_facex(*line).code == 3
    record = manifest.load(Path("out/manifest.json"))
    assert {f.name.split(".")[0] for f in record.findings if f.verdict is Verdict.FAIL} == {"snr_db"}
