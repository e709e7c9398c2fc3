"""When a figure became worse than a rule allows: the rules, and what they say of figures old and new."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from facex.errors import UsageError
from facex.manifest import BUDGET_FINDINGS
from facex.parity import limits
from facex.parity.limits import Direction
from facex.types import Finding, Runtime, Verdict

BUDGET_UNITS = {"size": "MB", "latency": "ms", "load": "ms", "memory": "MB"}
EXAMPLE = "for example regression:5%, regression:latency:10% or regression:matched_f1:0.005"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How much worse a figure may become.

    Attributes:
        metric: `size`, `latency`, `load`, `memory`, or a metric of parity or a group of them; None for all that matter.
        tolerance: 0 or more; a share of the old value where `relative`, else in the metric's unit.
        relative: whether it is a share.
    """

    metric: str | None
    tolerance: float
    relative: bool

    def __str__(self) -> str:
        amount = f"{self.tolerance * 100:g}%" if self.relative else f"{self.tolerance:g}"
        return ":".join(("regression", *((self.metric,) if self.metric else ()), amount))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value in both manifests.

    Attributes:
        artifact: file name of the new artifact.
        name: the metric, or `size`, `latency` (the minimum of a measurement, the median of others), `load`, `memory`.
        unit: of both, as in `facex.types.Finding`.
        old: None where nothing was measured.
        new: likewise.
        limit: the bound that the new one, or else the old one, is held to; None where neither is.
        reason: why the two cannot be compared; empty where they can.
        runtime: as in `facex.types.Finding`.
        device: the word for it, of time and memory on another device than this host; else None.
        condition: of time and memory, how they came about: kind, device, threads; else empty.
    """

    artifact: str
    name: str
    unit: str
    old: float | None
    new: float | None
    limit: float | None = None
    reason: str = ""
    runtime: Runtime | None = None
    device: str | None = None
    condition: str = ""

    @property
    def worsening(self) -> float | None:
        """How much worse the new value is, in the unit; negative where it is better, None where nobody can say."""
        direction = direction_of(self.name)
        if self.reason or direction is None or self.old is None or self.new is None:
            return None
        grown = self.new - self.old
        return grown if direction is Direction.MAX else -grown

    @property
    def budget(self) -> bool:
        """Whether it is a matter of the budget, and not of parity."""
        return self.name in BUDGET_FINDINGS


def direction_of(name: str) -> Direction | None:
    """What a limit on a metric bounds: `Direction.MAX` where larger values are worse; None for what is no metric."""
    if name in BUDGET_FINDINGS:
        return Direction.MAX
    known = limits.METRICS.get(limits.group_of(name))
    return known.direction if known else None


def parse_rule(text: str) -> Rule:
    """Read `regression:[METRIC:]TOLERANCE`; the tolerance is `5%` of the old value, or a number in the metric's unit.

    >>> parse_rule("regression:latency:10%")
    Rule(metric='latency', tolerance=0.1, relative=True)

    Raises:
        UsageError: not of that form, an unknown metric, a number for metrics of several units, or one below 0.
    """
    word, *rest = text.strip().split(":")
    if word != "regression" or len(rest) not in (1, 2):
        raise UsageError(f"--fail-on {text}: is not regression:[METRIC:]TOLERANCE", hint=EXAMPLE)
    amount, relative = rest[-1].removesuffix("%"), rest[-1].endswith("%")
    try:
        value = float(amount) / (100 if relative else 1)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"--fail-on {text}: '{rest[-1]}' is no tolerance, which is 0 or more", hint=EXAMPLE)
    metric = _metric(text, rest[0]) if len(rest) == 2 else None
    if metric is None and not relative:
        raise UsageError(f"--fail-on {text}: one number does not suit metrics of several units", hint=EXAMPLE)
    return Rule(metric=metric, tolerance=value, relative=relative)


def _metric(text: str, name: str) -> str:
    for known in (name, f"{name}.*", f"{name}_*"):
        if direction_of(known) is not None:
            return known
    words = ", ".join((*BUDGET_FINDINGS, *limits.METRICS))
    raise UsageError(f"--fail-on {text}: no metric is called '{name}'", hint=f"choose from {words}")


def judged(figures: Sequence[Figure], rules: Sequence[Rule]) -> Iterator[Finding]:
    """How much worse each figure is, held to the rule that fits it best; figures without one are left out.

    Args:
        figures: of two manifests.
        rules: one for a metric goes before one for its group, that before one for all, and of alike the last one.
    """
    for figure in figures:
        rule = _rule_for(figure, rules)
        if rule is not None:
            yield _finding(figure, rule)
    for rule in rules:
        if not any(_fits(rule, figure) for figure in figures):
            yield _skip(rule)


def _fits(rule: Rule, figure: Figure) -> bool:
    """Whether a rule is about a figure; one for all is about what is held to a limit, size, time and memory."""
    if rule.metric is None:
        return figure.budget or figure.limit is not None
    return rule.metric in (figure.name, limits.group_of(figure.name))


def _rule_for(figure: Figure, rules: Sequence[Rule]) -> Rule | None:
    fitting = [rule for rule in rules if _fits(rule, figure)]
    ranks = {figure.name: 2, None: 0}
    # max() keeps the first of equals: reversed makes that the last one given
    return max(reversed(fitting), key=lambda rule: ranks.get(rule.metric, 1), default=None)


def _finding(figure: Figure, rule: Rule) -> Finding:
    """How much worse a figure is, held to what a rule allows; a figure that was lost fails."""
    worse, allowed = figure.worsening, _allowed(figure, rule)
    verdict, reason = Verdict.PASS, ""
    if worse is not None:
        if not worse <= allowed:  # `not <=` and no `>`: NaN must fail
            verdict, reason = Verdict.FAIL, f"{_both(figure)}: worse by {worse:.6g}, more than {rule} allows"
    elif figure.reason or figure.old is None:
        absent = "neither has a figure" if figure.new is None else "OLD has no figure"
        verdict, reason = Verdict.SKIPPED, figure.reason or absent
    else:
        verdict, reason = Verdict.FAIL, f"was {figure.old:.6g} {figure.unit}, and NEW has no figure"
    return Finding(
        name=figure.name,
        artifact=figure.artifact,
        unit=figure.unit,
        actual=worse if worse is not None and math.isfinite(worse) else None,
        limit=allowed if math.isfinite(allowed) else None,
        verdict=verdict,
        reason=reason,
        runtime=figure.runtime,
        device=figure.device,
    )


def _allowed(figure: Figure, rule: Rule) -> float:
    """The tolerance in the figure's unit. A share is of the old value; for parity of its limit, where that is more.

    An error a thousandth of what is allowed may double: between two runs that is rounding.
    """
    if not rule.relative:
        return rule.tolerance
    base = abs(figure.old or 0.0)
    if not figure.budget and figure.limit is not None:
        base = max(base, abs(figure.limit))
    return rule.tolerance * base


def _both(figure: Figure) -> str:
    return f"{figure.old:.6g} to {figure.new:.6g} {figure.unit}"


def _skip(rule: Rule) -> Finding:
    """A rule that is about nothing is told, for it would pass whatever happened."""
    name = rule.metric or "regression"
    unit = BUDGET_UNITS.get(name) or (limits.metric(name).unit if rule.metric else "1")
    return Finding(
        name=name,
        artifact="*",
        unit=unit,
        actual=None,
        limit=None,
        verdict=Verdict.SKIPPED,
        reason=f"no artifact of both manifests has such a figure, so {rule} holds nothing",
    )
