"""Ratios to the float32 file: which one is the base, and what must be alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from facex.report import ratios
from facex.types import Artifact, Head, Latency, LatencyKind, Precision, Runtime, Size


def _artifact(name: str, precision: Precision, **changes: Any) -> Artifact:
    artifact = Artifact(
        path=name, target="tflite", precision=precision, head=Head.DECODED, size=Size(height=160, width=160),
        size_bytes=1, sha256="", inputs=(), outputs=(), integer_mac_fraction=0.0, minimum_runtime="", runtime=None,
        promoted=True,
    )  # fmt: skip
    return dataclasses.replace(artifact, **changes)


def _latency(name: str, low: float, p50: float, **changes: Any) -> Latency:
    entry = Latency(
        artifact=name, device="host: x", kind=LatencyKind.MEASURED, threads=1, runs=5, p50_ms=p50, low_ms=low,
        high_ms=2 * p50, method="m",
    )  # fmt: skip
    return dataclasses.replace(entry, **changes)


BOTH = [_artifact("base", Precision.FP32), _artifact("small", Precision.W8A8)]


def test_minima_and_medians_are_compared_apart() -> None:
    base, small = ratios.of(BOTH, [_latency("base", 8.0, 10.0), _latency("small", 2.0, 5.0)])
    assert (base.artifact, base.baseline, base.low, base.p50) == ("base", "base", 1.0, 1.0)
    assert (small.artifact, small.baseline, small.low, small.p50) == ("small", "base", 0.25, 0.5)
    assert (small.device, small.threads, small.kind) == ("host: x", 1, LatencyKind.MEASURED)


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 2},
        {"device": "adb: a phone"},
        {"kind": LatencyKind.ESTIMATE},
        {"runtime": Runtime.NATIVE},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_was_taken_in_another_way_is_no_base(changes: dict[str, Any]) -> None:
    found = ratios.of(BOTH, [_latency("base", 8.0, 10.0, **changes), _latency("small", 2.0, 5.0)])
    assert [r.artifact for r in found] == ["base"]


@pytest.mark.parametrize(
    "changes", [{"target": "onnx"}, {"size": Size(height=320, width=320)}, {"head": Head.RAW}], ids=str
)
def test_another_target_size_or_head_is_no_base(changes: dict[str, Any]) -> None:
    artifacts = [_artifact("base", Precision.FP32, **changes), BOTH[1]]
    found = ratios.of(artifacts, [_latency("base", 8.0, 10.0), _latency("small", 2.0, 5.0)])
    assert [r.artifact for r in found] == ["base"]


def test_a_ratio_finds_its_latency() -> None:
    entries = [_latency(n, 2.0, 4.0 * t, threads=t) for n in ("base", "small") for t in (1, 2)]
    found = ratios.of(BOTH, entries)
    assert [ratios.ratio_of(entry, found) for entry in entries] == list(found)
    assert ratios.ratio_of(_latency("other", 1.0, 1.0), found) is None
