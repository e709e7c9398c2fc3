"""`facex check` in several runtimes of a Core ML file at once; Core ML itself is replaced at its outermost call."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import facex
from facex.types import Runtime, Verdict

pytestmark = pytest.mark.slow

Outputs = dict[str, np.ndarray]
BOTH = ("--runtime", "executor", "--runtime", "native-ane")
FACES = {"matched_f1", "box_iou_p5", "landmark_nme_mean"}
TENSORS = {f"{group}.{name}" for group in ("snr_db", "max_abs") for name in ("boxes", "scores", "landmarks")}


class Mac:
    """Stands for a Mac: Core ML's call gives what the executor computes, and then errs.

    Attributes:
        errors: compute units -> what they do to the outputs.
        calls: the compute units of every call.
    """

    def __init__(self) -> None:
        self.errors: dict[str, Callable[[Outputs], Outputs]] = {}
        self.calls: list[str] = []

    def predict(self, package: str, units: str, image: Any) -> Outputs:
        from facex.exporters import coreml

        self.calls.append(units)
        outputs = coreml.open_session(Path(package), threads=1)({"image": np.asarray(image)[None]})
        return self.errors.get(units, dict)(outputs)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Mac:
    import coremltools as ct

    from facex.exporters import coreml

    found = Mac()
    load = ct.models.MLModel.__init__

    def init(model: Any, path: Any, **options: Any) -> None:
        load(model, path, **options)
        if "compute_units" in options:
            model.asked = path, options["compute_units"].name

    monkeypatch.setattr(ct.models.MLModel, "__init__", init)
    monkeypatch.setattr(ct.models.MLModel, "predict", lambda model, data: found.predict(*model.asked, data["image"]))
    monkeypatch.setattr(coreml.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(coreml.platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    return found


@pytest.fixture(scope="module")
def package(seeded_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In single precision: an untrained network is not held together by half."""
    out = tmp_path_factory.mktemp("export")
    record = facex.export(seeded_checkpoint, targets=["coreml"], precisions=["fp32"], sizes=["160x160"], out=out)
    return out / record.artifacts[0].path


