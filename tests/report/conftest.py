"""Manifests for the reports to tell, and golden files to compare what they say with."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from facex.manifest import Manifest, load, write_text
from facex.types import Finding, Latency, LatencyKind, Runtime, Verdict

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def rich() -> Manifest:
    """A run with everything: passes, failures of both kinds, skips, two devices, an assumed contract."""
    return load(GOLDEN / "manifest.json")


@pytest.fixture
def several(rich: Manifest) -> Manifest:
    """The last artifact of `rich`, run by the executor, by Core ML, which differs, and by nothing that is there."""
    artifact = rich.artifacts[-1]
    executor, native, absent = Runtime.EXECUTOR, Runtime.NATIVE_CPU, Runtime.NATIVE_ANE

    def finding(
        runtime: Runtime | None, name: str, actual: float | None, limit: float | None, reason: str = ""
    ) -> Finding:
        verdict = Verdict.SKIPPED if actual is None else Verdict.FAIL if reason else Verdict.PASS
        unit = "dB" if "snr" in name else "ms" if name == "latency" else "ratio"
        return Finding(
            name=name, artifact=artifact.name, unit=unit, actual=actual, limit=limit, verdict=verdict, reason=reason,
            runtime=runtime,
        )  # fmt: skip

    findings = (
        finding(executor, "matched_f1", 0.999, 0.995),
        finding(executor, "landmark_nme_mean", 0.0004, 0.002),
        finding(executor, "latency", None, 30.0, "executed by facex itself"),
        finding(native, "matched_f1", 0.997, 0.995),
        finding(native, "landmark_nme_mean", 0.0031, 0.002, "0.0031 is above 0.002"),
        finding(native, "vs_executor.matched_f1", 0.9981, 0.99),
        finding(native, "vs_executor.landmark_nme_mean", 0.0042, 0.004, "0.0042 is above 0.004"),
        finding(native, "vs_executor.snr_db.boxes", 51.23, 34.0),
        finding(native, "vs_executor.max_abs.boxes", 1.5, None),
        finding(native, "latency", 4.5, 30.0),
        finding(absent, "matched_f1", None, 0.995, "there is no Neural Engine"),
        finding(absent, "vs_executor.matched_f1", None, 0.99, "there is no Neural Engine"),
        finding(None, "size", 0.95, 2.0),
    )
    latency = Latency(
        artifact=artifact.name,
        device="host: Example Mac",
        kind=LatencyKind.MEASURED,
        threads=2,
        runs=20,
        p50_ms=4.5,
        low_ms=4.1,
        high_ms=5.0,
        method="Core ML",
        runtime=native,
    )
    ran = dataclasses.replace(artifact, runtime="executor: facex's executor; native-cpu: Core ML")
    return dataclasses.replace(rich, artifacts=(ran,), findings=findings, latency=(latency,))


@pytest.fixture
def agrees_with_golden() -> Callable[[str, str], None]:
    """`agrees_with_golden(name, text)` compares with a file; FACEX_REFRESH_GOLDEN=1 records it anew."""

    def check(name: str, text: str) -> None:
        if os.environ.get("FACEX_REFRESH_GOLDEN") == "1":
            write_text(GOLDEN / name, text)
        assert text == (GOLDEN / name).read_text(encoding="utf-8")

    return check
