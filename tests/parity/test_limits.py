from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest

from facex.errors import UsageError
from facex.parity.limits import (
    DEFAULT_LIMITS,
    LINTS,
    METRICS,
    Direction,
    executor_limits,
    limit_for,
    metric,
    parse_limit,
)
from facex.types import Limit, Precision


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("matched_f1=0.98", ("matched_f1", 0.98, None)),
        ("w8a8.matched_f1=0.97", ("matched_f1", 0.97, Precision.W8A8)),
        ("fp16.snr_db.boxes=50", ("snr_db.boxes", 50.0, Precision.FP16)),
        ("snr_db.boxes=50", ("snr_db.boxes", 50.0, None)),
        ("snr_db=50", ("snr_db.*", 50.0, None)),
        ("fp32.snr_db.*=90", ("snr_db.*", 90.0, Precision.FP32)),
        ("ap_drop=0.01", ("ap_drop_*", 0.01, None)),
        ("ap=0.7", ("ap_*", 0.7, None)),
        ("ap_all=0.7", ("ap_all", 0.7, None)),
        ("ap_drop_hard=-0.01", ("ap_drop_hard", -0.01, None)),
        ("arm64.snr_db=90", ("arm64.snr_db.*", 90.0, None)),
        ("w8a8.arm64.identical=0.9", ("arm64.identical", 0.9, Precision.W8A8)),
        ("vs_executor.snr_db=50", ("vs_executor.snr_db.*", 50.0, None)),
        ("fp16.vs_executor.snr_db.boxes=50", ("vs_executor.snr_db.boxes", 50.0, Precision.FP16)),
        (" lost_faces = 1e-3 ", ("lost_faces", 0.001, None)),
        ("background_false_positives=2", ("background_false_positives", 2.0, None)),
    ],
)
def test_limits_are_read(text, limit):
    metric_name, value, precision = limit
    assert parse_limit(text) == Limit(metric=metric_name, value=value, precision=precision)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f1=0.98", "no metric is called 'f1'.*matched_f1.*snr_db.*"),
        ("int8.matched_f1=0.9", r"no metric is called 'int8\.matched_f1'.*fp32\., fp16\., w8\., p6\., p4\., w8a8\."),
        ("snr_db.box=50", r"'snr_db\.box'.*boxes"),
        ("ap_tiny=0.5", "'ap_tiny'.*easy"),
        ("w8a8=0.5", "no metric is called 'w8a8'"),
        ("vs_executor.lost_faces=0", r"no metric is called 'vs_executor\.lost_faces'.*vs_executor\.matched_f1"),
        ("vs_executor.matched_f1=2", "from 0 to 1"),
        ("w8a8.=0.5", "no metric"),
        ("=0.5", "no metric"),
        ("matched_f1", "must be METRIC=NUMBER"),
        ("matched_f1=", "must be METRIC=NUMBER"),
        ("matched_f1=high", "must be METRIC=NUMBER"),
        ("matched_f1=0.9=0.8", "must be METRIC=NUMBER"),
        ("matched_f1=98", "from 0 to 1"),
        ("lost_faces=5", "from 0 to 1"),
        ("lost_faces=nan", "from 0 to 1"),
        ("snr_db=inf", "from -200 to 200"),
        ("landmark_error_max_px=-1", "from 0 to"),
    ],
)
def test_wrong_limits_are_refused_with_the_choices(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_limit(text)
    assert str(caught.value).startswith(f"--limit {text[:4]}")


def test_defaults_are_limits_of_known_metrics_in_range():
    assert set(DEFAULT_LIMITS) == set(Precision)
    for limits in DEFAULT_LIMITS.values():
        for name, value in limits.items():
            assert METRICS[name].low <= value <= METRICS[name].high


def test_fewer_bits_are_never_held_to_more():
    coarser = itertools.pairwise((Precision.FP32, Precision.FP16, Precision.W8, Precision.P6, Precision.P4))
    for tight, loose in (*coarser, (Precision.W8, Precision.W8A8)):
        assert DEFAULT_LIMITS[loose].keys() - DEFAULT_LIMITS[tight].keys() == (
            set(LINTS) if loose is Precision.W8A8 else set()
        )
        for name, value in DEFAULT_LIMITS[loose].items():
            stricter = DEFAULT_LIMITS[tight].get(name, value)
            assert stricter >= value if metric(name).direction is Direction.MIN else stricter <= value


@pytest.mark.parametrize("precision", Precision)
def test_two_runs_may_be_apart_as_far_as_both_are_from_the_reference(precision):
    """Twice what half precision may be off; where roundings tip whole steps, what those may be off."""
    fp16, own = DEFAULT_LIMITS[Precision.FP16], DEFAULT_LIMITS[precision]
    stated = {name.removeprefix("vs_executor."): value for name, value in executor_limits(precision).items()}
    if precision is Precision.W8A8:
        assert stated == {name: own[name] for name in ("matched_f1", "box_iou_p5", "landmark_nme_mean")}
    else:
        assert stated == pytest.approx({
            "matched_f1": 1 - 2 * (1 - fp16["matched_f1"]), "box_iou_p5": 1 - 2 * (1 - fp16["box_iou_p5"]),
            "landmark_nme_mean": 2 * fp16["landmark_nme_mean"],
            "snr_db.*": round(fp16["snr_db.*"] - 20 * math.log10(2)),
        })  # fmt: skip


def test_a_metric_of_a_group_has_the_groups_default():
    assert limit_for("snr_db.loc", Precision.FP32, ()) == 80
    assert limit_for("ap_drop_hard", Precision.W8A8, ()) == 0.015
    assert limit_for("ap_hard", Precision.W8A8, ()) is None
    assert limit_for("snr_db.loc", Precision.W8A8, ()) is None


@pytest.mark.parametrize(
    ("texts", "limit"),
    [
        ((), 30),
        (("snr_db=10",), 10),
        (("snr_db=10", "fp16.snr_db=20"), 20),
        (("fp16.snr_db=20", "snr_db=10"), 20),
        (("w8.snr_db=20",), 30),
        (("snr_db=10", "snr_db.loc=30", "snr_db=11"), 30),
        (("fp16.snr_db=20", "snr_db.loc=30"), 20),
        (("fp16.snr_db=20", "fp16.snr_db.loc=30", "fp16.snr_db.conf=50"), 30),
        (("snr_db=10", "snr_db=12"), 12),
        (("matched_f1=0.5",), 30),
    ],
)
def test_which_limit_holds(texts, limit):
    assert limit_for("snr_db.loc", Precision.FP16, [parse_limit(t) for t in texts]) == limit


def test_a_limit_made_by_hand_is_checked_too():
    with pytest.raises(UsageError, match="no metric is called 'f1'"):
        limit_for("matched_f1", Precision.FP16, [Limit(metric="f1", value=0.5, precision=None)])


def test_limits_and_verdicts_import_nothing_heavy():
    code = "import sys, facex.parity.judge; print(sorted({'numpy', 'torch', 'PIL'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
