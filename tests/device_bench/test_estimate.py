"""Estimates for phones: arithmetic by hand, what is never estimated how, and a network read from a file."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from facex.device_bench import _anchors, _host_ratio, _phones, _tflite_builder, _work, estimate
from facex.device_bench._host_ratio import HostTime
from facex.device_bench._phones import FLOAT, INT8
from facex.device_bench.estimate import Band
from facex.errors import UsageError
from facex.progress import Silent
from facex.types import DeviceFile, DeviceOptions, FileFacts, LatencyKind, NeuralEngineForecast, Size

OPTIONS = DeviceOptions()


def _facts(macs: int = 200_000_000, integer: float = 0.0, resident: float | None = None) -> FileFacts:
    forecast = resident is not None and NeuralEngineForecast(
        operations=(),
        resident_operation_fraction=resident,
        resident_mac_fraction=resident,
        transitions=0,
        first_elsewhere=None,
        notes=(),
    )
    return FileFacts(
        inputs=(),
        outputs=(),
        operators={},
        macs=macs,
        integer_macs=int(macs * integer),
        float_islands=(),
        minimum_runtime="unknown",
        neural_engine_forecast=forecast or None,
    )


def _file(path: Path, facts: FileFacts) -> DeviceFile:
    return DeviceFile(name=path.name, path=path, size=Size(height=128, width=128), facts=facts)


@pytest.fixture
def file(tmp_path: Path) -> DeviceFile:
    """A float network as a TFLite file."""
    path = tmp_path / "net_fp32.tflite"
    path.write_bytes(_anchors.build("mobilenet_v1_0.25_128", int8=False))
    return _file(path, _facts())


@pytest.fixture
def package(tmp_path: Path) -> DeviceFile:
    """A Core ML file that is expected on the Neural Engine."""
    return _file(tmp_path / "net_fp16.mlpackage", _facts(macs=1_000_000_000, resident=1.0))


@pytest.fixture
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def times(*_: Any, **__: Any) -> None:
        raise AssertionError("this host was asked")

    monkeypatch.setattr(_host_ratio, "times", times)


def _timed(monkeypatch: pytest.MonkeyPatch, phone: str, factor: float, file_ms: float) -> None:
    """A host that takes a `factor` of what is published of the phone, and `file_ms` for the file."""
    published = {f.network.name: f.ms for f in _phones.load(phone).of(FLOAT)}

    def times(models: Mapping[str, Any], progress: Any) -> dict[str, HostTime]:
        found = {}
        for name in models:
            own = published[name.split()[1]] * factor if name.startswith("anchor ") else file_ms
            found[name] = HostTime(minimum_ms=own, median_ms=own * 1.1)
        return found

    monkeypatch.setattr(_host_ratio, "times", times)


def test_a_host_like_the_phone_tells_its_own_time(file: DeviceFile, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = _phones.costs("pixel-3", FLOAT)
    assert costs is not None
    work_ms = costs.latency_ms(_work.of_tflite(file.path))
    _timed(monkeypatch, "pixel-3", 0.5, file_ms=work_ms / 2 * 1.21)
    (latency,), report = estimate.measure([file], "pixel-3", OPTIONS, Silent())
    assert latency.p50_ms == pytest.approx(work_ms * 1.1)  # the mean of 1.21 and 1
    assert latency.low_ms == pytest.approx(latency.p50_ms / 1.3)
    assert latency.high_ms == pytest.approx(latency.p50_ms * 1.3)
    assert (latency.kind, latency.threads, latency.runs) == (LatencyKind.ESTIMATE, 4, 0)
    assert latency.device == report.name == "pixel-3: Pixel 3, CPU, TFLite"
    assert latency.is_on("pixel-3")
    for text in ("30 networks in 7 families", "25 anchors in 4 families", "minimum; median x1.10", "2019-2020"):
        assert text in latency.method
    assert "hosted_models.md" in report.facts["sources"]
    assert report.runtime == ""


def test_methods_far_apart_are_united(file: DeviceFile, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = _phones.costs("pixel-3", FLOAT)
    assert costs is not None
    work_ms = costs.latency_ms(_work.of_tflite(file.path))
    _timed(monkeypatch, "pixel-3", 1.0, file_ms=4 * work_ms)
    (latency,), _ = estimate.measure([file], "pixel-3", OPTIONS, Silent())
    assert latency.low_ms == pytest.approx(work_ms / 1.3)
    assert latency.high_ms == pytest.approx(4 * work_ms * 1.3)
    assert latency.p50_ms == pytest.approx(2 * work_ms)
    assert "x4.00 apart, so the band is their union" in latency.method


@pytest.mark.parametrize("apart", [1.0, 1.49, 1.51, 9.0])
def test_a_joined_band_holds_both_estimates(apart: float) -> None:
    bands = [Band(low_ms=10 / f, p50_ms=10, high_ms=10 * f, method="a") for f in (1.3,)]
    bands.append(Band(low_ms=10 * apart / 1.5, p50_ms=10 * apart, high_ms=10 * apart * 1.5, method="b"))
    for joined in (estimate.join(bands), estimate.join(bands[::-1])):
        assert joined.low_ms <= 10 <= joined.high_ms
        assert joined.low_ms <= 10 * apart <= joined.high_ms
        assert joined.p50_ms == pytest.approx(10 * math.sqrt(apart))
        assert ("union" in joined.method) is (apart > 1.5)
    assert estimate.join(bands[:1]) == bands[0]


@pytest.mark.parametrize(
    ("unit", "families", "shown", "width"),
    [("CPU", 5, 1.05, 1.3), ("CPU", 5, 1.8, 1.8), ("CPU", 2, 1.05, 1.5), ("GPU", 9, 1.4, 2.0), ("NPU", 2, 2.2, 2.2)],
)
def test_no_band_is_narrower_than_the_floor(unit: str, families: int, shown: float, width: float) -> None:
    assert estimate.width(unit, families, shown) == width


@pytest.mark.parametrize(
    "phone", [name for name in _phones.names() if (p := _phones.load(name)).unit != "CPU" and p.runtime != "Core ML"]
)
def test_graphics_and_neural_processors_are_never_told_by_this_host(
    phone: str, file: DeviceFile, no_timing: None
) -> None:
    (latency,), _ = estimate.measure([file], phone, OPTIONS, Silent())
    assert latency.high_ms / latency.p50_ms >= 2
    assert latency.p50_ms / latency.low_ms >= 2


@pytest.mark.parametrize("phone", ["snapdragon-835", "snapdragon-8-gen-2"])
def test_another_runtime_is_never_told_by_this_host(phone: str, file: DeviceFile, no_timing: None) -> None:
    (latency,), _ = estimate.measure([file], phone, OPTIONS, Silent())
    assert latency.p50_ms / latency.low_ms >= 1.3


@pytest.mark.parametrize(("resident", "expected", "other"), [(1.0, 1, 0), (0.2, 0, 1), (None, 0, 1)])
def test_a_core_ml_file_has_two_scenarios(
    package: DeviceFile, resident: float | None, expected: int, other: int, no_timing: None
) -> None:
    given = dataclasses.replace(package, facts=_facts(macs=1_000_000_000, resident=resident))
    latencies, _ = estimate.measure([given], "iphone-12-pro", OPTIONS, Silent())
    first, second = latencies
    assert first.is_on("iphone-12-pro")
    assert second.is_on("iphone-12-pro-otherwise")
    on, off = (first, second) if expected else (second, first)
    assert on.method.startswith("all of it on the Neural Engine")
    assert off.method.startswith("fallen off the Neural Engine")
    costs = _phones.costs("iphone-12-pro", FLOAT)
    assert costs is not None
    start, macs = costs.ms.values()
    assert on.p50_ms == pytest.approx(start + 1000 * macs)
    assert off.low_ms == pytest.approx(10 * on.low_ms)
    assert off.high_ms == pytest.approx(20 * on.high_ms)
    assert 1.9 < 1 / macs / 1000 < 2.1  # about 2 T multiply-accumulates a second, as others have found


def test_what_cannot_be_estimated_is_skipped_with_the_reason(
    file: DeviceFile, package: DeviceFile, no_timing: None
) -> None:
    latencies, report = estimate.measure([package, file], "pixel-3-gpu", OPTIONS, Silent())
    assert [entry.artifact for entry in latencies] == [file.name]
    assert report.skipped == {package.name: "the figures of pixel-3-gpu are for .tflite files"}
    latencies, report = estimate.measure([package, file], "iphone-12-pro", OPTIONS, Silent())
    assert {entry.artifact for entry in latencies} == {package.name}
    assert report.skipped == {file.name: "the figures of iphone-12-pro are for .mlpackage files"}


def test_nothing_is_estimated_from_no_figures(file: DeviceFile) -> None:
    integers = dataclasses.replace(file, facts=_facts(integer=1.0))
    with pytest.raises(UsageError, match="no figures of pixel-3-gpu in int8 are published that say enough"):
        estimate.measure([integers], "pixel-3-gpu", OPTIONS, Silent())


@pytest.mark.parametrize("word", ["", "pixel-9", "pixel-3,pixel-4"])
def test_an_unknown_phone_lists_the_known(word: str, file: DeviceFile) -> None:
    with pytest.raises(UsageError, match="no such phone") as caught:
        estimate.measure([file], word, OPTIONS, Silent())
    assert "snapdragon-8-gen-2" in str(caught.value)


def test_an_integer_file_is_held_against_integer_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net_w8a8.tflite"
    path.write_bytes(_anchors.build("mobilenet_v1_0.25_128", int8=True))
    seen: list[str] = []

    def times(models: Mapping[str, Any], progress: Any) -> dict[str, HostTime]:
        seen.extend(models)
        return {name: HostTime(minimum_ms=1.0, median_ms=1.0) for name in models}

    monkeypatch.setattr(_host_ratio, "times", times)
    (latency,), _ = estimate.measure([_file(path, _facts(integer=1.0))], "pixel-4", OPTIONS, Silent())
    lite = [f"anchor efficientnet_lite{i} int8" for i in range(5)]
    assert sorted(seen) == sorted(["net_w8a8.tflite", *lite, "anchor mobilenet_v1_1.0_224 int8"])
    assert "figures in int8" in latency.method


# The ratio


def test_the_ratio_by_hand() -> None:
    figures = [f for f in _phones.load("pixel-3").of(FLOAT) if f.network.family in ("mobilenet_v1", "mnasnet")]
    speeds = {"mobilenet_v1": 2.0, "mnasnet": 3.0}
    times = {
        _host_ratio.label(f.network.name, FLOAT): HostTime(minimum_ms=f.ms / speeds[f.network.family], median_ms=99.0)
        for f in figures
    }
    found = _host_ratio.ratio(figures, times, FLOAT)
    assert found is not None
    assert found.value == statistics.median([2.0] * 16 + [3.0] * 7) == 2.0
    assert found.spread == pytest.approx(1.5)
    assert {round(error, 6) for error in found.errors.values()} == {1.5, round(2 / 3, 6)}
    assert (found.anchors, found.families) == (23, 2)
    assert _host_ratio.ratio(figures[:3], times, FLOAT) is None
    assert _host_ratio.ratio(figures, times, INT8) is None


def test_one_family_alone_is_held_out_net_by_net() -> None:
    figures = [f for f in _phones.load("pixel-3").of(FLOAT) if f.network.family == "mnasnet"]
    times = {_host_ratio.label(f.network.name, FLOAT): HostTime(minimum_ms=f.ms, median_ms=f.ms) for f in figures}
    found = _host_ratio.ratio(figures, times, FLOAT)
    assert found is not None
    assert (found.value, found.spread) == (1.0, 1.0)
    assert estimate.width("CPU", found.families, found.spread) == 1.5


@pytest.mark.slow
def test_a_network_is_told_on_this_host(tmp_path: Path) -> None:
    """Nothing replaced: the file is a network whose latency is published, so its band must hold that."""
    path = tmp_path / "known.tflite"
    path.write_bytes(_anchors.build("mobilenet_v1_0.5_192", int8=False))
    (latency,), _ = estimate.measure([_file(path, _facts())], "pixel-3", OPTIONS, Silent())
    assert latency.low_ms <= 6.0 <= latency.high_ms


def test_enlarged_and_concatenated_layers_run() -> None:
    def network(g: _tflite_builder.Builder) -> int:
        x = g.image(4)
        return g.concat([g.enlarged(x), g.conv(g.enlarged(x), 2)])

    for int8 in (False, True):
        times = _host_ratio.times({"x": _tflite_builder.written(network, int8=int8)}, Silent(), rounds=1)
        assert times["x"].minimum_ms > 0
