"""Sizes and latencies against their limits."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import pytest

from facex.device_bench.budget import latency_findings, size_findings
from facex.types import Artifact, Finding, Head, Latency, LatencyKind, Precision, Runtime, Size, Verdict, as_plain

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


TABLE = [
    # actual, limit, verdict, words of the reason
    (1.71, None, Verdict.PASS, ""),
    (1.71, 2.0, Verdict.PASS, ""),
    (1.71, 1.71, Verdict.PASS, ""),
    (1.71, 1.7, Verdict.FAIL, "1.71 {unit} is above the limit of 1.7 {unit}"),
    (1.71, 0.0, Verdict.FAIL, "above the limit of 0 {unit}"),
    (1.71, math.nan, Verdict.FAIL, "above the limit of nan"),
]


@pytest.mark.parametrize(("actual", "limit", "verdict", "reason"), TABLE)
def test_size(artifact: Make, actual: float, limit: float | None, verdict: Verdict, reason: str) -> None:
    (finding,) = size_findings([artifact(size_bytes=round(actual * 1e6))], limit)
    assert (finding.name, finding.artifact, finding.unit) == ("size", "a_64x64_fp32.onnx", "MB")
    assert finding.actual == pytest.approx(actual)
    assert finding.limit is limit
    assert finding.verdict is verdict
    assert reason.format(unit="MB") in finding.reason
    assert bool(finding.reason) is (verdict is Verdict.FAIL)


@pytest.mark.parametrize(("actual", "limit", "verdict", "reason"), TABLE)
def test_latency(artifact: Make, actual: float, limit: float | None, verdict: Verdict, reason: str) -> None:
    (finding,) = latency_findings([artifact()], [_latency("a_64x64_fp32.onnx", actual)], limit, {})
    assert (finding.name, finding.artifact, finding.unit) == ("latency", "a_64x64_fp32.onnx", "ms")
    assert finding.actual == actual
    assert finding.limit is limit
    assert finding.verdict is verdict
    assert reason.format(unit="ms") in finding.reason
    assert bool(finding.reason) is (verdict is Verdict.FAIL)


@pytest.mark.parametrize("limit", [None, 10.0, math.inf])
@pytest.mark.parametrize("actual", [math.nan, math.inf, -math.inf])
def test_a_latency_that_is_not_finite_fails_with_and_without_a_limit(
    artifact: Make, actual: float, limit: float | None
) -> None:
    (finding,) = latency_findings([artifact()], [_latency("a_64x64_fp32.onnx", actual)], limit, {})
    assert finding.verdict is Verdict.FAIL
    assert finding.actual is None
    assert f"{actual} ms is not a finite number" in finding.reason


def test_a_finding_that_is_not_finite_can_be_written_to_json(artifact: Make) -> None:
    findings = latency_findings([artifact()], [_latency("a_64x64_fp32.onnx", math.nan)], 10.0, {})
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
    (finding,) = latency_findings([artifact("a.mlpackage")], others, limit, skipped)
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
    assert [(f.artifact, f.actual) for f in size_findings(artifacts, None)] == [
        ("b.tflite", 2.0),
        ("a.onnx", 1.0),
    ]
    latencies = [_latency("a.onnx", 5.0), _latency("b.tflite", 7.0), _latency("gone.onnx", 9.0)]
    found = latency_findings(artifacts, latencies, 6.0, {})
    assert [(f.artifact, f.actual, f.verdict) for f in found] == [
        ("b.tflite", 7.0, Verdict.FAIL),
        ("a.onnx", 5.0, Verdict.PASS),
    ]


def test_every_latency_of_an_artifact_is_judged(artifact: Make) -> None:
    found = latency_findings([artifact("a.onnx")], [_latency("a.onnx", 5.0), _latency("a.onnx", 50.0)], 10.0, {})
    assert [f.verdict for f in found] == [Verdict.PASS, Verdict.FAIL]


def test_each_runtime_is_judged_by_its_own_latencies(artifact: Make) -> None:
    fast, slow = (
        dataclasses.replace(_latency("a.mlpackage", p50), runtime=runtime)
        for p50, runtime in ((5.0, Runtime.NATIVE_ANE), (50.0, Runtime.NATIVE_CPU))
    )
    verdicts = {
        runtime: [(f.actual, f.verdict, f.runtime) for f in found]
        for runtime in (Runtime.NATIVE_ANE, Runtime.NATIVE_CPU, Runtime.EXECUTOR, None)
        if (found := latency_findings([artifact("a.mlpackage")], [fast, slow], 10.0, {}, runtime))
    }
    assert verdicts == {
        Runtime.NATIVE_ANE: [(5.0, Verdict.PASS, Runtime.NATIVE_ANE)],
        Runtime.NATIVE_CPU: [(50.0, Verdict.FAIL, Runtime.NATIVE_CPU)],
        Runtime.EXECUTOR: [(None, Verdict.SKIPPED, Runtime.EXECUTOR)],
        None: [(None, Verdict.SKIPPED, None)],
    }


def test_no_artifacts() -> None:
    assert size_findings([], 1.0) == ()
    assert latency_findings([], [_latency("a.onnx", 5.0)], 1.0, {}) == ()
