"""The metrics of parity, the default limit of each precision, and the user's own.

A metric per output or subset (`snr_db.boxes`, `ap_drop_hard`) belongs to a group (`snr_db.*`, `ap_drop_*`); a
limit may be set on the group or on one of its metrics.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from facex.errors import UsageError
from facex.types import ARM64, VS_EXECUTOR, Limit, Precision

OUTPUTS = ("boxes", "scores", "landmarks", "loc", "conf", "landm", "mesh")
"""Output names of both heads, and that of a dense regression, which both have."""

FLAGS = ("easy", "medium", "hard")
"""Subsets of average precision that the faces of a ground truth carry flags for."""

ALL = "all"
"""The subset of average precision of faces without flags."""

SUBSETS = (*FLAGS, ALL)

MALFORMED = "malformed_rows"
"""Metric of files that choose faces: how many rows break what their outputs promise; see `facex.parity.rows`."""

Unit = Literal["ratio", "px", "dB", "1"]


class Direction(enum.Enum):
    """What a limit bounds."""

    MIN = "at least"
    MAX = "at most"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a number means.

    Attributes:
        unit: as in `facex.types.Finding`.
        direction: whether a limit is the lowest or the highest value that passes.
        low: lowest sensible limit.
        high: highest sensible limit; one beyond it would never fail, or always.
    """

    unit: Unit
    direction: Direction
    low: float
    high: float


def _metric(unit: Unit, direction: Direction, low: float = 0.0, high: float = 1.0) -> Metric:
    return Metric(unit=unit, direction=direction, low=low, high=high)


_METRICS: Mapping[str, Metric] = {
    "matched_f1": _metric("ratio", Direction.MIN),
    "lost_faces": _metric("ratio", Direction.MAX),
    "box_iou_mean": _metric("ratio", Direction.MIN),
    "box_iou_p5": _metric("ratio", Direction.MIN),
    "score_shift_mean": _metric("1", Direction.MAX),
    "score_shift_max": _metric("1", Direction.MAX),
    "landmark_nme_mean": _metric("ratio", Direction.MAX),
    "landmark_nme_p95": _metric("ratio", Direction.MAX),
    "landmark_error_max_px": _metric("px", Direction.MAX, high=1e4),
    MALFORMED: _metric("1", Direction.MAX, high=1e6),
    "snr_db.*": _metric("dB", Direction.MIN, low=-200.0, high=200.0),
    "max_abs.*": _metric("1", Direction.MAX, high=1e6),
    "ap_drop_*": _metric("ratio", Direction.MAX, low=-1.0),
    "ap_*": _metric("ratio", Direction.MIN),
    "background_false_positives": _metric("1", Direction.MAX, high=1e6),
    "score_step": _metric("1", Direction.MAX),
    "box_step": _metric("ratio", Direction.MAX),
    "landmark_step": _metric("ratio", Direction.MAX),
    "float_islands": _metric("1", Direction.MAX, high=1e6),
    "requantizations": _metric("1", Direction.MAX, high=1e6),
    "constant_weights": _metric("1", Direction.MAX, high=1e6),
}

_COMPARED = ("matched_f1", "box_iou_p5", "landmark_nme_mean", "snr_db.*", "max_abs.*")

METRICS: Mapping[str, Metric] = {
    **_METRICS,
    **{f"{VS_EXECUTOR}{name}": _METRICS[name] for name in _COMPARED},
    f"{ARM64}identical": _metric("ratio", Direction.MIN),
    f"{ARM64}snr_db.*": _METRICS["snr_db.*"],
}
"""Every metric; a name that ends in `*` is a group."""

LINTS = ("score_step", "box_step", "landmark_step", "float_islands", "requantizations", "constant_weights")
"""Metrics that are read off a w8a8 file (`facex.parity.lint`), and of no other."""

_MEMBERS = {"snr_db.*": OUTPUTS, "max_abs.*": OUTPUTS, "ap_drop_*": SUBSETS, "ap_*": SUBSETS}
_MEMBERS |= {f"{VS_EXECUTOR}{group}": OUTPUTS for group in ("snr_db.*", "max_abs.*")}
_MEMBERS |= {f"{ARM64}snr_db.*": OUTPUTS}
_GROUPS = {f"{group[:-1]}{member}": group for group, members in _MEMBERS.items() for member in members}

