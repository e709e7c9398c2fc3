from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facex.parity.judge import judge, judge_runtime, skipped, skipped_runtime, without_executor
from facex.parity.limits import DEFAULT_LIMITS, OUTPUTS, SUBSETS, Direction, executor_limits, metric, parse_limit
from facex.types import Precision, Verdict, as_plain

MEMBERS = {"snr_db.*": [f"snr_db.{o}" for o in OUTPUTS], "ap_drop_*": [f"ap_drop_{s}" for s in SUBSETS]}
DEFAULTS = [
    (precision, name, value)
    for precision, limits in DEFAULT_LIMITS.items()
    for group, value in limits.items()
    for name in MEMBERS.get(group, [group])
]


def only(findings):
    (finding,) = findings
    return finding


@pytest.mark.parametrize(("precision", "name", "limit"), DEFAULTS)
def test_every_default_limit_can_pass_and_can_fail(precision, name, limit):
    lowest = metric(name).direction is Direction.MIN
    at = only(judge("a.onnx", precision, {name: limit}))
    assert (at.verdict, at.limit, at.reason) == (Verdict.PASS, limit, "")
    step = max(abs(limit) * 1e-3, 1e-6)
    beyond = only(judge("a.onnx", precision, {name: limit - step if lowest else limit + step}))
    assert beyond.verdict is Verdict.FAIL
    assert ("below" if lowest else "above") in beyond.reason
    within = only(judge("a.onnx", precision, {name: limit + step if lowest else limit - step}))
    assert within.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0.905, "0.905 is below 0.965"),
        (0.9649, "0.9649 is below 0.965"),
        (math.nextafter(0.965, 0), "0.9649999999999999 is below 0.965"),
    ],
)
def test_reasons_show_the_difference(value, reason):
    finding = only(judge("a.tflite", Precision.W8A8, {"matched_f1": value}))
    assert (finding.reason, finding.actual, finding.unit) == (reason, value, "ratio")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["matched_f1", "score_shift_max", "max_abs.loc", "ap_all", "ap_drop_all"])
@pytest.mark.parametrize("precision", Precision)
def test_what_is_not_finite_fails_with_or_without_a_limit(name, value, precision):
    finding = only(judge("a.onnx", precision, {name: value}))
    assert finding.verdict is Verdict.FAIL
    assert finding.actual is None
    assert "finite" in finding.reason
    json.dumps(as_plain(finding), allow_nan=False)


def test_nothing_measured_is_skipped_with_a_reason():
    finding = only(judge("a.onnx", Precision.FP32, {"lost_faces": None}))
    assert finding.verdict is Verdict.SKIPPED
    assert finding.reason
    assert (finding.actual, finding.limit) == (None, 0.0)


def test_a_value_without_a_limit_is_reported():
    finding = only(judge("a.onnx", Precision.W8A8, {"snr_db.loc": -3.0}))
    assert (finding.verdict, finding.limit, finding.actual, finding.unit) == (Verdict.PASS, None, -3.0, "dB")


def test_zero_is_measured():
    assert only(judge("a.onnx", Precision.FP32, {"lost_faces": 0.0})).verdict is Verdict.PASS
    assert only(judge("a.onnx", Precision.FP32, {"matched_f1": 0.0})).verdict is Verdict.FAIL


def test_limits_of_the_user_count():
    values = {"matched_f1": 0.97, "ap_all": 0.8}
    strict = [parse_limit("w8a8.matched_f1=0.98"), parse_limit("ap=0.9")]
    assert [f.verdict for f in judge("a.onnx", Precision.W8A8, values)] == [Verdict.PASS] * 2
    assert [f.verdict for f in judge("a.onnx", Precision.W8A8, values, strict)] == [Verdict.FAIL] * 2
    loose = [parse_limit("matched_f1=0.9")]
    assert [f.verdict for f in judge("a.onnx", Precision.FP32, values)] == [Verdict.FAIL, Verdict.PASS]
    assert [f.verdict for f in judge("a.onnx", Precision.FP32, values, loose)] == [Verdict.PASS] * 2


def test_a_limit_on_something_unmeasured_is_not_silent():
    overrides = [parse_limit(t) for t in ("ap_hard=0.4", "fp16.ap_all=0.5", "snr_db=90", "snr_db.conf=60")]
    f1, snr, *asked = judge("a.onnx", Precision.FP32, {"matched_f1": 1.0, "snr_db.boxes": 100.0}, overrides)
    assert (f1.verdict, snr.verdict) == (Verdict.PASS, Verdict.PASS)
    assert [(f.name, f.limit, f.verdict) for f in asked] == [
        ("ap_hard", 0.4, Verdict.SKIPPED), ("snr_db.conf", 60.0, Verdict.SKIPPED),
    ]  # fmt: skip
    assert "ground truth" in asked[0].reason


