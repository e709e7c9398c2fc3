"""The Python API: the command line's equal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import facex
from facex import manifest
from facex.cli import cli
from facex.errors import CheckpointError, FacexError, MissingExtraError, UsageError
from facex.manifest import Manifest
from facex.recipe import DEFAULT_STEPS
from facex.types import ChannelOrder, Verdict

pytestmark = pytest.mark.slow  # each is a whole export or check

NAME = "seeded_160x160_fp32.onnx"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Recorder:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: Counter[str] = Counter()
        self._task = ""

    def start(self, task: str, total: int | None = None) -> None:
        self.said.append(task)
        self._task = task.split(" ")[0]

    def advance(self) -> None:
        self.steps[self._task] += 1

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")

    def say(self, text: str) -> None:
        self.said.append(text)


def test_export_returns_the_manifest(
    seeded_checkpoint: Path, photo_dir: Path, calib_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    progress = Recorder()
    found = facex.export(
        str(seeded_checkpoint),
        targets=["onnx"],
        precisions=["fp32"],
        int8=True,
        sizes=["160x160"],
        out="out",
        progress=progress,
        images=str(photo_dir),
        calib=str(calib_dir),
        int8_effort="minmax",
        seed=5,
        threads=1,
        limits=["w8a8.snr_db=200"],
        activation="leaky:0.1",
        mean="104,117,123",
    )
    assert isinstance(found, Manifest)
    assert found.exit_code == 3
    assert [(a.name, a.promoted) for a in found.artifacts] == [(NAME, True), ("seeded_160x160_w8a8.onnx", False)]
    assert manifest.to_json(manifest.load(tmp_path / "out" / "manifest.json")) == manifest.to_json(found.reproducible())
    assert json.loads((tmp_path / "out" / "report.json").read_text())["command"] == "facex.export()"
    assert progress.said[0] == f"reading {seeded_checkpoint.name}"
    assert progress.steps.pop("probing") >= 4  # runs over the photographs, at least one a slope
    assert progress.steps.total() == 4 + 4 + 6  # photographs read, watched, and compared
    told = found.calibration
    assert told
    assert (told.method, told.effort, told.seed) == ("minmax", "minmax", 5)
    assert any(text.startswith("warning: --calib") for text in progress.said)
    assert capfd.readouterr() == ("", "")


def test_values_and_texts_mean_the_same(exported: Path, seeded_checkpoint: Path) -> None:
    texts = {
        "activation": "leaky:0.2",
        "anchors": "16,32;64,128;256,512",
        "variances": "0.1,0.2",
        "channel_order": "rgb",
        "mean": "1,2,3",
        "scale": "1,1,1",
    }
    values = {
        "activation": 0.2,
        "anchors": [[16, 32], [64, 128], [256, 512]],
        "variances": (0.1, 0.2),
        "channel_order": ChannelOrder.RGB,
        "mean": [1, 2, 3],
        "scale": (1, 1, 1),
    }
    contracts = [
        facex.check(exported / NAME, reference=seeded_checkpoint, **options).source.contract
        for options in (texts, values)
    ]
    assert contracts[0] == contracts[1]
    assert contracts[0].activation_slope == 0.2
    assert contracts[0].mean == (1.0, 2.0, 3.0)


def test_check_returns_a_manifest(
    exported: Path, seeded_checkpoint: Path, other_checkpoint: Path, photo_dir: Path
) -> None:
    good = facex.check(exported / "manifest.json", reference=seeded_checkpoint, images=photo_dir)
    assert (good.exit_code, len(good.artifacts)) == (0, 2)
    stale = facex.check(exported / NAME, reference=str(other_checkpoint), images=photo_dir)
    assert (stale.exit_code, stale.verdict(NAME)) == (3, Verdict.FAIL)
    small = facex.check(exported / NAME, reference=seeded_checkpoint, precision="w8", max_size_mb=0.1)
    assert (small.exit_code, str(small.artifacts[0].precision)) == (4, "w8")


def test_bench_returns_timings(exported: Path) -> None:
    found = facex.bench(exported / NAME, exported / "seeded_160x160_fp16.onnx", runs=2, warmup=0, threads=1)
    assert [entry.artifact for entry in found.latency] == [NAME, "seeded_160x160_fp16.onnx"]
    assert {entry.runs for entry in found.latency} == {2}
    assert found.exit_code == 0
    assert facex.bench(exported / NAME, runs=1, max_latency_ms=1e-6).exit_code == 4


@pytest.mark.parametrize(
    "call",
    [
        lambda: facex.export("a.pth", colour="red"),
        lambda: facex.export("a.pth", warmup=3),
        lambda: facex.check("a_fp32.onnx", reference="a.pth", colour="red"),
        lambda: facex.bench("a_fp32.onnx", colour="red"),
        lambda: facex.bench("a_fp32.onnx", mean="1,2,3"),
    ],
)
def test_an_unknown_option_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match=r"unknown option (colour|warmup|mean)"):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "onnx"}, "targets 'onnx': must be several"),
        ({"sizes": "160x160"}, "sizes '160x160': must be several"),
        ({"precisions": "fp32"}, "precisions 'fp32': must be several"),
        ({"limits": "matched_f1=0.9"}, "limits 'matched_f1=0.9': must be several"),
        ({"targets": ["ncnn"]}, "--target ncnn: unknown"),
        ({"precisions": ["fp8"]}, "precisions fp8: unknown — choose from fp32, fp16, w8, p6, p4, w8a8"),
        ({"sizes": []}, "--size: give at least one"),
        ({"sizes": ["0"]}, "--size 0: must be positive"),
        ({"head": "half"}, "head half: unknown — choose from decoded, raw"),
        ({"channel_order": "gbr"}, "channel_order gbr: unknown — choose from bgr, rgb"),
        ({"activation": 2}, "is not relu or leaky:SLOPE"),
        ({"mean": (1, 2)}, "mean 1,2: is not 3 numbers"),
        ({"scale": (1, 0, 1)}, "scale 1,0,1: must be positive"),
        ({"anchors": [[1, "x"]]}, "--anchors 1,x: is not a list of numbers"),
        ({"limits": ["nonsense=1"]}, "no metric is called 'nonsense'"),
        ({"max_size_mb": float("nan")}, "--max-size-mb nan: must be a positive number"),
        ({"max_latency_ms": 0}, "--max-latency-ms 0: must be a positive number"),
        ({"threads": 0}, "--threads 0"),
        ({"threads": 10**6}, "--threads 1000000"),
        ({"opset": 5}, "--opset 5: must be 13 to 20"),
        ({"report_photographs": "all"}, "report_photographs all: unknown — choose from worst, none"),
        ({"int8_effort": "quick"}, "int8_effort quick: unknown — choose from minmax, fast, best"),
        ({"int8_steps": 0}, "--int8-steps 0: must be 1 or more"),
        ({"seed": -1}, "--seed -1: must be 0 or more"),
        ({"deployment_target": "iOS3"}, "--deployment-target iOS3: unknown"),
        ({"author": "a\0b"}, "--author 'a\\x00b': holds characters that no file can store"),
        ({"license": "\udcff"}, "--license '\\udcff': holds characters that no file can store"),
        ({"model_version": 2.1}, "--model-version 2.1: must be text"),
        ({"ground_truth": "gt.json"}, "--ground-truth needs the photographs"),
        ({"targets": ["onnx"], "int8": True}, "onnx w8a8 needs calibration photographs"),
    ],
    ids=str,
)
def test_mistakes_are_usage_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        facex.export("a.pth", **options)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: facex.check(reference="a.pth"), "no artifact was given"),
        (lambda: facex.bench(), "no artifact was given"),
        (lambda: facex.bench("a_fp32.onnx", runs=0), "--runs 0"),
        (lambda: facex.bench("a_fp32.onnx", warmup=-1), "--warmup -1"),
        (lambda: facex.bench("a_fp32.onnx", threads=0), "--threads 0"),
        (lambda: facex.check("a_fp32.onnx", reference="a.pth", max_size_mb=-1), "--max-size-mb -1"),
        (lambda: facex.check("a_fp32.onnx", reference="a.pth", ground_truth="gt.json"), "--ground-truth needs"),
        (lambda: facex.check("a_fp32.onnx", reference="a.pth", runtime=[]), "--runtime: give at least one"),
        (
            lambda: facex.check("a_fp32.onnx", reference="a.pth", runtime=["native"] * 2),
            "--runtime native: is given twice",
        ),
        (lambda: facex.check("a_fp32.onnx", reference="a.pth", runtime=["executor", "ane"]), "runtime ane: unknown"),
        (lambda: facex.check("a_fp32.onnx", reference="a.pth", runtime="ane"), "choose from executor, native,"),
        (lambda: facex.bench("a_fp32.onnx", runtime=["executor", "native"]), "choose from executor, native,"),
    ],
)
def test_mistakes_with_artifacts_are_usage_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)


def test_errors_have_exit_codes(tmp_path: Path, seeded_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError) as missing:
        facex.export("missing.pth", targets=["onnx"])
    assert missing.value.exit_code == 2
    monkeypatch.setattr("facex.exporters.version", lambda _: None)
    with pytest.raises(MissingExtraError) as lacking:
        facex.export(seeded_checkpoint, targets=["onnx"], sizes=["160x160"])
    assert lacking.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


RENAMED = {
    "export": {"--target": "targets", "--precision": "precisions", "--size": "sizes"},
    "bundle": {"--precision": "precisions"},
}
ONLY_IN_A_TERMINAL = {"--help", "--json", "--plan"}
ONLY_FOR_FILES = {("check", "--out"), ("check", "--report-photographs")}
SHORT_FOR_ANOTHER = {"--fp16", "--palettize", "--min-f1", "--max-nme"}


def _functions_option(command: str, option: click.Option) -> str | None:
    """The name of a command's option in Python; None where a function has no use for it."""
    flag = option.opts[0]
    if flag in ONLY_IN_A_TERMINAL | SHORT_FOR_ANOTHER or (command, flag) in ONLY_FOR_FILES:
        return None
    renamed = {"--limit": "limits", **RENAMED.get(command, {})}.get(flag)
    return renamed or flag[2:].replace("-", "_")


