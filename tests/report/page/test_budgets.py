from __future__ import annotations

import dataclasses

import pytest

from facex.manifest import Manifest
from facex.report.page import budgets
from facex.types import Finding, LatencyKind, Verdict


def test_bars_and_limits_are_on_one_scale(golden: Manifest) -> None:
    sizes = next(group for group in budgets.groups(golden) if group.title == "Size")
    assert [bar.name for bar in sizes.bars] == [a.name for a in golden.artifacts]
    for bar, artifact in zip(sizes.bars, golden.artifacts, strict=True):
        assert bar.limit
        assert bar.width / bar.limit == pytest.approx(artifact.size_bytes / 1e6 / 1.5, rel=1e-3)
        assert (bar.verdict is Verdict.FAIL) == (artifact.size_bytes > 1.5e6)
        assert 0 < bar.width <= 100


def test_the_band_of_an_estimate_is_held_to_its_devices_limit(golden: Manifest) -> None:
    entry = dataclasses.replace(
        golden.latency[0], device="pixel-4: Pixel 4", kind=LatencyKind.ESTIMATE, p50_ms=10.0, low_ms=5.0, high_ms=20.0
    )
    held = Finding(
        name="latency", artifact=entry.artifact, unit="ms", actual=20.0, limit=15.0, verdict=Verdict.FAIL,
        reason="above", device="pixel-4",
    )  # fmt: skip
    of_host = dataclasses.replace(held, device=None, limit=40.0, verdict=Verdict.PASS)
    record = dataclasses.replace(golden, latency=(entry,), findings=(of_host, held))
    group = next(g for g in budgets.groups(record) if g.title.startswith("Latency"))
    (bar,) = group.bars
    assert (group.estimate, group.kind) == (True, "estimate")
    assert bar.band
    assert bar.limit
    low, width = bar.band
    assert [low / bar.limit, (low + width) / bar.limit, bar.width / bar.limit] == pytest.approx(
        [5 / 15, 20 / 15, 10 / 15], rel=1e-3
    )
    assert bar.told == "10 ms (5 to 20), limit 15 ms, compared with 20"
    assert bar.verdict is Verdict.FAIL


def test_devices_are_told_apart(golden: Manifest) -> None:
    titles = [group.title for group in budgets.groups(golden)]
    assert len(titles) == len(set(titles))
    assert {"Latency on host: Example CPU, linux x86_64, 2 threads", "Latency for Example Phone, 4 threads"} <= set(
        titles
    )


def test_large_numbers_keep_their_digits(golden: Manifest) -> None:
    entry = dataclasses.replace(golden.latency[0], p50_ms=1234.4, low_ms=999.4, high_ms=45678.2, memory_mb=1500.0)
    told = {
        group.title.split(" on ")[0]: group.bars[0].told
        for group in budgets.groups(dataclasses.replace(golden, findings=(), latency=(entry,)))
    }
    assert told["Latency"] == "1234 ms (999 to 45678)"
    assert told["Peak memory"] == "1500 MB"
