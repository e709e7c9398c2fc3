"""Rules of `facex diff --fail-on`, and what they say of figures old and new."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facex.errors import UsageError
from facex.manifest import exit_code_of
from facex.parity import limits
from facex.regression import Figure, Rule, direction_of, judged, parse_rule
from facex.types import Finding, Runtime, Verdict


def _figure(name: str, old: float | None, new: float | None, **changes: Any) -> Figure:
    return Figure(**{"artifact": "a.onnx", "name": name, "unit": "1", "old": old, "new": new, **changes})


def _one(figure: Figure, *rules: str) -> Finding:
    (finding,) = judged([figure], [parse_rule(rule) for rule in rules])
    return finding


def _verdict(figure: Figure, *rules: str) -> Verdict:
    return _one(figure, *rules).verdict


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("regression:5%", Rule(metric=None, tolerance=0.05, relative=True)),
        ("regression:0%", Rule(metric=None, tolerance=0.0, relative=True)),
        ("regression:size:2%", Rule(metric="size", tolerance=0.02, relative=True)),
        ("regression:latency:1.5", Rule(metric="latency", tolerance=1.5, relative=False)),
        ("regression:matched_f1:0.5%", Rule(metric="matched_f1", tolerance=0.005, relative=True)),
        ("regression:snr_db:3", Rule(metric="snr_db.*", tolerance=3.0, relative=False)),
        ("regression:snr_db.boxes:3", Rule(metric="snr_db.boxes", tolerance=3.0, relative=False)),
        ("regression:ap_drop:0.01", Rule(metric="ap_drop_*", tolerance=0.01, relative=False)),
        ("regression:ap_hard:1%", Rule(metric="ap_hard", tolerance=0.01, relative=True)),
        ("regression:vs_executor.snr_db:1", Rule(metric="vs_executor.snr_db.*", tolerance=1.0, relative=False)),
        (" regression:memory:0 ", Rule(metric="memory", tolerance=0.0, relative=False)),
    ],
)
def test_rules(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


@given(
    st.sampled_from([None, "size", "latency", "load", "memory", *limits.METRICS]),
    st.integers(0, 10_000).map(lambda n: n / 100),
)
def test_a_rule_reads_back(metric: str | None, percent: float) -> None:
    rule = Rule(metric=metric, tolerance=percent / 100, relative=True)
    again = parse_rule(str(rule))
    assert (again.metric, again.relative) == (metric, True)
    assert again.tolerance == pytest.approx(rule.tolerance, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not regression:"),
        ("5%", "is not regression:"),
        ("regression", "is not regression:"),
        ("progress:5%", "is not regression:"),
        ("regression:size:2%:3", "is not regression:"),
        ("regression:", "'' is no tolerance"),
        ("regression:%", "'%' is no tolerance"),
        ("regression:five%", "'five%' is no tolerance"),
        ("regression:-5%", "'-5%' is no tolerance"),
        ("regression:size:nan", "'nan' is no tolerance"),
        ("regression:size:inf%", "'inf%' is no tolerance"),
        ("regression:0.5", "one number does not suit metrics of several units"),
        ("regression:sizes:5%", "no metric is called 'sizes' — choose from size, latency, load, memory, matched_f1"),
        ("regression:unchanged:5%", "no metric is called 'unchanged'"),
        ("regression::5%", "no metric is called ''"),
    ],
)
def test_what_is_no_rule(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rule(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--fail-on {text}".rstrip())


def test_every_metric_of_the_gate_has_a_direction() -> None:
    for name, metric in limits.METRICS.items():
        assert direction_of(name) is metric.direction
    assert direction_of("unchanged") is None
    assert direction_of("snr_db.boxes") is limits.Direction.MIN


# --- better and worse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "worse", "better"),
    [
        ("matched_f1", 0.98, 0.97, 0.99),
        ("landmark_nme_mean", 0.01, 0.011, 0.009),
        ("lost_faces", 0.0, 0.001, 0.0),
        ("snr_db.boxes", 60.0, 59.0, 61.0),
        ("ap_drop_hard", 0.01, 0.02, -0.01),
        ("ap_hard", 0.8, 0.79, 0.81),
        ("size", 1.0, 1.1, 0.9),
        ("latency", 10.0, 10.1, 9.0),
        ("load", 10.0, 10.1, 9.0),
        ("memory", 10.0, 10.1, 9.0),
    ],
)
def test_worse_is_told_by_the_metric(name: str, old: float, worse: float, better: float) -> None:
    rule = f"regression:{name}:0"
    assert _verdict(_figure(name, old, worse), rule) is Verdict.FAIL
    assert _verdict(_figure(name, old, better), rule) is Verdict.PASS
    assert _verdict(_figure(name, old, old), rule) is Verdict.PASS
    code = exit_code_of([_one(_figure(name, old, worse), rule)])
    assert code == (4 if name in ("size", "latency", "load", "memory") else 3)


@given(
    st.sampled_from(["matched_f1", "size", "lost_faces", "snr_db.boxes"]),
    st.floats(0.001, 1000),
    st.floats(0.001, 1000),
    st.integers(0, 100),
)
def test_a_share_is_of_the_old_value(name: str, old: float, new: float, percent: int) -> None:
    finding = _one(_figure(name, old, new), f"regression:{name}:{percent}%")
    grown = new - old if direction_of(name) is limits.Direction.MAX else old - new
    assert finding.actual == pytest.approx(grown)
    assert finding.limit == pytest.approx(old * percent / 100)
    assert (finding.verdict is Verdict.PASS) is (finding.actual <= finding.limit)


def test_a_share_of_parity_is_of_the_limit_where_that_is_more() -> None:
    tiny = _figure("landmark_nme_mean", 1e-7, 4e-7, limit=1e-4)
    assert _verdict(tiny, "regression:5%") is Verdict.PASS
    assert _one(tiny, "regression:5%").limit == pytest.approx(5e-6)
    assert _verdict(_figure("landmark_nme_mean", 1e-7, 1e-5, limit=1e-4), "regression:5%") is Verdict.FAIL
    # no limit, and a size's is a budget: both are held to what was
    assert _verdict(_figure("landmark_nme_mean", 1e-7, 4e-7), "regression:landmark_nme_mean:5%") is Verdict.FAIL
    assert _verdict(_figure("size", 1.0, 1.2, limit=100.0), "regression:5%") is Verdict.FAIL


def test_a_failure_shows_both_values_and_the_rule() -> None:
    finding = _one(_figure("latency", 10.0, 12.0, unit="ms", device="pixel-4"), "regression:latency:10%")
    assert finding.reason == "10 to 12 ms: worse by 2, more than regression:latency:10% allows"
    assert (finding.title, finding.unit) == ("latency on pixel-4", "ms")


def test_a_finding_keeps_its_runtime() -> None:
    assert (
        _one(_figure("matched_f1", 1, 1, runtime=Runtime.NATIVE), "regression:matched_f1:0").runtime is Runtime.NATIVE
    )


# --- which rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        (["regression:5%"], Verdict.FAIL),
        (["regression:5%", "regression:snr_db:50%"], Verdict.PASS),
        (["regression:snr_db:50%", "regression:5%"], Verdict.PASS),
        (["regression:snr_db:50%", "regression:snr_db.boxes:1"], Verdict.FAIL),
        (["regression:snr_db.boxes:1", "regression:snr_db:50%"], Verdict.FAIL),
        (["regression:snr_db.boxes:1", "regression:snr_db.boxes:20"], Verdict.PASS),
        (["regression:snr_db.boxes:20", "regression:snr_db.boxes:1"], Verdict.FAIL),
    ],
)
def test_the_rule_that_fits_best_wins(rules: Sequence[str], verdict: Verdict) -> None:
    figure = _figure("snr_db.boxes", 60.0, 50.0, limit=40.0)
    assert {f.verdict for f in judged([figure], [parse_rule(r) for r in rules]) if f.artifact != "*"} == {verdict}


def test_a_rule_for_all_is_about_what_is_gated() -> None:
    figures = [_figure("max_abs.boxes", 1.0, 9.0), _figure("size", 1.0, 1.0), _figure("snr_db.boxes", 9, 9, limit=4)]
    found = list(judged(figures, [parse_rule("regression:5%")]))
    assert [f.name for f in found] == ["size", "snr_db.boxes"]
    assert _verdict(figures[0], "regression:max_abs:5%") is Verdict.FAIL


def test_without_a_rule_there_is_no_verdict() -> None:
    assert list(judged([_figure("size", 1.0, 9.0)], [])) == []


# --- what is missing never passes ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["matched_f1", "latency"])
@pytest.mark.parametrize(
    ("old", "new", "verdict", "words"),
    [
        (1.0, None, Verdict.FAIL, "was 1 1, and NEW has no figure"),
        (None, 1.0, Verdict.SKIPPED, "OLD has no figure"),
        (None, None, Verdict.SKIPPED, "neither has a figure"),
    ],
)
def test_a_figure_that_is_missing(
    name: str, old: float | None, new: float | None, verdict: Verdict, words: str
) -> None:
    finding = _one(_figure(name, old, new), f"regression:{name}:100%")
    assert (finding.verdict, finding.actual, finding.reason) == (verdict, None, words)


@pytest.mark.parametrize(("old", "new"), [(math.nan, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_what_is_not_finite_fails(old: float, new: float) -> None:
    finding = _one(_figure("size", old, new), "regression:size:50%")
    assert finding.verdict is Verdict.FAIL
    assert finding.actual is None


def test_what_is_not_like_with_like_is_skipped() -> None:
    finding = _one(_figure("latency", 1.0, None, reason="not like with like"), "regression:latency:5%")
    assert (finding.verdict, finding.reason) == (Verdict.SKIPPED, "not like with like")


@pytest.mark.parametrize(("rule", "name"), [("regression:ap_hard:1%", "ap_hard"), ("regression:1%", "regression")])
def test_a_rule_that_is_about_nothing_is_told(rule: str, name: str) -> None:
    (finding,) = judged([_figure("max_abs.boxes", 1.0, 1.0)], [parse_rule(rule)])
    assert (finding.name, finding.artifact, finding.verdict) == (name, "*", Verdict.SKIPPED)
    assert f"so {rule} holds nothing" in finding.reason