OPTIONS = [
    (command, name)
    for command in ("export", "check", "bench", "bundle")
    for param in cli.commands[command].params
    if isinstance(param, click.Option) and (name := _functions_option(command, param))
]


@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_every_option_of_the_command_line_is_an_option_of_the_function(command: str, name: str) -> None:
    options = {name: None} if command != "check" else {"reference": "missing.pth", name: None}
    with pytest.raises((FacexError, TypeError)) as caught:
        getattr(facex, command)("missing_fp32.onnx", **options)
    assert "unknown option" not in str(caught.value)
    assert "unexpected keyword" not in str(caught.value)


def test_the_package_offers_what_it_says() -> None:
    assert set(facex.__all__) == {
        *("__version__", "bench", "bundle", "check", "diff", "export", "identify", "identify_file"),
    }
    assert all(hasattr(facex, name) for name in facex.__all__)


def test_options_of_int8_reach_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def plan(recipe: Any) -> Any:
        asked.append(recipe)
        raise UsageError("far enough")

    monkeypatch.setattr("facex.pipeline.plan", plan)
    for options in ({"int8_effort": "fast", "int8_steps": 30, "seed": 4}, {}):
        with pytest.raises(UsageError, match="far enough"):
            facex.export("a.pth", int8=True, calib="c", **options)
    assert [(str(r.effort), r.steps, r.seed) for r in asked] == [("fast", 30, 4), ("best", DEFAULT_STEPS, 0)]
