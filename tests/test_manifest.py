"""The manifest: its schema, its JSON, and how files come to their place."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facex.errors import ArtifactError
from facex.manifest import (
    Calibration,
    Evaluation,
    Manifest,
    Source,
    Stability,
    load,
    to_json,
    to_plain,
    write_text,
)
from facex.types import (
    Artifact,
    ChannelOrder,
    Contract,
    Credits,
    Finding,
    ForecastOperations,
    Head,
    Latency,
    LatencyKind,
    NeuralEngineForecast,
    Placement,
    Precision,
    Runtime,
    Selection,
    Settled,
    SettledBy,
    Size,
    TensorInfo,
    Verdict,
)

GOLDEN = Path(__file__).parent / "golden"
HOST = "host: Example CPU, linux x86_64"
NO_RUNTIME = "Core ML files cannot be run on Linux"


FORECAST = NeuralEngineForecast(
    operations=(
        ForecastOperations(
            operator="conv", count=56, placement=Placement.NEURAL_ENGINE, reason="float16", source="https://a.example"
        ),
        ForecastOperations(
            operator="transpose", count=9, placement=Placement.ELSEWHERE, reason="float32", source="https://b.example"
        ),
        ForecastOperations(operator="odd", count=1, placement=Placement.UNKNOWN, reason="no statement", source=""),
    ),
    resident_operation_fraction=0.625,
    resident_mac_fraction=1.0,
    transitions=9,
    first_elsewhere="transpose 't'",
    notes=("narrow tensors are padded",),
)


def _artifact(
    name: str, precision: Precision, size_bytes: int, *, integer: float = 0.0, failed: bool = False
) -> Artifact:
    target = {"onnx": "onnx", "tflite": "tflite", "mlpackage": "coreml"}[name.rsplit(".", 1)[1]]
    pixels = {"onnx": (1, 3, 640, 640), "tflite": (1, 640, 640, 3), "coreml": (1, 3, 640, 640)}[target]
    chooses = target == "tflite" and precision is Precision.W8A8
    rows = 100 if chooses else 16800
    return Artifact(
        path=f"facex-work/{name}.failed" if failed else name,
        target=target,
        precision=precision,
        head=Head.DETECTIONS if chooses else Head.DECODED,
        size=Size(height=640, width=640),
        size_bytes=size_bytes,
        sha256=f"{size_bytes:064x}",
        inputs=(TensorInfo(name="image", shape=pixels, dtype="uint8" if target == "tflite" else "float32"),),
        outputs=(
            TensorInfo(name="boxes", shape=(1, rows, 4), dtype="float32"),
            TensorInfo(name="scores", shape=(1, rows), dtype="float32"),
            TensorInfo(name="landmarks", shape=(1, rows, 10), dtype="float32"),
            *([TensorInfo(name="count", shape=(1,), dtype="int32")] if chooses else []),
        ),
        integer_mac_fraction=integer,
        minimum_runtime={"onnx": "opset 17", "tflite": "TensorFlow Lite 2.3", "coreml": "iOS 16"}[target],
        runtime={"onnx": "onnxruntime 1.20.0", "tflite": "ai-edge-litert 1.2.0", "coreml": None}[target],
        promoted=not failed,
        credits=Credits(author="Some Body, Example Org", license="MIT", version="2.1"),
        neural_engine_forecast=FORECAST if target == "coreml" else None,
        selection=Selection() if chooses else None,
    )


def _judged(
    artifact: str, name: str, unit: str, actual: float, limit: float | None, *, at_least: bool = False
) -> Finding:
    failed = limit is not None and (actual < limit if at_least else actual > limit)
    side = "below" if at_least else "above"
    reason = f"{actual:g} is {side} {limit:g}" if failed else ""
    verdict = Verdict.FAIL if failed else Verdict.PASS
    return Finding(name=name, artifact=artifact, unit=unit, actual=actual, limit=limit, verdict=verdict, reason=reason)


def _skipped(artifact: str, name: str, unit: str, limit: float | None, reason: str) -> Finding:
    return Finding(
        name=name,
        artifact=artifact,
        unit=unit,
        actual=None,
        limit=limit,
        verdict=Verdict.SKIPPED,
        reason=reason,
    )


def _parity(name: str, f1: float, lost: float, iou: float, nme: float, snr_db: float) -> list[Finding]:
    return [
        _judged(name, "matched_f1", "ratio", f1, 0.98, at_least=True),
        _judged(name, "lost_faces", "ratio", lost, 0.005),
        _judged(name, "box_iou_p5", "ratio", iou, 0.9, at_least=True),
        _judged(name, "landmark_nme_mean", "ratio", nme, 0.01),
        _judged(name, "snr_db.boxes", "dB", snr_db, None),
        _skipped(name, "ap_drop_*", "ratio", 0.01, "no --ground-truth was given"),
    ]


def _latency(name: str, p50_ms: float, **changes: Any) -> Latency:
    values: dict[str, Any] = {
        "artifact": name,
        "device": HOST,
        "kind": LatencyKind.MEASURED,
        "threads": 2,
        "runs": 50,
        "p50_ms": p50_ms,
        "low_ms": round(p50_ms * 0.75, 2),
        "high_ms": round(p50_ms * 1.5, 2),
        "method": "onnxruntime 1.20.0, CPU; 5 warm-up rounds",
    }
    return Latency(**(values | changes))


ONNX, FP16, INT8, CORE_ML = (
    "mnet_640x640_fp32.onnx",
    "mnet_640x640_fp16.tflite",
    "mnet_640x640_w8a8.tflite",
    "mnet_640x640_fp16.mlpackage",
)


def rich_manifest() -> Manifest:
    """A run with everything: passes, failures of both kinds, skips, two devices, an assumed contract."""
    contract = Contract(
        family="retinaface",
        backbone="mobilenetv1-0.25",
        activation_slope=0.1,
        pyramid_slope=0.1,
        strides=(8, 16, 32),
        min_sizes=((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)),
        variances=(0.1, 0.2),
        landmarks=5,
        channel_order=ChannelOrder.BGR,
        mean=(104.0, 117.0, 123.0),
        scale=(1.0, 1.0, 1.0),
    )
    sizes = {ONNX: 1.734, FP16: 0.912, INT8: 0.561, CORE_ML: 0.948}
    findings = [
        *_parity(ONNX, 1.0, 0, 0.99996, 0.0000021, 104.2),
        *_parity(FP16, 0.99871, 0, 0.9931, 0.000412, 61.7),
        *_parity(INT8, 0.87312, 0.1211, 0.7124, 0.05132, 17.3),
        *(_skipped(CORE_ML, f.name, f.unit, f.limit, NO_RUNTIME) for f in _parity(CORE_ML, 1, 0, 1, 0, 100)),
        *(_judged(name, "size", "MB", mb, 1.5) for name, mb in sizes.items()),
        _judged(ONNX, "latency", "ms", 47.125, 60),
        _judged(FP16, "latency", "ms", 118.75, None),
        _judged(INT8, "latency", "ms", 33.5, None),
        _skipped(CORE_ML, "latency", "ms", None, NO_RUNTIME),
    ]
    return Manifest(
        source=Source(
            checkpoint="mnet.pth",
            sha256="3f2a9c1b" * 8,
            contract=contract,
            assumed=("activation_slope", "min_sizes", "channel_order"),
            settled=(
                _settled("activation_slope", SettledBy.ASSUMED, 0.21, "no slope fits the photographs clearly best"),
                _settled("min_sizes", SettledBy.ASSUMED, 0.0, "too few neighbouring detections"),
                _settled("variances", SettledBy.PROBED, 0.74, "by the points of 351 detections"),
                _settled("channel_order", SettledBy.ASSUMED, None, ""),
                _settled("mean", SettledBy.STATED, None, ""),
                _settled("scale", SettledBy.PROBED, 0.98, "scale x1.03"),
            ),
        ),
        calibration=Calibration(
            count=2,
            digest="ab" * 32,
            method="min-max",
            effort="best",
            seed=3,
            photographs_with_faces=1,
            near_duplicates=0,
            stability=Stability(median=0.05125, worst=0.375, tensor="/stage1/conv"),
            sha256=("ab" * 32, "cd" * 32),
        ),
        evaluation=Evaluation(count=50, digest="cd" * 32, reference_faces=412),
        artifacts=(
            _artifact(ONNX, Precision.FP32, 1_734_000, failed=True),
            _artifact(FP16, Precision.FP16, 912_000),
            _artifact(INT8, Precision.W8A8, 561_000, integer=0.9987, failed=True),
            _artifact(CORE_ML, Precision.FP16, 948_000),
        ),
        findings=tuple(findings),
        latency=(
            _latency(ONNX, 47.125),
            _latency(FP16, 118.75, runs=41),
            _latency(INT8, 33.5),
            _latency(
                INT8,
                52.0,
                device="Example Phone",
                kind=LatencyKind.ESTIMATE,
                runs=0,
                threads=4,
                method="ratio",
                load_ms=31.5,
                memory_mb=6.25,
            ),
        ),
        tools={"facex": "0.1.0", "python": "3.11", "onnx": "1.17.0"},
    )


def _settled(field: str, how: SettledBy, confidence: float | None, evidence: str) -> Settled:
    return Settled(field=field, how=how, confidence=confidence, evidence=evidence)


@pytest.fixture
def rich() -> Manifest:
    return rich_manifest()


def _save(folder: Path, data: Any) -> Path:
    path = folder / "manifest.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_json_is_as_recorded(rich: Manifest) -> None:
    """The golden file is what the tests of the reports read, too. FACEX_REFRESH_GOLDEN=1 writes it anew."""
    golden = GOLDEN / "manifest.json"
    if os.environ.get("FACEX_REFRESH_GOLDEN") == "1":
        write_text(golden, to_json(rich))
    assert to_json(rich) == golden.read_text(encoding="utf-8")


def test_round_trip_gives_an_equal_manifest(tmp_path: Path, rich: Manifest) -> None:
    bare = dataclasses.replace(rich, calibration=None, evaluation=None, artifacts=(), findings=(), latency=())
    for manifest in (rich, rich.reproducible(), bare):
        assert load(_save(tmp_path, to_json(manifest))) == manifest


def test_stability_is_rounded_and_may_be_missing(tmp_path: Path, rich: Manifest) -> None:
    assert rich.calibration
    stability = Stability(median=0.0512345678, worst=1 / 3, tensor="x")
    known = dataclasses.replace(rich, calibration=dataclasses.replace(rich.calibration, stability=stability))
    assert to_plain(known)["calibration"]["stability"] == {"median": 0.0512346, "worst": 0.333333, "tensor": "x"}
    calibration = dataclasses.replace(rich.calibration, stability=None, photographs_with_faces=None)
    unknown = dataclasses.replace(rich, calibration=calibration)
    assert load(_save(tmp_path, to_json(unknown))) == unknown


def test_json_does_not_depend_on_the_order_of_a_mapping(rich: Manifest) -> None:
    backwards = dataclasses.replace(rich, tools=dict(reversed(rich.tools.items())))
    assert list(backwards.tools) != list(rich.tools)
    assert to_json(backwards) == to_json(rich)
    assert to_json(rich_manifest()) == to_json(rich)


def test_json_keeps_six_digits_of_a_float_and_all_of_an_integer(rich: Manifest) -> None:
    finding = dataclasses.replace(rich.findings[0], actual=0.123456789)
    artifact = dataclasses.replace(rich.artifacts[0], size_bytes=123_456_789)
    data = to_plain(dataclasses.replace(rich, findings=(finding,), artifacts=(artifact,)))
    assert data["findings"][0]["actual"] == 0.123457
    assert data["artifacts"][0]["size_bytes"] == 123_456_789


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_json_refuses_numbers_that_are_not_finite(rich: Manifest, value: float) -> None:
    finding = dataclasses.replace(rich.findings[0], actual=value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(dataclasses.replace(rich, findings=(finding,)))


_sixdigits = st.floats(-1e6, 1e6).map(lambda value: float(f"{value:.6g}"))
_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@st.composite
def _findings(draw: st.DrawFn) -> Finding:
    verdict = draw(st.sampled_from(Verdict))
    return Finding(
        name=draw(st.from_regex(r"[a-z][a-z0-9_.]{0,20}\*?", fullmatch=True)),
        artifact=draw(_texts),
        unit=draw(st.sampled_from(["ratio", "px", "dB", "MB", "ms", "1"])),
        actual=None if verdict is Verdict.SKIPPED else draw(_sixdigits),
        limit=draw(st.none() | _sixdigits),
        verdict=verdict,
        reason="" if verdict is Verdict.PASS else draw(_texts),
        runtime=draw(st.none() | st.sampled_from(Runtime)),
        device=draw(st.none() | _texts),
    )


@settings(max_examples=50, deadline=None)
@given(findings=st.lists(_findings(), max_size=4), tools=st.dictionaries(_texts, st.text(max_size=5), max_size=3))
def test_any_manifest_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, findings: list[Finding], tools: dict[str, str]
) -> None:
    manifest = dataclasses.replace(rich_manifest(), findings=tuple(findings), tools=tools)
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    write_text(path, to_json(manifest))
    assert load(path) == manifest


def test_reproducible_drops_only_the_latencies_without_a_limit(rich: Manifest) -> None:
    kept = rich.reproducible()
    assert {entry.artifact for entry in kept.latency} == {ONNX}
    assert [f.artifact for f in kept.findings if f.name == "latency"] == [ONNX]
    assert [f for f in kept.findings if f.name != "latency"] == [f for f in rich.findings if f.name != "latency"]
    assert dataclasses.replace(kept, findings=(), latency=()) == dataclasses.replace(rich, findings=(), latency=())


@pytest.mark.parametrize("name", ["load", "memory"])
def test_reproducible_keeps_the_latency_of_a_file_whose_start_was_limited(rich: Manifest, name: str) -> None:
    findings = (_judged(FP16, name, "ms", 40.0, 60.0), _judged(INT8, name, "ms", 40.0, None))
    kept = dataclasses.replace(rich, findings=findings).reproducible()
    assert kept.findings == findings[:1]
    assert {entry.artifact for entry in kept.latency} == {FP16}


@pytest.mark.parametrize("name", ["size", "latency", "load", "memory"])
def test_size_time_and_memory_are_budgets(rich: Manifest, name: str) -> None:
    assert dataclasses.replace(rich, findings=(_judged(ONNX, name, "1", 2.0, 1.5),)).exit_code == 4


def test_load_leaves_out_what_may_stand_beside_a_manifest_and_nothing_else(tmp_path: Path, rich: Manifest) -> None:
    path = _save(tmp_path, {**to_plain(rich), "command": "facex export"})
    assert load(path, besides=("command",)) == rich
    for besides in ((), ("timings_s",)):
        with pytest.raises(ArtifactError, match="command"):
            load(path, besides=besides)


def test_reproducible_form_is_the_same_for_other_times(rich: Manifest) -> None:
    slower = tuple(
        entry if entry.artifact == ONNX else dataclasses.replace(entry, p50_ms=999.0) for entry in rich.latency
    )
    assert to_json(dataclasses.replace(rich, latency=slower).reproducible()) == to_json(rich.reproducible())


# --- verdicts -----------------------------------------------------------------------------------------------

_OUTCOMES = {"parity fail": 3, "size fail": 4, "latency fail": 4, "skip": 0, "pass": 0}


def _one(kind: str) -> Finding:
    name = {"size fail": "size", "latency fail": "latency"}.get(kind, "matched_f1")
    if kind == "skip":
        return _skipped(ONNX, name, "ratio", 0.9, "no photographs")
    return _judged(ONNX, name, "1", 1.0 if kind == "pass" else 2.0, 1.5)


@pytest.mark.parametrize("kinds", [c for n in range(6) for c in itertools.combinations(_OUTCOMES, n)], ids="+".join)
def test_exit_code_of_every_combination(rich: Manifest, kinds: tuple[str, ...]) -> None:
    manifest = dataclasses.replace(rich, findings=tuple(map(_one, kinds)))
    expected = 3 if "parity fail" in kinds else max((_OUTCOMES[kind] for kind in kinds), default=0)
    assert manifest.exit_code == expected
    assert manifest.failed(ONNX) is (expected != 0)
    assert not manifest.failed(FP16)


def test_verdict_of_an_artifact(rich: Manifest) -> None:
    assert [rich.verdict(a.name) for a in rich.artifacts] == [
        Verdict.FAIL,  # its size
        Verdict.PASS,  # although its average precision was skipped
        Verdict.FAIL,
        Verdict.SKIPPED,  # although its size passed
    ]


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ((), None),
        ((_judged(ONNX, "size", "MB", 1.0, None),), None),
        ((_judged(ONNX, "latency", "ms", 1.0, 2.0),), Verdict.PASS),
        ((_judged(ONNX, "matched_f1", "ratio", 1.0, None, at_least=True),), None),
        (
            (
                _skipped(ONNX, "matched_f1", "ratio", 0.9, "no face"),
                _judged(ONNX, "snr_db.boxes", "dB", 9, 10),
            ),
            Verdict.SKIPPED,
        ),
        ((_skipped(ONNX, "latency", "ms", 5.0, "no time"),), Verdict.SKIPPED),
        (
            (_skipped(ONNX, "golden.lost", "1", 0.0, "not a Mac"), _judged(ONNX, "size", "MB", 1.0, 2.0)),
            Verdict.SKIPPED,
        ),
        (
            (_skipped(ONNX, "golden.file", "1", None, "another"), _judged(ONNX, "golden.lost", "1", 0.0, 0.0)),
            Verdict.PASS,
        ),
        ((_judged(FP16, "matched_f1", "ratio", 0.1, 0.9, at_least=True),), None),
    ],
)
def test_verdict_rests_on_faces(rich: Manifest, findings: tuple[Finding, ...], expected: Verdict | None) -> None:
    assert dataclasses.replace(rich, findings=findings).verdict(ONNX) is expected


_PASSED = _judged(ONNX, "matched_f1", "ratio", 1.0, 0.9, at_least=True)
_LOST = _judged(ONNX, "matched_f1", "ratio", 0.1, 0.9, at_least=True)
_UNSEEN = _skipped(ONNX, "matched_f1", "ratio", 0.9, "not a Mac")
_TOO_LARGE = _judged(ONNX, "size", "MB", 2.0, 1.0)


@pytest.mark.parametrize(
    ("executor", "native", "file", "verdicts", "whole"),
    [
        (_PASSED, _PASSED, (), (Verdict.PASS, Verdict.PASS), Verdict.PASS),
        (_PASSED, _UNSEEN, (), (Verdict.PASS, Verdict.SKIPPED), Verdict.SKIPPED),
        (_UNSEEN, _PASSED, (), (Verdict.SKIPPED, Verdict.PASS), Verdict.SKIPPED),
        (_PASSED, _LOST, (), (Verdict.PASS, Verdict.FAIL), Verdict.FAIL),
        (_UNSEEN, _LOST, (), (Verdict.SKIPPED, Verdict.FAIL), Verdict.FAIL),
        (_PASSED, _UNSEEN, (_TOO_LARGE,), (Verdict.FAIL, Verdict.FAIL), Verdict.FAIL),
    ],
)
def test_a_file_in_several_runtimes_is_as_good_as_the_worst_of_them(
    rich: Manifest,
    executor: Finding,
    native: Finding,
    file: tuple[Finding, ...],
    verdicts: tuple[Verdict, Verdict],
    whole: Verdict,
) -> None:
    runtimes = (Runtime.EXECUTOR, Runtime.NATIVE_GPU)
    told = [dataclasses.replace(f, runtime=r) for f, r in zip((executor, native), runtimes, strict=True)]
    manifest = dataclasses.replace(rich, findings=(*told, *file))
    assert manifest.runtimes(ONNX) == runtimes
    assert tuple(manifest.verdict_in(ONNX, runtime) for runtime in runtimes) == verdicts
    assert manifest.verdict(ONNX) is whole
    assert manifest.runtimes(FP16) == (None,)