def test_without_photographs_limits_on_faces_are_not_silent_either():
    overrides = [parse_limit(t) for t in ("landmark_nme_mean=0.01", "matched_f1=0.9")]
    snr, nme = judge("a.onnx", Precision.FP32, {"snr_db.boxes": 100.0}, overrides)
    assert (snr.verdict, nme.name, nme.limit, nme.verdict) == (
        Verdict.PASS, "landmark_nme_mean", 0.01, Verdict.SKIPPED,
    )  # fmt: skip
    assert "needs photographs" in nme.reason  # and `skipped` has the finding matched_f1


def test_skipping_says_why_and_keeps_the_limit():
    finding = only(skipped("a.mlpackage", Precision.FP16, "Core ML runs on a Mac only"))
    assert (finding.name, finding.verdict, finding.actual) == ("matched_f1", Verdict.SKIPPED, None)
    assert (finding.limit, finding.reason) == (0.995, "Core ML runs on a Mac only")
    own = only(skipped("a.mlpackage", Precision.FP16, "no photographs", [parse_limit("matched_f1=0.9")]))
    assert own.limit == 0.9


def test_unknown_values_are_a_fault_of_ours():
    with pytest.raises(KeyError):
        judge("a.onnx", Precision.FP32, {"f1": 1.0})


@given(st.floats(), st.floats(0, 1), st.sampled_from(["matched_f1", "lost_faces"]))
def test_a_pass_is_finite_and_within_its_limit(value, limit, name):
    finding = only(judge("a.onnx", Precision.W8, {name: value}, [parse_limit(f"{name}={limit!r}")]))
    within = math.isfinite(value) and (value >= limit if name == "matched_f1" else value <= limit)
    assert (finding.verdict is Verdict.PASS) == within
    assert bool(finding.reason) == (not within)


BESIDE = [
    (precision, name.removeprefix("vs_executor.").replace("*", "loc"), value)
    for precision in Precision
    for name, value in executor_limits(precision).items()
]


@pytest.mark.parametrize(("precision", "name", "limit"), BESIDE)
def test_every_limit_against_the_executor_can_pass_and_can_fail(precision, name, limit):
    lowest = metric(name).direction is Direction.MIN
    at = only(judge_runtime("a.mlpackage", precision, {name: limit}))
    assert (at.name, at.verdict, at.limit, at.unit) == (
        f"vs_executor.{name}", Verdict.PASS, limit, metric(name).unit,
    )  # fmt: skip
    step = max(abs(limit) * 1e-3, 1e-6)
    beyond = only(judge_runtime("a.mlpackage", precision, {name: limit - step if lowest else limit + step}))
    assert beyond.verdict is Verdict.FAIL
    assert only(judge_runtime("a.mlpackage", precision, {name: math.nan})).verdict is Verdict.FAIL
    assert only(judge_runtime("a.mlpackage", precision, {name: None})).verdict is Verdict.SKIPPED


def test_against_the_executor_only_what_two_runs_of_one_program_can_differ_in_is_judged():
    values = {"matched_f1": 1.0, "lost_faces": 0.0, "score_shift_max": 0.5, "ap_all": 0.1, "max_abs.boxes": 3.0}
    found = judge_runtime("a.mlpackage", Precision.FP16, values)
    assert [(f.name, f.limit) for f in found] == [("vs_executor.matched_f1", 0.99), ("vs_executor.max_abs.boxes", None)]


def test_limits_against_the_executor_and_the_reference_are_apart():
    overrides = [parse_limit(t) for t in ("vs_executor.snr_db=60", "vs_executor.snr_db.conf=70", "snr_db=20")]
    overrides += [parse_limit(t) for t in ("fp32.vs_executor.matched_f1=1", "vs_executor.matched_f1=0.5")]
    values = {"matched_f1": 0.9, "snr_db.boxes": 50.0}
    f1, snr = judge("a.mlpackage", Precision.FP16, values, overrides)
    assert (f1.limit, snr.limit) == (0.995, 20.0)
    f1, snr, conf = judge_runtime("a.mlpackage", Precision.FP16, values, overrides)
    assert (f1.limit, f1.verdict, snr.limit, snr.verdict) == (0.5, Verdict.PASS, 60.0, Verdict.FAIL)
    assert (conf.name, conf.limit, conf.verdict) == ("vs_executor.snr_db.conf", 70.0, Verdict.SKIPPED)
    assert judge_runtime("a.mlpackage", Precision.FP32, values, overrides)[0].limit == 1.0
    skip = only(skipped_runtime("a.mlpackage", Precision.FP32, "no Mac", overrides))
    assert (skip.name, skip.limit, skip.reason) == ("vs_executor.matched_f1", 1.0, "no Mac")
    lacking = without_executor("a.onnx", Precision.FP16, overrides)
    assert {f.name for f in lacking} == {"vs_executor.snr_db.*", "vs_executor.snr_db.conf", "vs_executor.matched_f1"}
    assert {f.verdict for f in lacking} == {Verdict.SKIPPED}
    assert without_executor("a.onnx", Precision.FP16, [parse_limit("snr_db=20")]) == ()
