"""What can be read off a w8a8 file without running it: steps too coarse to show a face, floats, and empty weights.

A score is the sigmoid of face minus background logit, whose slope is at most 1/4, so one 8-bit step of a logit moves it
by at most a quarter of the step. One step of a box offset moves an edge by `max(v0, v1 / 2)` steps of the prior's side,
at the prior's own size, and one of a landmark offset a coordinate by `v0` steps (SSD, Liu et al. 2016, eq. 2, with
variances v0, v1). A tensor in input pixels is held against the smallest prior.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from facex.calibration.heads import ROLES
from facex.parity.judge import finding, unmeasured
from facex.parity.limits import LINTS, limit_for
from facex.types import Contract, FileFacts, Finding, HeadTensor, HeadUnit, Limit, Precision, QuantizationFacts, Verdict

SIGMOID_SLOPE = 0.25
STEPS = {"score_step": "margin", "box_step": "box", "landmark_step": "landmarks"}
"""Metric -> what the head tensors behind it give."""
NAMED = 3
"""Tensors that a reason names before it counts the rest."""

NO_CONTRACT = "not measured: the file records no contract, so the priors and variances are not known"


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A value, or None, and what to name: the culprits where it fails, the reason where there is none."""

    value: float | None
    words: str


def lint(
    artifact: str,
    precision: Precision,
    facts: FileFacts,
    contract: Contract | None,
    overrides: Sequence[Limit] = (),
) -> tuple[Finding, ...]:
    """Findings about the integers of a w8a8 file; none for any other precision.

    Args:
        artifact: file name of the artifact.
        precision: of the artifact.
        facts: what the file says of itself.
        contract: of the detector, or None where nobody knows it.
        overrides: the user's limits.

    Raises:
        UsageError: an override is not a limit (`facex.parity.limits.checked`).
    """
    if precision is not Precision.W8A8:
        return ()
    found = facts.quantization
    measured = _without_integers(facts) if found is None else _measured(found, facts, contract)
    asked = found is not None and len(facts.float_islands) > found.unasked_floats
    return tuple(
        _judged(name, artifact, measured[name], _limit(name, precision, overrides, floats_asked=asked))
        for name in LINTS
    )


def _limit(name: str, precision: Precision, overrides: Sequence[Limit], *, floats_asked: bool) -> float | None:
    """The limit of a metric; operators that were left in float on purpose need their requantizations."""
    overridden = any(limit.metric == name and limit.precision in (None, precision) for limit in overrides)
    if name == "requantizations" and floats_asked and not overridden:
        return None
    return limit_for(name, precision, overrides)


def _judged(name: str, artifact: str, measured: _Measured, limit: float | None) -> Finding:
    if measured.value is None:
        return unmeasured(name, artifact, limit, measured.words)
    judged = finding(name, artifact, measured.value, limit)
    if judged.verdict is Verdict.PASS:
        return judged
    reason = f"{judged.reason}: {measured.words}" if math.isfinite(measured.value) else measured.words
    return dataclasses.replace(judged, reason=reason)


def _without_integers(facts: FileFacts) -> dict[str, _Measured]:
    """A file without 8-bit activations: every multiply-accumulate that it is known to have runs in float."""
    reason = "not measured: the file has no 8-bit activation that facex can read"
    found = dict.fromkeys(LINTS, _Measured(value=None, words=reason))
    if facts.macs and not facts.integer_macs:
        found["float_islands"] = _Measured(value=math.inf, words="nothing in the file runs on integers")
    return found


def _measured(found: QuantizationFacts, facts: FileFacts, contract: Contract | None) -> dict[str, _Measured]:
    islands = _listed([island.name for island in facts.float_islands])
    return {
        **{name: _step(role, found.head_tensors, contract) for name, role in STEPS.items()},
        "float_islands": _Measured(value=float(found.unasked_floats), words=islands),
        "requantizations": _Measured(value=float(len(found.requantizations)), words=_listed(found.requantizations)),
        "constant_weights": _Measured(value=float(len(found.constant_weights)), words=_listed(found.constant_weights)),
    }


def _step(role: str, tensors: Sequence[HeadTensor], contract: Contract | None) -> _Measured:
    """The coarsest step of the head tensors of a role."""
    steps = {}
    for tensor in tensors:
        if ROLES[tensor.output] == role:
            factor = _factor(tensor, role, contract)
            if factor is None:
                return _Measured(value=None, words=NO_CONTRACT)
            steps[tensor.name] = tensor.step * factor
    if not steps:
        outputs = " or ".join(output for output, what in ROLES.items() if what == role)
        return _Measured(value=None, words=f"not measured: no 8-bit tensor of the head leads to {outputs}")
    coarsest = max(steps, key=lambda name: steps[name])
    return _Measured(value=steps[coarsest], words=f"tensor '{coarsest}'")


def _factor(tensor: HeadTensor, role: str, contract: Contract | None) -> float | None:
    """Score, or share of the prior's side, per unit of a head tensor; None where that needs a contract."""
    if role == "margin":
        return SIGMOID_SLOPE if tensor.unit is HeadUnit.LOGIT else 1.0
    if contract is None:
        return None
    if tensor.unit is HeadUnit.PIXEL:
        return 1.0 / min(side for sides in contract.min_sizes for side in sides)
    centre, size = contract.variances
    return max(centre, size / 2) if role == "box" else centre


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED]) + more