@pytest.fixture
def check(run_facex: Callable[..., Any], seeded_checkpoint: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        ran = run_facex("check", *arguments, "--reference", seeded_checkpoint, "--threads", 1, "--json")
        assert ran.out, ran.err
        return ran.code, json.loads(ran.out)

    return run


def _values(found: dict[str, Any], runtime: str | None, prefix: str = "") -> dict[str, float]:
    """The findings of a runtime by name; those held against the executor where `prefix` says so."""
    own = [f for f in found["findings"] if f["runtime"] == runtime]
    names = {f["name"]: f["actual"] for f in own if f["name"].startswith("vs_executor.") == bool(prefix)}
    return {name.removeprefix(prefix): value for name, value in names.items()}


def _failed(found: dict[str, Any]) -> set[tuple[str, str | None]]:
    return {(f["name"], f["runtime"]) for f in found["findings"] if f["verdict"] == "fail"}


def _shifted(outputs: Outputs) -> Outputs:
    """Every point four pixels to the right and down: no face is lost, and its points are wrong."""
    return outputs | {"landmarks": outputs["landmarks"] + np.float32(4)}


def test_runtimes_that_agree_pass_and_each_says_which_it_is(check, package, photo_dir, mac):
    code, found = check(package, "--images", photo_dir, *BOTH)
    assert code == 0
    assert [a["path"] for a in found["artifacts"]] == [package.name]
    text = found["artifacts"][0]["runtime"]
    assert text.startswith("executor: facex's executor")
    assert text.endswith("; native-ane: Core ML of macOS 15.1, compute units CPU_AND_NE")
    assert _values(found, "executor") == pytest.approx(_values(found, "native-ane") | {"latency": None})
    beside = _values(found, "native-ane", "vs_executor.")
    assert beside.keys() == FACES | TENSORS
    assert (beside["matched_f1"], beside["box_iou_p5"], beside["landmark_nme_mean"]) == (1, 1, 0)
    assert {value for name, value in beside.items() if name.startswith("snr_db.")} == {200}
    assert not _values(found, "executor", "vs_executor.")
    assert {f["name"] for f in found["findings"] if f["runtime"] is None} == {"size"}
    assert found["evaluation"]["count"] == 6


def test_only_core_ml_itself_is_timed(check, package, photo_dir, mac):
    code, found = check(package, "--images", photo_dir, *BOTH, "--runtime", "native-cpu", "--max-latency-ms", 1e6)
    assert code == 0
    assert [(entry["artifact"], entry["runtime"]) for entry in found["latency"]] == [
        (package.name, "native-ane"),
        (package.name, "native-cpu"),
    ]
    assert "CPU_ONLY" in found["latency"][1]["method"]
    verdicts = {f["runtime"]: f["verdict"] for f in found["findings"] if f["name"] == "latency"}
    assert verdicts == {"executor": "skipped", "native-ane": "pass", "native-cpu": "pass"}


def test_each_photograph_is_run_once_in_each_runtime(check, package, photo_dir, mac):
    code, _ = check(package, "--images", photo_dir, *BOTH, "--runtime", "native")
    assert code == 0
    # and for the times: once to load, five to warm up, twenty
    assert {units: mac.calls.count(units) for units in set(mac.calls)} == {"CPU_AND_NE": 6 + 26, "ALL": 6 + 26}


def test_a_runtime_that_errs_is_red_alone(check, package, photo_dir, mac):
    mac.errors["CPU_AND_NE"] = _shifted
    code, found = check(package, "--images", photo_dir, *BOTH, "--runtime", "native-cpu")
    assert code == 3
    failed = _failed(found)
    assert {("landmark_nme_mean", "native-ane"), ("vs_executor.landmark_nme_mean", "native-ane")} <= failed
    assert {runtime for _, runtime in failed} == {"native-ane"}
    beside = _values(found, "native-ane", "vs_executor.")
    assert beside["max_abs.landmarks"] == pytest.approx(4, rel=1e-4)
    assert (beside["matched_f1"], beside["box_iou_p5"], beside["snr_db.boxes"]) == (1, 1, 200)
    assert _values(found, "native-cpu", "vs_executor.")["max_abs.landmarks"] == 0


def test_the_figures_are_those_of_the_executor_s_own_outputs(check, package, photo_dir, mac):
    """Recomputed from the package, with noise whose size is known."""
    from facex.exporters import coreml
    from facex.reference import photographs

    def noisy(outputs: Outputs) -> Outputs:
        noise = np.where(np.arange(outputs["boxes"].size).reshape(outputs["boxes"].shape) % 2, 0.5, -0.5)
        return outputs | {"boxes": outputs["boxes"] + noise.astype(np.float32)}

    mac.errors["CPU_AND_NE"] = noisy
    _, found = check(package, "--images", photo_dir, *BOTH)
    session = coreml.open_session(package, threads=1)
    signal, count = 0.0, 0
    for picture in photographs.find(photo_dir, option="--images"):
        pixels = photographs.letterbox(
            photographs.load(picture.path), facex.recipe.parse_size("160"), (123.0, 117.0, 104.0)
        ).pixels
        boxes = session({"image": pixels[None]})["boxes"].astype(np.float64)
        signal, count = signal + float((boxes**2).sum()), count + boxes.size
    beside = _values(found, "native-ane", "vs_executor.")
    assert beside["snr_db.boxes"] == pytest.approx(10 * np.log10(signal / (0.25 * count)), abs=0.01)
    assert beside["max_abs.boxes"] == pytest.approx(0.5, abs=1e-4)
    assert beside["snr_db.landmarks"] == 200


@pytest.mark.parametrize(
    ("limit", "code"),
    [("vs_executor.max_abs.landmarks=3.9", 3), ("vs_executor.max_abs.landmarks=4.1", 0)],
)
def test_the_user_s_limits_hold_between_runtimes(check, package, photo_dir, mac, limit, code):
    mac.errors["CPU_AND_NE"] = _shifted
    loose = ("landmark_nme_mean=1", "landmark_error_max_px=10", "snr_db=0", "vs_executor.snr_db=0",
             "vs_executor.landmark_nme_mean=1", limit)  # fmt: skip
    found_code, found = check(package, "--images", photo_dir, *BOTH, *(x for text in loose for x in ("--limit", text)))
    assert found_code == code
    assert _failed(found) == ({("vs_executor.max_abs.landmarks", "native-ane")} if code else set())


@pytest.mark.parametrize(
    "error",
    [
        lambda o: o | {"scores": np.full_like(o["scores"], np.nan)},
        lambda o: o | {"boxes": o["boxes"][..., [1, 0, 3, 2]]},
        lambda o: {name: values[:, ::-1] for name, values in o.items() if name != "scores"} | {"scores": o["scores"]},
        lambda o: {name: np.zeros_like(values) for name, values in o.items()},
    ],
    ids=["nan", "swapped corners", "permuted priors", "zeros"],
)
def test_sabotage_of_the_runtime_is_red(check, package, photo_dir, mac, error):
    mac.errors["CPU_AND_NE"] = error
    code, found = check(package, "--images", photo_dir, *BOTH)
    assert code == 3
    failed = _failed(found)
    assert any(name.startswith("vs_executor.") for name, _ in failed)
    assert {runtime for _, runtime in failed} == {"native-ane"}


def test_without_photographs_tensors_are_compared_and_faces_skipped(check, package, mac):
    mac.errors["CPU_AND_NE"] = _shifted
    code, found = check(package, *BOTH)
    assert code == 3
    beside = _values(found, "native-ane", "vs_executor.")
    assert beside.keys() == {"matched_f1", *TENSORS}
    assert beside["matched_f1"] is None
    assert beside["max_abs.landmarks"] == pytest.approx(4, rel=1e-4)


def test_without_the_executor_runtimes_are_held_against_the_reference_alone(check, package, photo_dir, mac):
    line = ("--runtime", "native", "--runtime", "native-cpu", "--limit", "vs_executor.matched_f1=0.9")
    code, found = check(package, "--images", photo_dir, *line)
    assert code == 0
    beside = [f for f in found["findings"] if f["name"].startswith("vs_executor.")]
    assert [(f["name"], f["runtime"], f["verdict"]) for f in beside] == [
        ("vs_executor.matched_f1", "native", "skipped"),
        ("vs_executor.matched_f1", "native-cpu", "skipped"),
    ]
    assert "--runtime executor --runtime native" in beside[0]["reason"]
    assert _values(found, "native")["matched_f1"] == 1


def test_files_of_other_targets_are_run_once(check, package, exported, photo_dir, mac):
    code, found = check(package, exported / "seeded_160x160_fp32.onnx", "--images", photo_dir, *BOTH)
    assert code == 0
    ours = [f for f in found["findings"] if f["artifact"].endswith(".onnx")]
    assert {f["runtime"] for f in ours} == {None}
    assert len({f["name"] for f in ours}) == len(ours)
    assert [a["runtime"].split()[0] for a in found["artifacts"]] == ["executor:", "onnxruntime"]


def test_the_reports_show_the_runtime(run_facex, package, photo_dir, seeded_checkpoint, mac, tmp_path):
    mac.errors["CPU_AND_NE"] = _shifted
    line = ("--reference", seeded_checkpoint, "--images", photo_dir, "--threads", 1, "--out", tmp_path / "ci")
    ran = run_facex("check", package, *line, *BOTH)
    assert ran.code == 3
    table = ran.out.split("\n\n")[0].splitlines()
    assert [line.split()[:3] for line in table if package.name in line] == [
        ["pass", package.name, "executor"],
        ["FAIL", package.name, "native-ane"],
    ]
    assert f"FAIL  {package.name} in native-ane  vs_executor.landmark_nme_mean" in ran.out
    assert f"{package.name} in native-ane: F1 1.000; IoU p5 1.000; NME 0." in ran.out
    cases = [case.get("name") for case in ElementTree.parse(tmp_path / "ci" / "junit.xml").iter("testcase")]
    assert len(set(cases)) == len(cases)
    assert {"matched_f1 in executor", "matched_f1 in native-ane", "vs_executor.matched_f1 in native-ane"} <= set(cases)


@pytest.mark.skipif(platform.system() == "Darwin", reason="this is a Mac")
def test_off_a_mac_the_executor_is_judged_and_the_rest_skipped_with_the_reason(check, package, photo_dir):
    code, found = check(package, "--images", photo_dir, *BOTH)
    assert code == 0
    assert _values(found, "executor")["matched_f1"] == 1
    native = [f for f in found["findings"] if f["runtime"] == "native-ane"]
    assert [(f["name"], f["verdict"]) for f in native] == [
        ("matched_f1", "skipped"),
        ("vs_executor.matched_f1", "skipped"),
        ("latency", "skipped"),
    ]
    assert all("Core ML runs on macOS only" in f["reason"] for f in native)


@pytest.mark.skipif(platform.system() == "Darwin", reason="this is a Mac")
def test_off_a_mac_the_file_does_not_pass_as_a_whole(run_facex, package, photo_dir, seeded_checkpoint):
    record = facex.check(package, reference=seeded_checkpoint, images=photo_dir, runtime=["executor", Runtime.NATIVE])
    assert record.verdict(package.name) is Verdict.SKIPPED
    assert record.verdict_in(package.name, Runtime.EXECUTOR) is Verdict.PASS
    ran = run_facex("check", package, "--reference", seeded_checkpoint, "--images", photo_dir, *BOTH)
    assert "1 artifact, 1 not compared in every runtime" in ran.out


def test_one_runtime_in_python_is_one_word(package, seeded_checkpoint, photo_dir, mac):
    for runtime in ("native", Runtime.NATIVE, ["native"]):
        record = facex.check(package, reference=seeded_checkpoint, images=photo_dir, runtime=runtime)
        assert record.artifacts[0].runtime == "Core ML of macOS 15.1, compute units ALL"
        assert {f.runtime for f in record.findings} == {None}
