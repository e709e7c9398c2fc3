"""The host bench, on sessions that advance a clock of their own instead of computing."""

from __future__ import annotations

import gc
import itertools
import platform
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facex.device_bench import host
from facex.errors import BackendError, MissingExtraError
from facex.types import Latency, LatencyKind


class Clock:
    """Stands in for the `time` module; only sessions move it."""

    def __init__(self) -> None:
        self.now_ns = 10**15

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def advance(self, milliseconds: float) -> None:
        self.now_ns += round(milliseconds * 1e6)


class FakeSession:
    """Each `invoke()` takes the next of `times_ms` (repeated) and is written to `calls`."""

    def __init__(self, name: str, clock: Clock, times_ms: Sequence[float], calls: list[str]) -> None:
        self.runtime = f"runtime of {name}"
        self.untimed = ""
        self.loaded: list[Mapping[str, NDArray[Any]]] = []
        self._name, self._clock, self._calls = name, clock, calls
        self._times = itertools.cycle(times_ms)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        self.loaded.append(inputs)
        self._clock.advance(1000)  # compiling on the first call must not reach the numbers
        return {}

    def invoke(self) -> None:
        assert self.loaded, "invoke() before the inputs were loaded"
        assert not gc.isenabled()
        self._calls.append(self._name)
        self._clock.advance(next(self._times))


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Whatever a test does to the garbage collector ends with it."""
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    gc.enable() if was_enabled else gc.disable()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(host, "time", clock)
    return clock


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def bench(clock: Clock, calls: list[str]) -> Callable[..., tuple[Latency, ...]]:
    """`bench({"a": [1.0], …}, runs=…)` measures fake sessions that take those milliseconds."""

    def run(times_ms: Mapping[str, Sequence[float]], **options: Any) -> tuple[Latency, ...]:
        sessions = {name: FakeSession(name, clock, times, calls) for name, times in times_ms.items()}
        inputs = {name: {"image": np.zeros(1)} for name in sessions}
        return host.measure(sessions, inputs, threads=2, **options)

    return run


def test_numbers_are_median_minimum_and_90th_percentile(bench: Callable[..., tuple[Latency, ...]]) -> None:
    times = [9.0, 3.0, 5.0, 30.0, 4.0, 8.0, 7.0, 6.0, 3.5, 20.0]
    fast, slow = bench({"fast": times, "slow": [2 * t for t in times]}, warmup=0, runs=10)
    assert (fast.artifact, slow.artifact) == ("fast", "slow")
    assert fast.p50_ms == pytest.approx(statistics.median(times))
    assert fast.low_ms == pytest.approx(3.0)
    assert fast.high_ms == pytest.approx(float(np.percentile(times, 90)))
    for name in ("p50_ms", "low_ms", "high_ms"):
        assert getattr(slow, name) == pytest.approx(2 * getattr(fast, name))


def test_a_latency_says_what_it_is(bench: Callable[..., tuple[Latency, ...]]) -> None:
    alone = bench({"a": [1.0]}, warmup=3, runs=7)[0]
    assert alone.kind is LatencyKind.MEASURED
    assert (alone.threads, alone.runs) == (2, 7)
    assert alone.device == host.description()
    assert "runtime of a" in alone.method
    assert "3 warm-up" in alone.method
    assert "alone" in alone.method
    first, second = bench({"a": [1.0], "b": [1.0]}, warmup=0, runs=5)
    assert "interleaved over 2 artifacts" in first.method
    assert "runtime of b" in second.method


def test_warm_up_is_not_counted(bench: Callable[..., tuple[Latency, ...]], calls: list[str]) -> None:
    # the first four runs are slow, as on a cold cache
    latency = bench({"a": [500.0] * 4 + [2.0] * 6}, warmup=4, runs=6)[0]
    assert (latency.low_ms, latency.p50_ms, latency.high_ms) == pytest.approx((2.0, 2.0, 2.0))
    assert latency.runs == 6
    assert len(calls) == 10


def test_inputs_are_loaded_once_and_are_the_artifact_s_own(clock: Clock, calls: list[str]) -> None:
    sessions = {name: FakeSession(name, clock, [1.0], calls) for name in "ab"}
    inputs = {name: {"image": np.full(1, i)} for i, name in enumerate("ab")}
    host.measure(sessions, inputs, threads=1, warmup=2, runs=3)
    assert [session.loaded for session in sessions.values()] == [[inputs["a"]], [inputs["b"]]]


def test_the_order_changes_between_rounds(bench: Callable[..., tuple[Latency, ...]], calls: list[str]) -> None:
    bench({name: [1.0] for name in "abc"}, warmup=0, runs=6)
    rounds = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert all(one != following for one, following in itertools.pairwise(rounds))
    assert {one[0] for one in rounds} == {"a", "b", "c"}
    after_the_heaviest = Counter(b for one in rounds for a, b in itertools.pairwise(one) if a == "c")
    assert after_the_heaviest["a"] == after_the_heaviest["b"] == 2


def test_two_artifacts_take_turns_to_be_first(bench: Callable[..., tuple[Latency, ...]], calls: list[str]) -> None:
    bench({name: [1.0] for name in "ab"}, warmup=0, runs=8)
    assert Counter(calls[::2]) == {"a": 4, "b": 4}


@pytest.mark.parametrize("count", range(1, 10))
def test_each_follows_each_other_equally_often(count: int) -> None:
    names = [str(i) for i in range(count)]
    rounds = [host.round_order(names, i) for i in range(2 * count)]
    assert all(sorted(one) == names for one in rounds)
    followed = Counter(pair for one in rounds for pair in itertools.pairwise(one))
    assert followed == dict.fromkeys(itertools.permutations(names, 2), 2)
    assert Counter(one[0] for one in rounds) == dict.fromkeys(names, 2)


def test_time_limit_stops_the_rounds(bench: Callable[..., tuple[Latency, ...]]) -> None:
    a, b = bench({"a": [100.0], "b": [150.0]}, warmup=0, runs=50, max_seconds=2.0)
    assert a.runs == b.runs == 8  # the eighth round of 250 ms ends at 2.0 s


def test_a_few_rounds_are_run_whatever_the_time(bench: Callable[..., tuple[Latency, ...]], calls: list[str]) -> None:
    latency = bench({"a": [60_000.0]}, warmup=5, runs=50, max_seconds=1.0)[0]
    assert latency.runs == host.MIN_ROUNDS == 5
    assert len(calls) == 1 + 5
    assert "1 warm-up" in latency.method  # the time was gone after one


def test_fewer_runs_than_the_minimum_are_what_was_asked(bench: Callable[..., tuple[Latency, ...]]) -> None:
    latency = bench({"a": [3.0]}, warmup=0, runs=1)[0]
    assert (latency.runs, latency.low_ms, latency.p50_ms, latency.high_ms) == pytest.approx((1, 3, 3, 3))


def test_no_time_limit(bench: Callable[..., tuple[Latency, ...]]) -> None:
    assert bench({"a": [60_000.0]}, runs=9, max_seconds=float("inf"))[0].runs == 9


def test_progress_is_told_after_every_timed_round(bench: Callable[..., tuple[Latency, ...]]) -> None:
    seen: list[tuple[int, int]] = []
    bench({"a": [1.0], "b": [1.0]}, warmup=2, runs=3, on_round=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_time_of_the_progress_callback_is_nobody_s(bench: Callable[..., tuple[Latency, ...]], clock: Clock) -> None:
    latency = bench({"a": [1.0]}, runs=5, on_round=lambda done, of: clock.advance(400))[0]
    assert latency.high_ms == pytest.approx(1.0)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_as_before(bench: Callable[..., tuple[Latency, ...]], enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    bench({"a": [1.0]}, runs=2)  # FakeSession.invoke asserts that it is off meanwhile
    assert gc.isenabled() is enabled


@pytest.mark.parametrize("fails_at", ["load", "warm-up", "timing"])
def test_a_failing_session_names_its_artifact(clock: Clock, calls: list[str], fails_at: str) -> None:
    class Failing(FakeSession):
        def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
            if fails_at == "load":
                raise RuntimeError("delegate lost")
            return super().__call__(inputs)

        def invoke(self) -> None:
            super().invoke()
            if calls.count("bad.tflite") > (3 if fails_at == "timing" else 0):
                raise RuntimeError("delegate lost")

    sessions = {
        "good.onnx": FakeSession("good.onnx", clock, [1.0], calls),
        "bad.tflite": Failing("bad.tflite", clock, [1.0], calls),
    }
    with pytest.raises(BackendError, match=r"\[bad\.tflite\] RuntimeError: delegate lost") as caught:
        host.measure(sessions, {name: {} for name in sessions}, threads=1, warmup=2)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert gc.isenabled()


def test_an_error_of_ours_stays_what_it_is(clock: Clock, calls: list[str]) -> None:
    class Missing(FakeSession):
        def invoke(self) -> None:
            raise MissingExtraError("ai-edge-litert", extra="tflite", purpose="running TFLite")

    with pytest.raises(MissingExtraError, match=r"\[m\.tflite\]"):
        host.measure({"m.tflite": Missing("m.tflite", clock, [1.0], calls)}, {"m.tflite": {}}, threads=1)


def test_nothing_to_measure() -> None:
    assert host.measure({}, {}, threads=1) == ()


@pytest.mark.parametrize(("inputs", "runs", "text"), [({}, 5, "no inputs for a"), ({"a": {}}, 0, "runs is 0")])
def test_calls_that_make_no_sense(clock: Clock, calls: list[str], inputs: dict[str, Any], runs: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        host.measure({"a": FakeSession("a", clock, [1.0], calls)}, inputs, threads=1, runs=runs)


def test_real_time_is_measured() -> None:
    class Sleeper:
        runtime = "sleep"
        untimed = ""

        def __init__(self, seconds: float) -> None:
            self._seconds = seconds

        def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
            return {}

        def invoke(self) -> None:
            time.sleep(self._seconds)

    short, long = host.measure(
        {"short": Sleeper(0.002), "long": Sleeper(0.02)},
        {"short": {}, "long": {}},
        threads=1,
        warmup=1,
        runs=7,
    )
    assert short.low_ms >= 2.0
    assert long.low_ms >= 20.0
    assert short.low_ms < long.low_ms
    assert long.low_ms <= long.p50_ms <= long.high_ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model\t\t: 49\nmodel name\t: AMD EPYC  7B13\nflags\t: fpu\nmodel name\t: other\n", "AMD EPYC 7B13"),
        (
            "processor\t: 0\nBogoMIPS\t: 108.00\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4\n",
            "Raspberry Pi 4",
        ),
        ("processor\t: 0\nmodel name\t:\nHardware : Qualcomm SM8550\n", "Qualcomm SM8550"),
        ("", "from the platform"),
    ],
)
def test_description_names_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "processor", lambda: "from the platform")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert host.description() == f"host: {expected}, linux x86_64"


def test_description_where_nothing_names_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert "unknown processor" in host.description()


def test_description_on_a_mac_asks_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(host, "_sysctl", lambda key: asked.append(key) or "Apple M2")
    assert host.description() == "host: Apple M2, darwin arm64"
    assert asked == ["machdep.cpu.brand_string"]


def test_description_of_this_machine_is_one_line() -> None:
    assert re.fullmatch(r"host: \S[^\n]*, \w+ \w+", host.description())
