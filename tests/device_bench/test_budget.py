"""Sizes and latencies against their limits."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import pytest

from facex.device_bench.budget import latency_findings, size_findings
from facex.recipe import Budget
from facex.types import (
    Artifact,
    BandEnd,
    Finding,
    Head,
    Latency,
    LatencyKind,
    Precision,
    Runtime,
    Size,
    Verdict,
    as_plain,
)

Make = Callable[..., Artifact]


@pytest.fixture
def artifact() -> Make:
    def make(path: str = "a_64x64_fp32.onnx", size_bytes: int = 1_710_000) -> Artifact:
        return Artifact(
            path=path,
            target="onnx",
            precision=Precision.FP32,
            head=Head.DECODED,
            size=Size(height=64, width=64),
            size_bytes=size_bytes,
            sha256="0" * 64,
            inputs=(),
            outputs=(),
            integer_mac_fraction=0.0,
            minimum_runtime="",
            runtime=None,
            promoted=False,
        )

    return make


def _latency(name: str, p50_ms: float) -> Latency:
    return Latency(
        artifact=name,
        device="host: x",
        kind=LatencyKind.MEASURED,
        threads=1,
        runs=50,
        p50_ms=p50_ms,
        low_ms=1.0,
        high_ms=500.0,
        method="m",
    )


def _most(limit_ms: float | None) -> Budget:
    return Budget(max_latency_ms=limit_ms)


TABLE = [
    # actual, limit, verdict, words of the reason
    (1.71, None, Verdict.PASS, ""),
    (1.71, 2.0, Verdict.PASS, ""),
    (1.71, 1.71, Verdict.PASS, ""),
    (1.71, 1.7, Verdict.FAIL, "1.71 {unit} is above the limit of 1.7 {unit}"),
]


@pytest.mark.parametrize(("actual", "limit", "verdict", "reason"), TABLE)
def test_size(artifact: Make, actual: float, limit: float | None, verdict: Verdict, reason: str) -> None:
    (finding,) = size_findings([artifact(size_bytes=round(actual * 1e6))], Budget(max_size_mb=limit))
    assert (finding.name, finding.artifact, finding.unit) == ("size", "a_64x64_fp32.onnx", "MB")
    assert finding.actual == pytest.approx(actual)
    assert finding.limit is limit
    assert finding.verdict is verdict
    assert reason.format(unit="MB") in finding.reason
    assert bool(finding.reason) is (verdict is Verdict.FAIL)


@pytest.mark.parametrize(("actual", "limit", "verdict", "reason"), TABLE)
def test_latency(artifact: Make, actual: float, limit: float | None, verdict: Verdict, reason: str) -> None:
    (finding,) = latency_findings([artifact()], [_latency("a_64x64_fp32.onnx", actual)], _most(limit), {})
    assert (finding.name, finding.artifact, finding.unit) == ("latency", "a_64x64_fp32.onnx", "ms")
    assert finding.actual == actual
    assert finding.limit is limit
    assert finding.verdict is verdict
    assert reason.format(unit="ms") in finding.reason
    assert bool(finding.reason) is (verdict is Verdict.FAIL)


@pytest.mark.parametrize("limit", [None, 10.0])
@pytest.mark.parametrize("actual", [math.nan, math.inf, -math.inf])
def test_a_latency_that_is_not_finite_fails_with_and_without_a_limit(
    artifact: Make, actual: float, limit: float | None
) -> None:
    (finding,) = latency_findings([artifact()], [_latency("a_64x64_fp32.onnx", actual)], _most(limit), {})
    assert finding.verdict is Verdict.FAIL
    assert finding.actual is None
    assert f"{actual} ms is not a finite number" in finding.reason


def test_a_finding_that_is_not_finite_can_be_written_to_json(artifact: Make) -> None:
    findings = latency_findings([artifact()], [_latency("a_64x64_fp32.onnx", math.nan)], _most(10.0), {})
    assert json.loads(json.dumps(as_plain(findings), allow_nan=False))[0]["verdict"] == "fail"


@pytest.mark.parametrize(
    ("skipped", "reason"),
    [
        ({"a.mlpackage": "Core ML runs on macOS only"}, "Core ML runs on macOS only"),
        ({}, "no latency was measured"),
    ],
)
@pytest.mark.parametrize("limit", [None, 10.0])
def test_no_latency_is_skipped_with_the_reason(
    artifact: Make, skipped: dict[str, str], reason: str, limit: float | None
) -> None:
    others = [_latency("b.onnx", 1.0)]
    (finding,) = latency_findings([artifact("a.mlpackage")], others, _most(limit), skipped)
    assert finding == Finding(
        name="latency",
        artifact="a.mlpackage",
        unit="ms",
        actual=None,
        limit=limit,
        verdict=Verdict.SKIPPED,
        reason=reason,
    )


def test_findings_follow_the_order_of_the_artifacts_and_name_files_without_folder_or_mark(
    artifact: Make,
) -> None:
    artifacts = [artifact("work/b.tflite.failed", 2_000_000), artifact("a.onnx", 1_000_000)]
    assert [(f.artifact, f.actual) for f in size_findings(artifacts, Budget())] == [
        ("b.tflite", 2.0),
        ("a.onnx", 1.0),
    ]
    latencies = [_latency("a.onnx", 5.0), _latency("b.tflite", 7.0), _latency("gone.onnx", 9.0)]
    found = latency_findings(artifacts, latencies, _most(6.0), {})
    assert [(f.artifact, f.actual, f.verdict) for f in found] == [
        ("b.tflite", 7.0, Verdict.FAIL),
        ("a.onnx", 5.0, Verdict.PASS),
    ]


def test_every_latency_of_an_artifact_is_judged(artifact: Make) -> None:
    found = latency_findings([artifact("a.onnx")], [_latency("a.onnx", 5.0), _latency("a.onnx", 50.0)], _most(10.0), {})
    assert [f.verdict for f in found] == [Verdict.PASS, Verdict.FAIL]


def test_each_runtime_is_judged_by_its_own_latencies(artifact: Make) -> None:
    fast, slow = (
        dataclasses.replace(_latency("a.mlpackage", p50), runtime=runtime)
        for p50, runtime in ((5.0, Runtime.NATIVE_ANE), (50.0, Runtime.NATIVE_CPU))
    )
    verdicts = {
        runtime: [(f.actual, f.verdict, f.runtime) for f in found]
        for runtime in (Runtime.NATIVE_ANE, Runtime.NATIVE_CPU, Runtime.EXECUTOR, None)
        if (found := latency_findings([artifact("a.mlpackage")], [fast, slow], _most(10.0), {}, runtime))
    }
    assert verdicts == {
        Runtime.NATIVE_ANE: [(5.0, Verdict.PASS, Runtime.NATIVE_ANE)],
        Runtime.NATIVE_CPU: [(50.0, Verdict.FAIL, Runtime.NATIVE_CPU)],
        Runtime.EXECUTOR: [(None, Verdict.SKIPPED, Runtime.EXECUTOR)],
        None: [(None, Verdict.SKIPPED, None)],
    }


def test_no_artifacts() -> None:
    assert size_findings([], Budget(max_size_mb=1.0)) == ()
    assert latency_findings([], [_latency("a.onnx", 5.0)], _most(1.0), {}) == ()


# --- devices ------------------------------------------------------------------------------------------------

PHONE = "pixel-4"


def _estimate(name: str = "a_64x64_fp32.onnx") -> Latency:
    """A band of 8 to 15 ms around 11 ms for a phone."""
    return dataclasses.replace(
        _latency(name, 11.0), device=f"{PHONE}: Snapdragon 855", kind=LatencyKind.ESTIMATE, low_ms=8.0, high_ms=15.0
    )


def _told(findings: tuple[Finding, ...]) -> list[tuple[str, str | None, float | None, float | None, Verdict]]:
    return [(f.name, f.device, f.actual, f.limit, f.verdict) for f in findings]


@pytest.mark.parametrize(
    ("compare", "figure", "verdict", "words"),
    [
        (BandEnd.UPPER, 15.0, Verdict.FAIL, "upper end of the estimate, 15 ms is above the limit of 12 ms"),
        (BandEnd.MEDIAN, 11.0, Verdict.PASS, ""),
        (BandEnd.LOWER, 8.0, Verdict.PASS, ""),
    ],
)
def test_a_budget_chooses_the_figure_of_an_estimate(
    artifact: Make, compare: BandEnd, figure: float, verdict: Verdict, words: str
) -> None:
    phone = Budget(device=PHONE, max_latency_ms=12.0, compare=compare)
    found = latency_findings([artifact()], [_estimate()], Budget(others=(phone,)), {})
    assert _told(found) == [
        ("latency", None, None, None, Verdict.SKIPPED),
        ("latency", PHONE, figure, 12.0, verdict),
    ]
    assert found[1].reason == words


@pytest.mark.parametrize("compare", BandEnd)
def test_of_a_measurement_the_median_is_judged_whatever_the_band(artifact: Make, compare: BandEnd) -> None:
    budget = Budget(max_latency_ms=6.0, compare=compare)
    (finding,) = latency_findings([artifact()], [_latency("a_64x64_fp32.onnx", 5.0)], budget, {})
    assert (finding.actual, finding.verdict) == (5.0, Verdict.PASS)


@pytest.mark.parametrize("kind", [LatencyKind.MEASURED, LatencyKind.EMULATED])
def test_a_failure_says_how_the_figure_came_about(artifact: Make, kind: LatencyKind) -> None:
    entry = dataclasses.replace(_latency("a_64x64_fp32.onnx", 7.0), kind=kind, load_ms=40.0)
    found = latency_findings([artifact()], [entry], Budget(max_latency_ms=6.0, max_load_ms=39.0), {})
    assert [f.reason for f in found] == [
        f"{kind} 7 ms is above the limit of 6 ms",
        f"{kind} 40 ms is above the limit of 39 ms",
    ]


def test_no_device_is_held_to_the_budget_of_another(artifact: Make) -> None:
    both = [_latency("a_64x64_fp32.onnx", 50.0), _estimate()]
    phone = Budget(device=PHONE, max_latency_ms=20.0)
    found = latency_findings([artifact()], both, Budget(max_latency_ms=10.0, others=(phone,)), {})
    assert _told(found) == [
        ("latency", None, 50.0, 10.0, Verdict.FAIL),
        ("latency", PHONE, 15.0, 20.0, Verdict.PASS),
    ]


def test_a_device_without_a_budget_is_reported(artifact: Make) -> None:
    both = [_latency("a_64x64_fp32.onnx", 5.0), _estimate()]
    found = latency_findings([artifact()], both, Budget(max_latency_ms=10.0), {})
    assert _told(found) == [
        ("latency", None, 5.0, 10.0, Verdict.PASS),
        ("latency", PHONE, 15.0, None, Verdict.PASS),
    ]


def test_a_device_whose_name_begins_alike_is_another(artifact: Make) -> None:
    other = dataclasses.replace(_estimate(), device="pixel-4a: Snapdragon 730")
    found = latency_findings([artifact()], [other], Budget(others=(Budget(device=PHONE, max_latency_ms=99.0),)), {})
    assert (PHONE, None) in [(f.device, f.actual) for f in found]
    assert ("pixel-4a", 15.0) in [(f.device, f.actual) for f in found]


def test_limits_for_a_device_that_nothing_measured_are_skipped_and_never_pass(artifact: Make) -> None:
    phone = Budget(device=PHONE, max_latency_ms=12.0, max_load_ms=100.0, max_memory_mb=9.0)
    here = _latency("a_64x64_fp32.onnx", 5.0)
    found = latency_findings([artifact()], [here], Budget(others=(phone,)), {"a_64x64_fp32.onnx": "no host"})
    assert _told(found[1:]) == [
        ("latency", PHONE, None, 12.0, Verdict.SKIPPED),
        ("load", PHONE, None, 100.0, Verdict.SKIPPED),
        ("memory", PHONE, None, 9.0, Verdict.SKIPPED),
    ]
    assert {f.reason for f in found[1:]} == {"pixel-4 was neither measured nor estimated in this run"}


def test_the_size_for_a_device_needs_no_device(artifact: Make) -> None:
    phones = (Budget(device=PHONE, max_size_mb=0.7), Budget(device="adb", max_latency_ms=3.0))
    found = size_findings([artifact(size_bytes=900_000)], Budget(max_size_mb=1.0, others=phones))
    assert _told(found) == [
        ("size", None, 0.9, 1.0, Verdict.PASS),
        ("size", PHONE, 0.9, 0.7, Verdict.FAIL),
    ]


# --- load time and memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, [(40.0, None, Verdict.PASS), (9.0, None, Verdict.PASS)]),
        ({"max_load_ms": 40.0, "max_memory_mb": 9.0}, [(40.0, 40.0, Verdict.PASS), (9.0, 9.0, Verdict.PASS)]),
        ({"max_load_ms": 39.0}, [(40.0, 39.0, Verdict.FAIL), (9.0, None, Verdict.PASS)]),
        ({"max_memory_mb": 8.0}, [(40.0, None, Verdict.PASS), (9.0, 8.0, Verdict.FAIL)]),
    ],
)
def test_load_time_and_memory(artifact: Make, limits: dict[str, float], told: list[tuple[object, ...]]) -> None:
    entry = dataclasses.replace(_latency("a_64x64_fp32.onnx", 5.0), load_ms=40.0, memory_mb=9.0)
    _, *found = latency_findings([artifact()], [entry], Budget(**limits), {})
    assert [(f.name, f.unit) for f in found] == [("load", "ms"), ("memory", "MB")]
    assert [(f.actual, f.limit, f.verdict) for f in found] == told


def test_what_was_not_measured_is_skipped_where_it_is_limited(artifact: Make) -> None:
    entry = dataclasses.replace(_latency("a_64x64_fp32.onnx", 5.0), load_ms=40.0)
    found = latency_findings([artifact()], [entry], Budget(max_memory_mb=8.0), {})
    assert [(f.name, f.verdict) for f in found] == [
        ("latency", Verdict.PASS),
        ("load", Verdict.PASS),
        ("memory", Verdict.SKIPPED),
    ]
    assert found[2].reason == "the memory was not measured: m"