DEFAULT_LIMITS: Mapping[Precision, Mapping[str, float]] = {
    Precision.FP32: {
        "matched_f1": 0.999, "lost_faces": 0.0, "box_iou_p5": 0.999, "landmark_nme_mean": 1e-4,
        "landmark_error_max_px": 0.05, "score_shift_max": 0.001, "snr_db.*": 80.0, "ap_drop_*": 0.002, MALFORMED: 0.0,
    },
    Precision.FP16: {
        "matched_f1": 0.995, "lost_faces": 0.001, "box_iou_p5": 0.98, "landmark_nme_mean": 0.002,
        "snr_db.*": 30.0, "ap_drop_*": 0.005, MALFORMED: 0.0,
    },
    Precision.W8: {
        "matched_f1": 0.98, "lost_faces": 0.002, "box_iou_p5": 0.93, "landmark_nme_mean": 0.012,
        "ap_drop_*": 0.01, MALFORMED: 0.0,
    },
    Precision.P6: {
        "matched_f1": 0.955, "lost_faces": 0.006, "box_iou_p5": 0.87, "landmark_nme_mean": 0.025,
        "ap_drop_*": 0.02, MALFORMED: 0.0,
    },
    Precision.P4: {
        "matched_f1": 0.93, "lost_faces": 0.02, "box_iou_p5": 0.8, "landmark_nme_mean": 0.04,
        "ap_drop_*": 0.04, MALFORMED: 0.0,
    },
    Precision.W8A8: {
        "matched_f1": 0.965, "lost_faces": 0.004, "box_iou_p5": 0.905, "landmark_nme_mean": 0.018,
        "ap_drop_*": 0.015, MALFORMED: 0.0,
        # what the grids of the head alone may take of the limits above; derived in docs/parity.md
        "score_step": 0.03, "box_step": 0.015, "landmark_step": 0.02,
        "float_islands": 0.0, "requantizations": 0.0, "constant_weights": 0.0,
    },
}  # fmt: skip

_ROUNDING_LIMITS = {"matched_f1": 0.99, "box_iou_p5": 0.96, "landmark_nme_mean": 0.004, "snr_db.*": 24.0}
"""Twice as far as fp16 may be from the reference: two runs of one program differ by the rounding of both."""


ARM64_LIMITS: Mapping[str, float] = {f"{ARM64}identical": 1.0, f"{ARM64}snr_db.*": 100.0}
"""Default limits of an emulated ARM64 processor against x86-64, of any precision; derived in docs/arm64.md."""


def executor_limits(precision: Precision) -> Mapping[str, float]:
    """Default limits of a runtime against the executor; loose, and never tried on a Mac (docs/parity.md).

    Both run the same weights, so that they are those of rounding whatever the precision; but where it tips an 8-bit
    step, as far as from the reference.
    """
    known = DEFAULT_LIMITS[precision] if precision is Precision.W8A8 else _ROUNDING_LIMITS
    return {f"{VS_EXECUTOR}{name}": value for name, value in known.items() if name in _COMPARED}


def metric(name: str) -> Metric:
    """What the metric of a finding means.

    Raises:
        KeyError: facex measures no such thing.
    """
    return METRICS[group_of(name)]


def group_of(name: str) -> str:
    """The group of a metric, `snr_db.boxes` -> `snr_db.*`; a metric without one, or a group, is its own."""
    return _GROUPS.get(name, name)


def parse_limit(text: str) -> Limit:
    """Read `[PRECISION.]METRIC=VALUE`, for example `w8a8.matched_f1=0.97`, `snr_db=60`, `ap_drop_hard=0.01`.

    Raises:
        UsageError: not of that form, an unknown metric, or a value out of its range.
    """
    left, equals, right = text.partition("=")
    try:
        value = float(right)
    except ValueError:
        value = None
    if not equals or value is None:
        raise UsageError(
            f"--limit {text}: must be METRIC=NUMBER or PRECISION.METRIC=NUMBER",
            hint="for example w8a8.matched_f1=0.97",
        )
    head, _, tail = left.strip().partition(".")
    precision = next((p for p in Precision if p.value == head and tail), None)
    return checked(Limit(metric=tail if precision else left.strip(), value=value, precision=precision))


def checked(limit: Limit) -> Limit:
    """The limit with its metric's full name (`snr_db` -> `snr_db.*`).

    Raises:
        UsageError: an unknown metric, or a value that is not a number in the metric's range.
    """
    shown = f"--limit {f'{limit.precision}.' if limit.precision else ''}{limit.metric}={limit.value:g}"
    names = (limit.metric, f"{limit.metric}.*", f"{limit.metric}_*")
    name = next((n for n in names if n in METRICS or n in _GROUPS), None)
    if name is None:
        raise UsageError(
            f"{shown}: no metric is called '{limit.metric}'",
            hint=f"choose from {', '.join(METRICS)}; "
            f"* is one of {', '.join(OUTPUTS)} or {', '.join(SUBSETS)}; "
            f"a limit for one precision starts with {', '.join(f'{p}.' for p in Precision)}",
        )
    known = metric(name)
    if not known.low <= limit.value <= known.high:  # NaN is refused too
        raise UsageError(f"{shown}: {name} is limited by a number from {known.low:g} to {known.high:g}")
    return Limit(metric=name, value=limit.value, precision=limit.precision)


def limit_for(name: str, precision: Precision, overrides: Sequence[Limit]) -> float | None:
    """The limit that holds for a metric of an artifact; None where it is only reported.

    A limit for the precision beats one for all, which beats the default; of two alike, one on the metric
    itself beats one on its group, and the last one given wins.

    Raises:
        UsageError: see `checked`.
    """
    fitting = [
        limit for limit in map(checked, overrides)
        if limit.precision in (None, precision) and limit.metric in (name, group_of(name))
    ]  # fmt: skip
    if fitting:
        # max() keeps the first of equals: reversed makes that the last one given
        return max(reversed(fitting), key=lambda limit: (limit.precision is not None, limit.metric == name)).value
    if name.startswith(ARM64):
        defaults = ARM64_LIMITS
    else:
        defaults = executor_limits(precision) if name.startswith(VS_EXECUTOR) else DEFAULT_LIMITS[precision]
    return defaults.get(group_of(name))
