"""What `benchmark_model` prints, in its three forms and broken in every way."""

from __future__ import annotations

from typing import Any

import pytest

from facex.device_bench import _benchmark_output as output
from facex.errors import DeviceError

STATISTICS = "count=50 first=137789 curr=137254 min=137079 max=143416 avg=137722 std=896\n"
OLD = "count=1 curr=146161\n\n" + STATISTICS + "\nAverage inference timings in us: Warmup: 146161, Init: 4452, "
NEW = "Inference timings in us: Init: 5685, First inference: 18535, Warmup (avg): 14462.3, Inference (avg): 14575.2\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OLD + "no stats: 137722\n", (137.722, 50, 4.452, None, 146.161)),
        (OLD + "Inference: 137722\n", (137.722, 50, 4.452, None, 146.161)),
        (OLD + "Inference: 137722Overall max resident set size = 9 MB\n", (137.722, 50, 4.452, None, 146.161)),
        (NEW, (14.5752, None, 5.685, 18.535, 14.4623)),
        ("07-14 13:14:56.521 22838 22838 I tflite  : " + NEW, (14.5752, None, 5.685, 18.535, 14.4623)),
        (NEW.replace("14462.3", "1.04176e+06"), (14.5752, None, 5.685, 18.535, 1041.76)),
        (NEW.replace("18535", "0").replace("14462.3", "0"), (14.5752, None, 5.685, None, None)),
    ],
)
def test_every_form_of_the_result_is_read(text: str, expected: tuple[float, ...]) -> None:
    found = output.parse(text)
    assert (found.mean_ms, found.runs, found.load_ms, found.first_ms, found.warmup_ms) == pytest.approx(expected)
    assert output.finished(text)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "INFO: count=24 first=15000 curr=14500 min=14000 max=19000 avg=14575.2 std=9 p5=1 median=14550 p95=16000",
            (24, 14.55, 14.0, 16.0),
        ),
        ("count=50 first=15000 curr=14500 min=14000 max=19000 avg=14575.2 std=9", (50, None, 14.0, 19.0)),
        ("07-14 13:14:56.520 1 1 I tflite  : count=3 curr=14575", (3, 14.575, 14.575, 14.575)),
        ("count=4 curr=14575(all same)", (4, 14.575, 14.575, 14.575)),
    ],
)
def test_the_spread_is_that_of_the_timed_runs(line: str, expected: tuple[float | None, ...]) -> None:
    text = f"count=5 first=31000 curr=12100 min=12000 max=31000 avg=14462.3 std=7400\n\n{line}\n\n{NEW}"
    found = output.parse(text)
    assert (found.runs, found.median_ms, found.low_ms, found.high_ms) == expected


def test_statistics_of_a_profile_are_not_those_of_the_runs() -> None:
    timings = "Timings (microseconds): count=50 first=1 curr=2 min=1 max=3 avg=2 std=1\nMemory (bytes): count=0\n"
    assert output.parse(STATISTICS + timings + OLD.rpartition("\n")[2] + "no stats: 137722\n").low_ms == 137.079


def test_memory_and_what_it_says_of_delegates_and_flags_is_kept() -> None:
    text = (
        "WARN: Unconsumed cmdline flags: --use_gpu=true\n"
        "INFO: Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate\n"
        f"{NEW}Peak memory footprint (MB): init=6.44141 overall=64.8633\n"
    )
    found = output.parse(text)
    assert found.memory_mb == 64.8633
    assert [note.split()[0] for note in found.notes] == ["Unconsumed", "Explicitly"]


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", "no output at all"),
        ("\0\x7f garbage\nmore\n", "garbage"),
        (NEW.rstrip("\n"), "Inference timings in us: Init: 5685"),  # cut off: digits may be lost
        (NEW[:60] + "\n", "Inference timings in us: Init: 5685"),
        ("STARTING!\nERROR: Could not open 'm'.\nBenchmarking failed.\n", "ERROR: Could not open 'm'."),
        (NEW.replace("14575.2", "nan"), "Inference timings"),
        (NEW.replace("14575.2", "0"), "Inference timings"),
        (NEW.replace("14575.2", "-3"), "Inference timings"),
    ],
)
def test_what_is_no_result_is_quoted(text: str, quoted: str) -> None:
    with pytest.raises(DeviceError, match="printed no result") as caught:
        output.parse(text)
    assert quoted in caught.value.what


def test_a_result_that_is_not_that_of_its_statistics_is_refused() -> None:
    with pytest.raises(DeviceError, match="contradicts itself"):
        output.parse(STATISTICS + NEW)


def test_operators_of_the_timed_runs_are_read(fake_phone: Any) -> None:
    convolution, second, softmax = output.profile((fake_phone.here / "profile.csv").read_text())
    assert convolution.operator == "Convolution (NHWC, F32) IGEMM"
    assert (second.operator, second.name) == ("CONV_2D", "[body/conv, second]:1")
    assert (second.mean_ms, second.share, second.unit) == (2.4, 0.2, None)
    assert softmax.name == "[head]:2"


def test_newer_profiles_have_no_start() -> None:
    header = "node type, first, avg_ms, %, cdf%, mem KB, times called, name"
    (found,) = output.profile(f"=== Run Order ===\n{header}\nADD, 3, 1e-05, 7%, 7%, 0, 1, a:0")
    assert (found.mean_ms, found.share) == (1e-05, 0.07)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no table in order of execution, but: no output at all"),
        ("=== Run Order ===", "no table"),
        ("=== Run Order ===\nnode type, name\n", "no table"),
        ("=== Run Order ===\nnode type, avg_ms, %, name\nADD, fast, 7%, a", "cannot be read: ADD, fast"),
        ("=== Run Order ===\nnode type, avg_ms, %, name\nADD, 1", "cannot be read: ADD, 1"),
    ],
)
def test_a_broken_profile_is_quoted(text: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        output.profile(text)
