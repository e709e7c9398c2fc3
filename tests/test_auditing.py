"""`facex export --fp32-ops auto`: what half precision breaks is kept in single precision, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import facex
from facex import manifest, pipeline
from facex.errors import EXIT_INPUT, EXIT_PARITY, PhotographError, UsageError
from facex.exporters import coreml
from facex.recipe import Recipe
from facex.types import Fp32Ops, Precision

Run = Callable[..., Any]
FP16, FP32, W8 = Precision.FP16, Precision.FP32, Precision.W8


def _recipe(**changes: Any) -> Recipe:
    return Recipe(**{"checkpoint": Path("no.pth"), "fp32_ops": Fp32Ops.AUTO, "calib": Path("calib"), **changes})


def _overflowing(state: dict[str, Any]) -> None:
    """The same function: a depthwise convolution's result is 1e5 times as large, the next weights as much smaller."""
    for name in ("weight", "bias"):
        state[f"body.stage1.2.1.{name}"] *= 1e5
    state["body.stage1.2.3.weight"] /= 1e5


def _underflowing(state: dict[str, Any]) -> None:
    """The same function: a result is 1e7 times as small, which the next two convolutions make up for together."""
    for name in ("weight", "bias"):
        state[f"body.stage1.2.1.{name}"] *= 1e-7
    state["body.stage1.2.4.running_mean"] *= 1e-7
    state["body.stage1.2.4.weight"] *= 1e4
    state["body.stage1.2.4.bias"] *= 1e-3
    state["body.stage1.3.0.weight"] /= 1e-3


HARMS = [(_overflowing, "overflow"), (_underflowing, "underflow")]


@pytest.fixture
def export(run_facex: Run, photo_dir: Path, calib_dir: Path, quick_pivot: None) -> Callable[..., Any]:
    def run(checkpoint: Path, out: str, *options: object) -> Any:
        small = ("--target", "coreml", "--size", "160x160", "--images", photo_dir, "--calib", calib_dir)
        # an untrained network has priors just at the threshold, which even ordinary rounding moves over it
        return run_facex("export", checkpoint, *small, "--limit", "matched_f1=0.97", "--out", out, *options)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("harm", "word"), HARMS)
def test_what_half_precision_breaks_is_named_and_kept(
    export, seeded_checkpoint, seeded_state, tmp_path, run_facex, harm, word
):
    import torch

    state = seeded_state()
    harm(state)
    path = tmp_path / "harmed.pth"
    torch.save(state, path)
    assert export(path, "single", "--precision", "fp32").code == 0  # the detector itself is sound
    assert export(path, "half").code == EXIT_PARITY
    ran = export(path, "kept", "--fp32-ops", "auto")
    assert ran.code == 0, ran.out
    package = tmp_path / "kept" / "harmed_160x160_fp16.mlpackage"
    kept = coreml.describe(package).metadata["facex.fp32_ops"].split(", ")
    assert 3 <= len(kept) <= 4
    assert f"{len(kept)} operations stay in float32: {', '.join(kept)}" in ran.err
    assert f": {word}: " in ran.err
    shown = run_facex("inspect", package)
    assert f"fp32_ops           {', '.join(kept)}" in shown.out
    assert [p.name for p in (tmp_path / "kept").iterdir() if "single" in p.name] == []


@pytest.mark.slow
def test_a_healthy_detector_gives_the_same_bytes_as_without(export, seeded_checkpoint, tmp_path, calib_dir, content):
    plain = export(seeded_checkpoint, "plain")
    audited = export(seeded_checkpoint, "audited", "--fp32-ops", "auto")
    assert plain.code == audited.code == 0, plain.out
    assert "nothing is endangered by half precision; the largest of" in audited.err
    name = "seeded_160x160_fp16.mlpackage"
    packages = [tmp_path / out / name for out in ("plain", "audited")]
    assert content(packages[0]) == content(packages[1])
    assert "facex.fp32_ops" not in coreml.describe(packages[1]).metadata
    used = manifest.load(tmp_path / "audited" / "manifest.json").calibration
    assert used is not None
    assert (used.count, used.effort) == (4, None)
    assert set(used.sha256) == {manifest.sha256_of(path) for path in calib_dir.iterdir()}
    assert manifest.load(tmp_path / "plain" / "manifest.json").calibration is None


def test_photographs_for_parity_are_not_those_of_the_audit(seeded_checkpoint, photo_dir, tmp_path):
    with pytest.raises(PhotographError, match="--images and --calib share"):
        facex.export(
            seeded_checkpoint, targets=["coreml"], sizes=["160x160"], fp32_ops="auto", calib=photo_dir,
            images=photo_dir, out=tmp_path / "out",
        )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": ("onnx", "tflite")},
        {"targets": ("coreml",), "precisions": (FP32,)},
        {"targets": ("onnx",), "precisions": (FP16,)},
    ],
)
def test_without_a_file_in_half_precision_there_is_nothing_to_keep(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--fp32-ops auto: none of these files computes in half precision") as caught:
        pipeline.plan(_recipe(**changes))
    assert caught.value.exit_code == EXIT_INPUT
    assert "--target coreml --precision fp16" in caught.value.hint


@pytest.mark.parametrize("precision", [FP16, W8])
def test_photographs_are_needed(precision: Precision) -> None:
    with pytest.raises(UsageError, match="--fp32-ops auto needs calibration photographs") as caught:
        pipeline.plan(_recipe(targets=("coreml",), precisions=(precision,), calib=None))
    assert "--calib FOLDER" in caught.value.hint


def test_the_plan_says_which_photographs() -> None:
    assert "calibration: calib" in str(pipeline.plan(_recipe(targets=("coreml",))))
    bundled = _recipe(checkpoint=None, targets=("coreml",), precisions=(FP16,), calib=None)
    assert "calibration: photographs that facex renders" in str(pipeline.plan(bundled))
    unasked = _recipe(checkpoint=None, targets=("coreml",), precisions=(FP16,), calib=None, fp32_ops=Fp32Ops.NONE)
    assert "calibration: none needed" in str(pipeline.plan(unasked))


def test_the_option_is_one_of_two_words(run_facex: Run) -> None:
    ran = run_facex("export", "a.pth", "--fp32-ops", "all", "--plan")
    assert ran.code == EXIT_INPUT
    assert "auto" in ran.error
    with pytest.raises(UsageError, match="fp32_ops all: unknown — choose from none, auto"):
        facex.export("a.pth", fp32_ops="all")
    ran = run_facex("export", "a.pth", "--target", "coreml", "--fp32-ops", "auto", "--calib", "c", "--plan", "--json")
    assert json.loads(ran.out)["recipe"]["fp32_ops"] == "auto"
